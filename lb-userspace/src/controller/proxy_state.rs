//! What the proxy plane should serve. Pure.

use std::collections::{BTreeMap, HashMap};

use super::desired::{Fold, Judged};
use super::placement::Placement;
use crate::config::Config;
use crate::data_plane::proxy::{ProxyService, ProxyState};
use crate::model::{Member, Protocol};

/// The state of every service that is placed on the proxy plane.
pub fn desire(config: &Config, fold: &Fold, placements: &BTreeMap<String, Placement>) -> ProxyState {
    let mut state = ProxyState::default();
    let pools: HashMap<_, _> = config.pools.iter().map(|pool| (pool.name.as_str(), pool)).collect();
    let proxied = |name: &str| placements.get(name).is_some_and(Placement::is_proxy);
    for service in config.services.iter().filter(|service| proxied(&service.name)) {
        let Some(pool) = pools.get(service.pool.as_str()) else { continue };
        let judged = fold.of(&pool.name);
        let entry = ProxyService {
            name: service.name.clone(),
            pool: pool.name.clone(),
            scheduler: pool.scheduler,
            affinity: service.affinity,
            table_size: pool.table_size,
            members: judged.iter().map(|judged| member(judged, service.protocol)).collect(),
            connect_timeout: service.timeouts.half_open,
            idle_timeout: service.timeouts.idle(service.protocol),
            closing_timeout: service.timeouts.closing,
        };
        state.services.extend(service.listens().map(|listen| (listen, entry.clone())));
    }
    state
}

fn member(judged: &Judged, protocol: Protocol) -> Member {
    Member { cut: judged.cut(protocol), ..judged.member }
}
