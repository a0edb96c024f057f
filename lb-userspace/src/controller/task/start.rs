//! How the controller begins: it takes over what a previous daemon left, and waits for the first health
//! checks before it touches anything. Until a backend has been checked, its last state counts.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lb_common::service::VIP_MARKER;
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::chores::Chores;
use super::follow::Follow;
use super::inputs::{Channels, Inputs};
use super::keep::clock;
use super::planes::{Kernel, Proxy};
use super::{Controller, now};
use crate::config::{Config, Interfaces};
use crate::controller::adoption;
use crate::controller::apply::Confirmed;
use crate::controller::damper::Damper;
use crate::controller::desired::{Fold, Pools};
use crate::controller::kernel_state::Identities;
use crate::controller::newcomers::Newcomers;
use crate::controller::placement::Placement;
use crate::controller::table_sizes::{TableSize, TableSizes};
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::{KernelState, KernelTables};
use crate::data_plane::proxy::ProxyPlane;
use crate::model::status::InterfacePlane;
use crate::network::Facts;

/// Why the controller cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The maps cannot be read.
    #[error(transparent)]
    Plane(#[from] PlaneError),
    /// The size of a table is fixed while flows depend on it.
    #[error(transparent)]
    TableSize(#[from] TableSize),
    /// A service that only the kernel planes may serve.
    #[error("service {service:?}: {reason} (hint: write fallback = \"proxy\")")]
    Refused {
        /// The service.
        service: String,
        /// Why the kernel planes cannot.
        reason: String,
    },
}

/// How long a start waits for first verdicts, beyond the longest check; and for next hops.
const PATIENCE: Duration = Duration::from_secs(1);

impl<P: ProxyPlane + 'static> Controller<P> {
    /// Reads the maps back and takes over what is in them; changes nothing yet. Blocks for as long as that
    /// takes. Needs a tokio runtime.
    pub fn new(inputs: Inputs<P>) -> Result<Self, StartError> {
        let now = now();
        let mut pools = Pools::new(&inputs.config, now);
        let kernel = match inputs.kernel {
            Ok(tables) => Ok(adopt(tables, &inputs.config)?),
            Err(reason) => Err(reason),
        };
        let channels = Channels {
            read_config: inputs.read_config,
            parse_config: inputs.parse_config,
            planes: inputs.planes,
            seed: inputs.seed,
            facts: inputs.facts,
            observations: inputs.observations,
            requests: inputs.requests,
            file: inputs.kept.file,
            saved: inputs.kept.saved,
            about: inputs.about,
            outputs: inputs.outputs,
        };
        let mut controller = Self {
            in_force: watch::Sender::new(inputs.config.clone()),
            config: inputs.config,
            fold: pools.fold(now),
            folded_at: now,
            pools,
            clock: clock(),
            lost: inputs.kept.problem.into_iter().collect(),
            placements: [].into(),
            grounds: None,
            kernel,
            proxy: Proxy::new(inputs.proxy),
            channels,
            chores: Chores::new(now),
            follow: Follow::new(now),
            watch: now,
            retry: None,
            damper: Damper::default(),
            newcomers: Newcomers::default(),
        };
        controller.placements = controller.place(&controller.config, &controller.fold);
        let refused = controller.placements.iter().find_map(|(service, placement)| match placement {
            Placement::Refused { reason } => Some((service.clone(), reason.clone())),
            _ => None,
        });
        if let Some((service, reason)) = refused {
            return Err(StartError::Refused { service, reason });
        }
        controller.restore(&inputs.kept.overrides);
        controller.adopt_backends(now);
        let fold = controller.pools.fold(now);
        controller.place_again(&fold);
        controller.fold = fold;
        controller.announce();
        Ok(controller)
    }

    /// Takes over what the maps say of backends.
    fn adopt_backends(&mut self, now: Instant) {
        let Ok(kernel) = &self.kernel else {
            self.pools.dismiss(now, |_, _| false);
            return;
        };
        adoption::adopt(&mut self.pools, &self.config, &kernel.confirmed, &kernel.identities, now);
    }

    /// Waits for what the first plan needs.
    pub(super) async fn first_look(&mut self) {
        self.first_verdicts().await;
        self.first_hops().await;
    }

    /// Waits until every backend that takes new flows has a next hop: its neighbour may be resolved already, but
    /// the facts say so a moment later, and the first packets would be dropped.
    async fn first_hops(&mut self) {
        let fold = self.pools.fold(now());
        let taking = self.takers(&fold);
        self.resolve(&taking, PATIENCE).await;
    }

    /// The backends that take new flows of the kernel planes.
    pub(super) fn takers(&self, fold: &Fold) -> Vec<IpAddr> {
        let served = self
            .config
            .services
            .iter()
            .filter(|service| self.placements.get(&service.name).is_some_and(Placement::is_kernel));
        let judged = served.flat_map(|service| fold.of(&service.pool));
        let taking = judged.map(|judged| judged.member).filter(|member| member.weight > 0);
        taking.map(|member| member.address.ip()).collect()
    }

    /// Waits until there is a way to these backends; not longer than `patience`: one that cannot be reached must not keep
    /// the others from being served.
    pub(super) async fn resolve(&mut self, backends: &[IpAddr], patience: Duration) {
        // Clones: what changes meanwhile is still to be reconciled.
        let (mut facts, mut planes) = (self.channels.facts.clone(), self.channels.planes.clone());
        let interfaces = &self.config.kernel.interfaces;
        let all = async {
            while !backends.iter().all(|ip| has_way(*ip, interfaces, &facts.borrow(), &planes.borrow())) {
                let changed = tokio::select! {
                    changed = facts.changed() => changed,
                    changed = planes.changed() => changed,
                };
                if changed.is_err() {
                    break;
                }
            }
        };
        let _ = timeout_at((now() + patience).into(), all).await;
    }

    /// Waits until every backend has been checked once, or had the time for it; what is unknown then counts
    /// as it was: a backend that new flows went to is up, one that they did not is not. In pools of which
    /// nothing is known all are.
    async fn first_verdicts(&mut self) {
        let deadline = now() + self.pools.longest_check() + PATIENCE;
        // Nobody is judged by less than a check: until there were as many it is not looked who is left.
        'wait: while let left @ 1.. = self.pools.unjudged().len() {
            let mut checks = 0;
            while checks < left {
                match timeout_at(deadline.into(), self.channels.observations.recv()).await {
                    Ok(Some(observation)) => checks += self.observe(observation).checks,
                    Ok(None) | Err(_) => break 'wait,
                }
            }
        }
        for (pool, address) in self.pools.unjudged() {
            if self.was_up(&pool, address) {
                self.pools.assume_up(&pool, address);
            }
        }
    }

    fn was_up(&self, pool: &str, address: SocketAddr) -> bool {
        let known =
            |kernel: &Kernel| adoption::takes_new(&kernel.confirmed, &kernel.identities, pool, address);
        self.kernel.as_ref().ok().and_then(known).unwrap_or(true)
    }
}

