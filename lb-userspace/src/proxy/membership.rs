//! What the connections of one listen address may do at one moment: made once per change, shared by all
//! workers, never altered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::hash::{self, Seed};
use tokio::sync::watch;

use crate::data_plane::proxy::ProxyService;
use crate::maglev::{self, MaglevError};
use crate::model::{Cut, Listen, Scheduler};

use super::counters::Counters;
use super::schedule::Table;

/// A service's settings, backends and Maglev table.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) listen: Listen,
    pub(super) service: ProxyService,
    /// One for each of the service's members, in the same order.
    pub(super) backends: Vec<Arc<Backend>>,
    /// `None` where the scheduler needs none.
    pub(super) table: Option<Arc<Table>>,
}

/// What a connection needs of its backend.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    pub(super) counters: Counters,
    /// Which connections to it are reset.
    cut: watch::Sender<Cut>,
}

impl Backend {
    fn new(address: SocketAddr, counters: Counters) -> Self {
        Self { address, counters, cut: watch::Sender::new(Cut::NONE) }
    }

    /// For a new connection: which of them are reset together.
    pub(super) fn rank() -> u8 {
        rand::random_range(0..Cut::RANKS)
    }

    /// Whether a connection of this rank is to be reset.
    pub(super) fn takes(&self, rank: u8) -> bool {
        self.cut.borrow().takes(rank)
    }

    /// Waits until a connection of this rank is to be reset.
    pub(super) fn cut(&self, rank: u8) -> impl Future<Output = ()> + 'static {
        let mut cut = self.cut.subscribe();
        async move {
            // The backend is held by whoever waits, so the sender is.
            let _ = cut.wait_for(|cut| cut.takes(rank)).await;
        }
    }

    /// Resets more connections, or lets those stay that are left.
    pub(super) fn set_cut(&self, cut: Cut) {
        self.cut.send_if_modified(|old| {
            let is_new = *old != cut && !old.is_all();
            if is_new {
                *old = cut;
            }
            is_new
        });
    }

    fn is_cut(&self) -> bool {
        self.cut.borrow().is_all()
    }
}

impl Membership {
    /// Follows `old` (nobody, at first): backends that were there keep their counters, and their connections
    /// unless these are cut.
    pub(super) fn new(
        old: &[Arc<Backend>],
        listen: Listen,
        service: &ProxyService,
        seed: Seed,
        workers: usize,
    ) -> Result<Self, MaglevError> {
        let old: HashMap<_, _> = old.iter().map(|backend| (backend.address, backend)).collect();
        let backends = service.members.iter().map(|member| match old.get(&member.address) {
            Some(same) if !member.cut.is_all() && !same.is_cut() => Arc::clone(same),
            other => {
                let counters = other.map_or_else(|| Counters::new(workers), |same| same.counters.clone());
                Arc::new(Backend::new(member.address, counters))
            }
        });
        let table = match service.scheduler {
            Scheduler::RoundRobin => None,
            Scheduler::Maglev => {
                let weights: Vec<_> =
                    service.members.iter().map(|member| (member.address, member.weight)).collect();
                let slots = maglev::build(&weights, service.table_size)?;
                Some(Arc::new(Table { slots, listen, affinity: service.affinity, key: hash::key(seed) }))
            }
        };
        Ok(Self { listen, backends: backends.collect(), service: service.clone(), table })
    }

    /// Cuts the connections of `old` that must not go on under `self`.
    pub(super) fn cut_leavers(&self, old: &[Arc<Backend>]) {
        let cuts: HashMap<_, _> =
            self.service.members.iter().map(|member| (member.address, member.cut)).collect();
        for backend in old {
            backend.set_cut(cuts.get(&backend.address).copied().unwrap_or(Cut::ALL));
        }
    }
}
