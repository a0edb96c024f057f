//! From the applied state to the desired one: an ordered list of actions, as data. Pure.
//!
//! The order keeps the maps valid after every action (see [`may_apply`]), so a daemon that dies between two
//! of them leaves a working data path behind, and a failed action holds back only what builds on it.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use lb_common::service::VIP_MARKER;
use lb_common::{Backend, BackendId, Service, Slot};

use super::slots;
use crate::data_plane::kernel::{KernelAction, KernelState, Slots};
use crate::data_plane::proxy::{ProxyAction, ProxyState};
use crate::model::Listen;

/// The actions that lead from `applied` to `desired`; none where they are equal.
///
/// What others point to comes first and goes last: backends, tables, endpoints, services. A table that
/// services use already is swapped after its new endpoints are there, so that the first reply is translated.
/// Backends are retired at the very end, when no slot names them.
pub fn plan(applied: &KernelState, desired: &KernelState) -> Vec<KernelAction> {
    let mut actions = Vec::new();
    let added = desired.local.difference(&applied.local);
    actions.extend(added.map(|address| KernelAction::PutLocal { address: *address }));
    let removed = applied.local.difference(&desired.local);
    actions.extend(removed.map(|address| KernelAction::RemoveLocal { address: *address }));
    for (prefix, hop) in changed(&applied.routes, &desired.routes) {
        actions.push(KernelAction::PutRoute { prefix: *prefix, hop: *hop });
    }
    for prefix in missing(&applied.routes, &desired.routes) {
        actions.push(KernelAction::RemoveRoute { prefix: *prefix });
    }

    for (index, backend) in changed(&applied.backends, &desired.backends) {
        actions.push(KernelAction::PutBackend { index: *index, backend: *backend });
    }
    let (in_use, new): (Vec<_>, Vec<_>) =
        changed(&applied.tables, &desired.tables).partition(|(table, _)| applied.tables.contains_key(table));
    let swap =
        |(table, slots): (&u32, &Slots)| KernelAction::SwapTable { table: *table, slots: slots.clone() };
    actions.extend(new.into_iter().map(swap));
    for (key, endpoint) in changed(&applied.endpoints, &desired.endpoints) {
        actions.push(KernelAction::PutEndpoint { key: *key, endpoint: *endpoint });
    }
    actions.extend(in_use.into_iter().map(swap));
    for (key, service) in changed(&applied.services, &desired.services) {
        actions.push(KernelAction::PutService { key: *key, service: *service });
    }

    // Who finds the VIP finds its service, and the other way round nobody looks for what is gone.
    for (station, hop) in changed(&applied.stations, &desired.stations) {
        actions.push(KernelAction::PutStation { station: *station, hop: *hop });
    }
    for station in missing(&applied.stations, &desired.stations) {
        actions.push(KernelAction::RemoveStation { station: *station });
    }

    // Backwards: a VIP's marker is its first key and goes last.
    let mut services: Vec<_> = missing(&applied.services, &desired.services).collect();
    services.reverse();
    actions.extend(services.into_iter().map(|key| KernelAction::RemoveService { key: *key }));
    for key in missing(&applied.endpoints, &desired.endpoints) {
        actions.push(KernelAction::RemoveEndpoint { key: *key });
    }
    for table in missing(&applied.tables, &desired.tables) {
        actions.push(KernelAction::DropTable { table: *table });
    }
    for index in missing(&applied.backends, &desired.backends) {
        actions.push(KernelAction::PutBackend { index: *index, backend: Backend::default() });
    }
    actions
}

