//! What the proxy plane should serve. Pure.

use std::collections::BTreeMap;

use super::desired::Fold;
use super::placement::Placement;
use crate::config::Config;
use crate::data_plane::proxy::{ProxyService, ProxyState};

/// The state of every service that is placed on the proxy plane.
pub fn desire(config: &Config, fold: &Fold, placements: &BTreeMap<String, Placement>) -> ProxyState {
    let mut state = ProxyState::default();
    let proxied = |name: &str| placements.get(name).is_some_and(Placement::is_proxy);
    for service in config.services.iter().filter(|service| proxied(&service.name)) {
        let Some(pool) = config.pools.iter().find(|pool| pool.name == service.pool) else { continue };
        let judged = fold.get(&pool.name).map(Vec::as_slice).unwrap_or_default();
        let entry = ProxyService {
            name: service.name.clone(),
            pool: pool.name.clone(),
            scheduler: pool.scheduler,
            affinity: service.affinity,
            table_size: pool.table_size,
            members: judged.iter().map(|judged| judged.member).collect(),
            connect_timeout: service.timeouts.half_open,
            idle_timeout: service.timeouts.established,
            closing_timeout: service.timeouts.closing,
        };
        state.services.extend(service.listen.iter().map(|listen| (*listen, entry.clone())));
    }
    state
}
