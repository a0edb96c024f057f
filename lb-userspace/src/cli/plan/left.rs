//! A config beside what an earlier daemon has left in the kernel. Who is up and which slots would move is seen by `run`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lb_common::service::VIP_MARKER;
use lb_common::{Endpoint, SocketKey};

use crate::cli::Failure;
use crate::config::Config;
use crate::controller::kernel_state::pools_by_listen;
use crate::kernel::{self, Left, Settings, object};
use crate::model::plan::{BackendPlan, Fate, Flows, Plan, PoolPlan, ServicePlan};
use crate::model::{Pool, Service};

/// What is there, if anything; without the object nobody can tell.
///
/// # Errors
/// A daemon with this config would refuse it, or there is no right to look.
pub(super) fn look(config: &Config) -> Result<Option<Left>, Failure> {
    let Some(object) = object::object() else { return Ok(None) };
    Ok(kernel::left(&Settings::of(config, object))?)
}

/// What the config adds to it and takes from it. Pure.
pub(super) fn compare(config: &Config, left: &Left) -> Plan {
    let added = config.services.iter().filter_map(|service| come(service, left));
    let wanted: BTreeSet<_> = config.services.iter().flat_map(keys).collect();
    let gone = left
        .state
        .services
        .iter()
        .filter(|(key, service)| service.flags & VIP_MARKER == 0 && !wanted.contains(*key));
    let gone = gone.map(|(key, service)| ServicePlan {
        name: format!("on {}", key.socket()),
        fate: Fate::Removed,
        before: None,
        after: None,
        reason: String::new(),
        flows: Some(Flows {
            known: left.by_service.get(&service.id.index()).copied().unwrap_or(0),
            exact: service.tracks_always(),
        }),
    });
    let services = added.chain(gone).collect();
    let pools = config.pools.iter().filter_map(|pool| members(pool, config, left)).collect();
    Plan { running: false, left: true, changes: Vec::new(), services, pools }
}

fn keys(service: &Service) -> impl Iterator<Item = SocketKey> + '_ {
    service.listens().map(|listen| SocketKey::new(listen.address, listen.protocol.number()))
}

/// A service of which an address is new.
fn come(service: &Service, left: &Left) -> Option<ServicePlan> {
    let is_there = |key: &SocketKey| left.state.services.contains_key(key);
    let new: Vec<_> =
        keys(service).filter(|key| !is_there(key)).map(|key| key.socket().to_string()).collect();
    let fate = if keys(service).any(|key| is_there(&key)) { Fate::Changed } else { Fate::Added };
    (!new.is_empty()).then(|| ServicePlan {
        name: service.name.clone(),
        fate,
        before: None,
        after: None,
        reason: format!("{} is new; the plane is chosen at the start", new.join(", ")),
        flows: None,
    })
}

/// A pool whose backends are not those that are there.
fn members(pool: &Pool, config: &Config, left: &Left) -> Option<PoolPlan> {
    let pools = pools_by_listen(config);
    let after: BTreeSet<SocketAddr> = pool.backends.iter().map(|backend| backend.address).collect();
    // Where the listen address is gone, the backend's own tells.
    let is_own = |key: &SocketKey, endpoint: &Endpoint| {
        pools.get(&endpoint.vip).map_or(after.contains(&key.socket()), |name| *name == pool.name)
    };
    let own: Vec<_> = left.state.endpoints.iter().filter(|(key, endpoint)| is_own(key, endpoint)).collect();
    let before: BTreeSet<SocketAddr> = own.iter().map(|(key, _)| key.socket()).collect();
    let added = pool.backends.iter().filter(|backend| !before.contains(&backend.address));
    let added = added.map(|backend| BackendPlan {
        address: backend.address,
        fate: Fate::Added,
        before: None,
        after: Some(backend.weight),
        flows: None,
    });
    let gone = before.difference(&after).map(|address| {
        let ids =
            own.iter().filter(|(key, _)| key.socket() == *address).map(|(_, endpoint)| endpoint.backend);
        let known = ids.filter_map(|id| left.by_backend.get(&id)).sum();
        let flows = Some(Flows { known, exact: false });
        BackendPlan { address: *address, fate: Fate::Removed, before: None, after: None, flows }
    });
    let backends: Vec<_> = added.chain(gone).collect();
    (!backends.is_empty()).then(|| PoolPlan {
        name: pool.name.clone(),
        fate: if own.is_empty() { Fate::Added } else { Fate::Changed },
        backends,
        slots: None,
        moved: None,
        moved_when_up: None,
    })
}
