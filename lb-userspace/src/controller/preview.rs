//! What another config would change, worked out on copies of what the controller knows. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lb_common::SocketKey;

use super::apply::Confirmed;
use super::desired::{Fold, Judged};
use super::ids::Part;
use super::kernel_state::Identities;
use super::placement::Placement;
use crate::config::{self, Config};
use crate::data_plane::kernel::{KernelState, Slots, Sweep};
use crate::data_plane::proxy::ProxyCounters;
use crate::model::plan::{BackendPlan, Fate, Flows, Plan, PoolPlan, ServicePlan};
use crate::model::{Plane, Service};
use crate::network::Facts;

/// One of the two sides of a comparison.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The config.
    pub config: &'a Config,
    /// Its pools.
    pub fold: &'a Fold,
    /// Where its services are served.
    pub placements: &'a BTreeMap<String, Placement>,
}

/// What is known of the planes.
pub struct View<'a> {
    /// In force.
    pub before: Side<'a>,
    /// The other config's, as it would be in the first moment.
    pub after: Side<'a>,
    /// Its pools with every new backend up.
    pub up: &'a Fold,
    /// Where there are kernel planes.
    pub kernel: Option<Kernel<'a>>,
    /// Of the proxy plane.
    pub traffic: &'a ProxyCounters,
}

/// The kernel planes' part of a [`View`].
#[derive(Clone, Copy)]
pub struct Kernel<'a> {
    /// What stands in the maps.
    pub confirmed: &'a Confirmed,
    /// Who is who there.
    pub identities: &'a Identities,
    /// The last sweep.
    pub sweep: &'a Sweep,
    /// Of the network.
    pub facts: &'a Facts,
}

/// Compares.
pub fn preview(view: &View<'_>) -> Plan {
    let at_once = view.kernel.map(|kernel| kernel.tables(view.after)).unwrap_or_default();
    let up =
        view.kernel.map(|kernel| kernel.tables(Side { fold: view.up, ..view.after })).unwrap_or_default();
    Plan {
        running: true,
        left: false,
        changes: config::changes(view.before.config, view.after.config),
        services: services(view),
        pools: names(view.before.config, view.after.config)
            .into_iter()
            .filter_map(|name| pool(view, name, &at_once, &up))
            .collect(),
    }
}

/// The tables by pool and part.
pub type Tables = BTreeMap<(String, Part), Slots>;

impl Kernel<'_> {
    /// What a side would have in the maps, everything applied, and who is who there.
    pub fn desired(&self, side: Side<'_>) -> (KernelState, Identities) {
        let is_kernel =
            |service: &&Service| side.placements.get(&service.name).is_some_and(Placement::is_kernel);
        let served: Vec<_> = side.config.services.iter().filter(is_kernel).collect();
        let (mut identities, mut confirmed) = (self.identities.clone(), self.confirmed.clone());
        identities.unsettle();
        // As `reconcile` does: a backend that comes back gets its new id in a second round.
        let mut state = KernelState::default();
        for _ in 0..2 {
            let desired =
                identities.desire(side.config, side.fold, &served, self.facts, &confirmed, self.sweep);
            state = desired.state;
            if !desired.incomplete {
                break;
            }
            confirmed = Confirmed::adopt(state.clone(), 0);
        }
        (state, identities)
    }

    /// The tables that a side would have.
    pub fn tables(&self, side: Side<'_>) -> Tables {
        let (state, identities) = self.desired(side);
        let pools = side.config.pools.iter();
        let parts = pools.flat_map(|pool| Part::ALL.map(|part| (pool.name.clone(), part)));
        let slots = |(pool, part): (String, Part)| {
            let slots = state.tables.get(&identities.table(&pool, part)?)?;
            Some(((pool, part), slots.clone()))
        };
        parts.filter_map(slots).collect()
    }

    /// The slots of a pool's tables now, and how many have another current backend in `tables`.
    pub fn moved(&self, pool: &str, tables: &Tables) -> (u64, u64) {
        let mut counts = (0, 0);
        for part in Part::ALL {
            let number = self.identities.table(pool, part);
            let now = number.and_then(|number| self.confirmed.applied.tables.get(&number));
            let (Some(now), Some(then)) = (now, tables.get(&(pool.to_owned(), part))) else { continue };
            counts.0 += now.len() as u64;
            let moved = now.iter().zip(then.iter()).filter(|(now, then)| now.current() != then.current());
            counts.1 += moved.count() as u64;
        }
        counts
    }
}

fn names<'c>(before: &'c Config, after: &'c Config) -> BTreeSet<&'c str> {
    before.pools.iter().chain(&after.pools).map(|pool| pool.name.as_str()).collect()
}

