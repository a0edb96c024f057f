//! Adaptive weights: what the planes count is taken to [`Followers`], and their factors to the pools.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Controller;
use crate::controller::weights::{Carried, Followers, Taking};
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::KernelCounters;
use crate::data_plane::proxy::{ProxyPlane, ProxyTraffic};
use crate::health::{Observation, Role};
use crate::model::{Pool, Weights};

/// Between two steps.
const STEP: Duration = Duration::from_secs(1);

/// The followers with what they need from one step to the next.
#[derive(Debug)]
pub(super) struct Follow {
    followers: Followers,
    due: Instant,
    /// What the proxy plane had counted at the last step, by pool and backend.
    proxied: BTreeMap<(String, SocketAddr), ProxyTraffic>,
}

impl Follow {
    pub(super) fn new(now: Instant) -> Self {
        Self { followers: Followers::default(), due: now + STEP, proxied: BTreeMap::new() }
    }

    /// Takes in how long a check took, and what an agent says of its load.
    pub(super) fn observe(&mut self, observation: &Observation, now: Instant) {
        let Observation { pool, address, role, check, report, .. } = observation;
        if let Some(load) = report.load {
            self.followers.reported(pool, *address, f64::from(load), now);
        }
        if check.ok && *role == Role::Check {
            let took = Duration::try_from_secs_f64(check.took_ms / 1000.0).unwrap_or_default();
            self.followers.answered(pool, *address, took, now);
        }
    }
}

impl<P: ProxyPlane + 'static> Controller<P> {
    /// When the next step is due; none where no pool follows its load.
    pub(super) fn next_step(&self) -> Option<Instant> {
        self.adaptive().next().map(|_| self.follow.due)
    }

    fn adaptive(&self) -> impl Iterator<Item = &Pool> {
        self.config.pools.iter().filter(|pool| pool.weights != Weights::Static)
    }

    /// Makes a step where one is due; whether the planes have to be reconciled.
    pub(super) async fn follow(&mut self, now: Instant) -> bool {
        if self.next_step().is_none_or(|due| due > now) {
            return false;
        }
        self.follow.due = now + STEP;
        match self.try_follow(now).await {
            Ok(moved) => moved,
            Err(error) => {
                tracing::error!(object = error.object, "weights do not follow: {}", error.reason);
                false
            }
        }
    }

    async fn try_follow(&mut self, now: Instant) -> Result<bool, PlaneError> {
        let counters = match &mut self.kernel {
            Ok(kernel) => {
                let backends: Vec<_> = kernel.confirmed.applied.backends.keys().copied().collect();
                kernel.call(move |tables, _| tables.counters(&[], &backends)).await??
            }
            Err(_) => KernelCounters::default(),
        };
        let proxied = self.proxied();
        let mut moved = false;
        let pools: Vec<Pool> = self.adaptive().cloned().collect();
        for pool in &pools {
            let taking = self.taking(pool, &counters, &proxied);
            self.connected(&pool.name, &taking, &proxied, now);
            let factors = self.follow.followers.step(pool, &taking, now);
            moved |= self.pools.set_factors(&pool.name, &factors);
        }
        self.follow.followers.retain(|name| pools.iter().any(|pool| pool.name == name));
        self.follow.proxied = proxied;
        Ok(moved)
    }

    /// The backends of a pool that take new flows.
    fn taking(
        &self,
        pool: &Pool,
        counters: &KernelCounters,
        proxied: &BTreeMap<(String, SocketAddr), ProxyTraffic>,
    ) -> Vec<Taking> {
        let judged = self.fold.of(&pool.name).iter();
        let taking = judged.filter(|judged| judged.member.weight > 0);
        let carried = |address| {
            let mut carried = Carried::default();
            let kernel = self.kernel.iter();
            let ids = kernel.flat_map(|kernel| kernel.identities.of(address));
            for traffic in ids.filter_map(|id| counters.backends.get(&id.index())) {
                carried.packets += traffic.packets;
                carried.new_flows += traffic.new_flows;
            }
            if let Some(traffic) = proxied.get(&(pool.name.clone(), address)) {
                carried.packets += traffic.packets;
                carried.new_flows += traffic.new_connections;
            }
            carried
        };
        taking
            .map(|judged| Taking {
                address: judged.member.address,
                weight: u32::from(judged.whole_weight),
                carried: carried(judged.member.address),
            })
            .collect()
    }

    /// What the proxy plane has counted by pool and backend, over all listen addresses.
    fn proxied(&self) -> BTreeMap<(String, SocketAddr), ProxyTraffic> {
        let traffic = self.proxy.traffic();
        let mut proxied: BTreeMap<_, ProxyTraffic> = BTreeMap::new();
        for service in &self.config.services {
            let backends = service.listens().filter_map(|listen| traffic.get(&listen)).flat_map(|(_, by)| by);
            for (address, traffic) in backends {
                let sum = proxied.entry((service.pool.clone(), *address)).or_default();
                sum.packets += traffic.packets;
                sum.new_connections += traffic.new_connections;
                sum.connecting += traffic.connecting;
            }
        }
        proxied
    }

    /// Tells the followers how long the proxy's connections took since the last step.
    fn connected(
        &mut self,
        pool: &str,
        taking: &[Taking],
        proxied: &BTreeMap<(String, SocketAddr), ProxyTraffic>,
        now: Instant,
    ) {
        for address in taking.iter().map(|backend| backend.address) {
            let key = (pool.to_owned(), address);
            let Some(new) = proxied.get(&key) else { continue };
            let old = self.follow.proxied.get(&key).copied().unwrap_or_default();
            let opened = new.new_connections.saturating_sub(old.new_connections);
            let Ok(opened @ 1..) = u32::try_from(opened) else { continue };
            let took = new.connecting.saturating_sub(old.connecting) / opened;
            if took.is_zero() {
                // UDP opens nothing.
                continue;
            }
            self.follow.followers.answered(pool, address, took, now);
        }
    }
}
