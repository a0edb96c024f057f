//! What clients meet at the backends of pools that eject: gathered from both planes once in a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Controller;
use crate::controller::outlier::Attempts;
use crate::data_plane::PlaneError;
use crate::data_plane::proxy::ProxyPlane;
use crate::model::Protocol;

/// Between two looks.
const WATCH: Duration = Duration::from_secs(1);

impl<P: ProxyPlane + 'static> Controller<P> {
    /// Looks if it is time to; whether anybody was ejected or let back.
    pub(super) async fn watch_clients(&mut self, now: Instant) -> bool {
        if self.watch > now {
            return false;
        }
        self.watch = now + WATCH;
        match self.attempts().await {
            Ok(attempts) => self.pools.watch(&attempts, now),
            Err(error) => {
                tracing::error!(object = error.object, "cannot see what clients meet: {}", error.reason);
                false
            }
        }
    }

    /// What there was so far of connections to the backends of the watched pools. Of UDP nobody can tell.
    async fn attempts(&mut self) -> Result<BTreeMap<String, BTreeMap<SocketAddr, Attempts>>, PlaneError> {
        let mut attempts: BTreeMap<String, BTreeMap<SocketAddr, Attempts>> = BTreeMap::new();
        for (pool, backends) in self.pools.watched() {
            let backends = backends.map(|backend| (backend, Attempts::default()));
            attempts.insert(pool.to_owned(), backends.collect());
        }
        if attempts.is_empty() {
            return Ok(attempts);
        }
        if let Ok(kernel) = &mut self.kernel {
            let indexes = |backend: &SocketAddr| kernel.identities.of(*backend).map(|id| id.index());
            let all: Vec<u32> = attempts.values().flat_map(BTreeMap::keys).flat_map(indexes).collect();
            let handshakes = kernel.call(move |tables, _| tables.counters(&[], &all)).await??.handshakes;
            for (backend, sum) in attempts.values_mut().flatten() {
                let ids = kernel.identities.of(*backend);
                for found in ids.filter_map(|id| handshakes.get(&id.index())) {
                    let (begun, answered, refused) = (found.syns, found.accepted, found.refused);
                    *sum = *sum + Attempts { begun, answered, refused };
                }
            }
        }
        let traffic = self.proxy.traffic();
        let services = self.config.services.iter().filter(|service| service.protocol == Protocol::Tcp);
        for service in services {
            let Some(backends) = attempts.get_mut(&service.pool) else { continue };
            let found = service.listens().filter_map(|listen| traffic.get(&listen));
            for (backend, found) in found.flat_map(|(_, found)| found) {
                let Some(sum) = backends.get_mut(backend) else { continue };
                let begun = found.new_connections + found.failures;
                let (answered, refused) =
                    (found.new_connections, found.failures - found.timeouts.min(found.failures));
                *sum = *sum + Attempts { begun, answered, refused };
            }
        }
        Ok(attempts)
    }
}