fn pool(view: &View<'_>, name: &str, at_once: &Tables, up: &Tables) -> Option<PoolPlan> {
    let is_in = |config: &Config| config.pools.iter().any(|pool| pool.name == name);
    let fate = match (is_in(view.before.config), is_in(view.after.config)) {
        (false, _) => Fate::Added,
        (true, false) => Fate::Removed,
        (true, true) => Fate::Changed,
    };
    let backends = backends(view, name);
    let counted = |tables| view.kernel.map(|kernel| kernel.moved(name, tables));
    let ((slots, moved), (_, later)) =
        (counted(at_once).unwrap_or_default(), counted(up).unwrap_or_default());
    let is_changed = fate != Fate::Changed || !backends.is_empty() || moved + later > 0;
    is_changed.then(|| PoolPlan {
        name: name.to_owned(),
        fate,
        backends,
        slots: Some(slots),
        moved: Some(moved),
        moved_when_up: Some(later),
    })
}

/// The backends of a pool that new flows may go to, by address.
pub fn present<'f>(fold: &'f Fold, pool: &str) -> BTreeMap<SocketAddr, &'f Judged> {
    let judged = fold.of(pool).iter().filter(|judged| judged.leaving.is_none());
    judged.map(|judged| (judged.member.address, judged)).collect()
}

fn backends(view: &View<'_>, pool: &str) -> Vec<BackendPlan> {
    let (before, after) = (present(view.before.fold, pool), present(view.after.fold, pool));
    let addresses: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let compared = addresses.into_iter().filter_map(|address| {
        let weight = |side: &BTreeMap<_, &Judged>| side.get(&address).map(|judged| judged.weight);
        let (before, after) = (weight(&before), weight(&after));
        let fate = match (before, after) {
            (None, _) => Fate::Added,
            (Some(_), None) => Fate::Removed,
            (Some(before), Some(after)) if before != after => Fate::Changed,
            (Some(_), Some(_)) => return None,
        };
        let flows = (fate == Fate::Removed).then(|| backend_flows(view, pool, address));
        Some(BackendPlan { address, fate, before, after, slots: None, flows })
    });
    compared.collect()
}

/// What is known of the flows of a backend.
fn backend_flows(view: &View<'_>, pool: &str, address: SocketAddr) -> Flows {
    let mut flows = Flows { known: 0, exact: true };
    if let Some(kernel) = view.kernel {
        for id in kernel.identities.of(address) {
            flows.known += kernel.sweep.by_backend.get(&id).copied().unwrap_or(0);
            // Those of stable slots have no entries.
            flows.exact = false;
        }
    }
    let services = view.before.config.services.iter().filter(|service| service.pool == pool);
    let proxied = services.flat_map(Service::listens).filter_map(|listen| {
        let (_, backends) = view.traffic.get(&listen)?;
        Some(backends.get(&address)?.connections)
    });
    flows.known += proxied.sum::<u64>();
    flows
}

fn services(view: &View<'_>) -> Vec<ServicePlan> {
    let Side { config: before, placements: placed, .. } = view.before;
    let Side { config: after, placements: to_be, .. } = view.after;
    let find = |config: &Config, name: &str| config.services.iter().find(|s| s.name == name).cloned();
    let names: BTreeSet<_> = before.services.iter().chain(&after.services).map(|s| s.name.as_str()).collect();
    let compared = names.into_iter().filter_map(|name| {
        let (old, new) = (find(before, name), find(after, name));
        let (from, to) = (placed.get(name), to_be.get(name));
        let fate = match (&old, &new) {
            (None, _) => Fate::Added,
            (Some(_), None) => Fate::Removed,
            (Some(old), Some(new)) if old != new || from.map(plane) != to.map(plane) => Fate::Changed,
            (Some(_), Some(_)) => return None,
        };
        let (from, to) = (from.and_then(plane), to.filter(|_| new.is_some()));
        let moves = from.is_some() && from != to.and_then(plane);
        Some(ServicePlan {
            name: name.to_owned(),
            fate,
            before: from,
            after: to.and_then(plane),
            reason: to.map(Placement::reason).unwrap_or_default().to_owned(),
            flows: old.filter(|_| moves).map(|service| service_flows(view, &service)),
        })
    });
    compared.collect()
}

const fn plane(placement: &Placement) -> Option<Plane> {
    match placement {
        Placement::Kernel { plane, .. } => Some(*plane),
        Placement::Proxy { .. } => Some(Plane::Proxy),
        Placement::Refused { .. } => None,
    }
}

/// What is known of the flows of a service.
fn service_flows(view: &View<'_>, service: &Service) -> Flows {
    let mut flows = Flows { known: 0, exact: true };
    for listen in service.listens() {
        let key = SocketKey::new(listen.address, listen.protocol.number());
        let kernel =
            view.kernel.and_then(|kernel| Some((kernel, kernel.confirmed.applied.services.get(&key)?)));
        if let Some((kernel, entry)) = kernel {
            flows.known += kernel.sweep.by_service.get(&entry.id.index()).copied().unwrap_or(0);
            flows.exact &= entry.tracks_always();
        }
        flows.known += view.traffic.get(&listen).map_or(0, |(traffic, _)| traffic.connections);
    }
    flows
}