/// Whether a backend has a next hop, and where `auto` chooses the interfaces its own has been chosen: without a program there
/// the first replies would leave as they came.
pub(super) fn has_way(
    backend: IpAddr,
    interfaces: &Interfaces,
    facts: &Facts,
    planes: &[InterfacePlane],
) -> bool {
    let Some(hop) = facts.hops.get(&backend) else { return false };
    let is_chosen = |name: &str| planes.iter().any(|known| known.interface == name);
    matches!(interfaces, Interfaces::List(_))
        || facts.links.get(&hop.ifindex).is_none_or(|link| is_chosen(&link.name))
}

fn adopt(mut tables: Box<dyn KernelTables>, config: &Config) -> Result<Kernel, StartError> {
    let confirmed = Confirmed::adopt(tables.read_back(&KernelState::default())?, tables.now());
    let sizes = confirmed.applied.tables.iter().map(|(table, slots)| (*table, slots.len() as u32)).collect();
    TableSizes::of(config).check(&confirmed.applied.services, &sizes)?;
    let identities = Identities::adopt(&confirmed.applied, config);
    // Ids that only flow entries name must not be given out again.
    let sweep = tables.sweep(tables.now())?;
    if !confirmed.applied.services.is_empty() {
        tracing::info!(
            services =
                confirmed.applied.services.values().filter(|service| service.flags & VIP_MARKER == 0).count(),
            backends = confirmed.applied.backends.len(),
            flows = sweep.flows + sweep.half_open,
            "took over the kernel planes of a previous daemon"
        );
    }
    Ok(Kernel::new(tables, confirmed, identities, sweep))
}