/// Whether everything that `action` builds on is there, and nothing builds on what it takes away. True for
/// every action of a [`plan`] when all before it have been applied.
pub fn may_apply(applied: &KernelState, action: &KernelAction) -> bool {
    match action {
        KernelAction::PutBackend { index, backend } => {
            let old = applied.backends.get(index).map_or(BackendId::NONE, |old| old.id);
            old == backend.id || !old.is_some() || !is_named(applied, old)
        }
        KernelAction::SwapTable { table, slots } => {
            slots::named(slots).into_iter().all(|id| lives(applied, id))
                && (!is_used(applied, *table) || have_endpoints(applied, slots))
        }
        KernelAction::PutEndpoint { endpoint, .. } => {
            lives(applied, endpoint.backend) && has_table(applied, &endpoint.service)
        }
        KernelAction::PutService { service, .. } => {
            let slots = applied.tables.get(&service.table);
            service.flags & VIP_MARKER != 0
                || has_table(applied, service) && slots.is_some_and(|slots| have_endpoints(applied, slots))
        }
        KernelAction::DropTable { table } => {
            let services = applied.services.values().filter(|service| service.flags & VIP_MARKER == 0);
            let endpoints = applied.endpoints.values().map(|endpoint| &endpoint.service);
            services.chain(endpoints).all(|service| service.table != *table)
        }
        KernelAction::RemoveEndpoint { key } => {
            applied.endpoints.get(key).is_none_or(|endpoint| !is_served(applied, endpoint.backend))
        }
        KernelAction::RemoveService { .. }
        | KernelAction::PutLocal { .. }
        | KernelAction::RemoveLocal { .. }
        | KernelAction::PutRoute { .. }
        | KernelAction::RemoveRoute { .. }
        | KernelAction::PutStation { .. }
        | KernelAction::RemoveStation { .. } => true,
    }
}

/// The proxy's actions in two parts: those that begin to serve, and those that stop. A service that moves
/// between the planes is served by both in between, never by none.
pub fn plan_proxy(
    applied: &ProxyState,
    desired: &ProxyState,
    drain: Duration,
) -> (Vec<ProxyAction>, Vec<ProxyAction>) {
    let serve = changed(&applied.services, &desired.services)
        .map(|(listen, service)| {
            let (listen, service) = (*listen, service.clone());
            if applied.services.contains_key(&listen) {
                ProxyAction::Update { listen, service }
            } else {
                ProxyAction::Listen { listen, service }
            }
        })
        .collect();
    let stop = missing(&applied.services, &desired.services)
        .map(|listen: &Listen| ProxyAction::Close { listen: *listen, drain })
        .collect();
    (serve, stop)
}

/// Entries of `desired` that are new or different. Both maps are walked side by side: looking up each of a hundred
/// thousand would take longer than all the rest of a plan.
pub(super) fn changed<'a, K: Ord, V: PartialEq>(
    applied: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let mut applied = applied.iter().peekable();
    desired.iter().filter(move |(key, value)| {
        while applied.next_if(|(old, _)| old < key).is_some() {}
        applied.next_if(|(old, _)| old == key).is_none_or(|(_, old)| old != *value)
    })
}

/// Keys of `applied` that `desired` has not.
pub(super) fn missing<'a, K: Ord, V>(
    applied: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let mut desired = desired.keys().peekable();
    applied.keys().filter(move |key| {
        while desired.next_if(|new| new < key).is_some() {}
        desired.next_if(|new| new == key).is_none()
    })
}

fn lives(state: &KernelState, id: BackendId) -> bool {
    state.backends.get(&id.index()).is_some_and(|backend| backend.id == id)
}

fn has_table(state: &KernelState, service: &Service) -> bool {
    state.tables.get(&service.table).is_some_and(|slots| slots.len() == service.slots as usize)
}

fn is_named(state: &KernelState, id: BackendId) -> bool {
    state.endpoints.values().any(|endpoint| endpoint.backend == id)
        || state.tables.values().any(|slots| slots::named(slots).contains(&id))
}

/// Whether replies of every backend that new flows go to would be translated.
fn have_endpoints(state: &KernelState, slots: &[Slot]) -> bool {
    let endpoints: HashSet<_> = state.endpoints.values().map(|endpoint| endpoint.backend).collect();
    slots.iter().map(|slot| slot.current()).all(|id| !id.is_some() || endpoints.contains(&id))
}

/// Whether a service sends packets by this table.
fn is_used(state: &KernelState, table: u32) -> bool {
    state.services.values().any(|service| service.flags & VIP_MARKER == 0 && service.table == table)
}

/// Whether a service may still send packets to this backend.
fn is_served(state: &KernelState, id: BackendId) -> bool {
    let names = |slots: &[Slot]| slots::named(slots).contains(&id);
    state.tables.iter().any(|(table, slots)| names(slots) && is_used(state, *table))
}
