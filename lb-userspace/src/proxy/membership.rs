//! What the connections of one listen address may do at one moment: made once per change, shared by all
//! workers, never altered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::hash::Seed;
use tokio_util::sync::CancellationToken;

use crate::data_plane::proxy::ProxyService;
use crate::maglev::{self, MaglevError};
use crate::model::{Listen, Scheduler};

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
    /// Cancelled: every connection to it is reset.
    pub(super) cut: CancellationToken,
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
            Some(same) if member.keeps && !same.cut.is_cancelled() => Arc::clone(same),
            other => Arc::new(Backend {
                address: member.address,
                counters: other.map_or_else(|| Counters::new(workers), |same| same.counters.clone()),
                cut: CancellationToken::new(),
            }),
        });
        let table = match service.scheduler {
            Scheduler::RoundRobin => None,
            Scheduler::Maglev => {
                let weights: Vec<_> =
                    service.members.iter().map(|member| (member.address, member.weight)).collect();
                let slots = maglev::build(&weights, service.table_size)?;
                Some(Arc::new(Table { slots, listen, affinity: service.affinity, seed }))
            }
        };
        Ok(Self { listen, backends: backends.collect(), service: service.clone(), table })
    }

    /// Cuts the connections of `old` that must not go on under `self`.
    pub(super) fn cut_leavers(&self, old: &[Arc<Backend>]) {
        let keeps: HashMap<_, _> =
            self.service.members.iter().map(|member| (member.address, member.keeps)).collect();
        for backend in old.iter().filter(|backend| !keeps.get(&backend.address).is_some_and(|&keeps| keeps)) {
            backend.cut.cancel();
        }
    }
}
