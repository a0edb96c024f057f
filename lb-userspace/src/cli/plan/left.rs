//! A config beside what an earlier daemon has left in the kernel: what the next start makes of it. Which plane that chooses,
//! and who answers its first checks, is seen by `run`; until then those count as up that new flows go to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lb_common::service::{VIP_MARKER, VIP_PING};
use lb_common::{Endpoint, Service as Entry, SocketKey};

use crate::cli::Failure;
use crate::config::{Config, PlaneChoice};
use crate::controller::adoption;
use crate::controller::apply::Confirmed;
use crate::controller::desired::{Clock, Fold, Pools};
use crate::controller::ids::Part;
use crate::controller::kernel_state::{Identities, pools_by_listen};
use crate::controller::placement::{self, Host, Placement};
use crate::controller::preview::{Kernel, Side, Tables, present};
use crate::data_plane::kernel::{KernelState, Slots};
use crate::kernel::{self, Left, Settings, object};
use crate::model::plan::{BackendPlan, Fate, Flows, Plan, PoolPlan, ServicePlan};
use crate::model::status::InterfacePlane;
use crate::model::{Override, Plane, Pool, Service};
use crate::network::Facts;

use super::entries;

/// What is there, if anything; without the object nobody can tell.
///
/// # Errors
/// A daemon with this config would refuse it, or there is no right to look.
pub(super) fn look(config: &Config) -> Result<Option<Left>, Failure> {
    let Some(object) = object::object() else { return Ok(None) };
    Ok(kernel::left(&Settings::of(config, object))?)
}

/// What the config changes of it, and of what was changed at run time. Pure.
pub(super) fn compare(config: &Config, left: &Left, overrides: &[Override], clock: Clock) -> Plan {
    let confirmed = Confirmed::adopt(left.state.clone(), left.now);
    let identities = Identities::adopt(&confirmed.applied, config);
    let mut pools = Pools::new(config, clock.process);
    for kept in pools.restore(overrides, clock) {
        pools.readd(kept, clock);
    }
    adoption::adopt(&mut pools, config, &confirmed, &identities, clock.process);
    let mut up = pools.clone();
    for (pool, address) in pools.unjudged() {
        up.assume_up(&pool, address);
        if adoption::takes_new(&confirmed, &identities, &pool, address).unwrap_or(true) {
            pools.assume_up(&pool, address);
        }
    }
    let (fold, up) = (pools.fold(clock.process), up.fold(clock.process));
    let placements = place(config, &fold);
    let facts = Facts::default();
    let kernel = Kernel { confirmed: &confirmed, identities: &identities, sweep: &left.sweep, facts: &facts };
    let side = |fold| Side { config, fold, placements: &placements };
    let next = Next {
        config,
        left,
        overrides,
        placements: &placements,
        kernel,
        fold: &fold,
        at_once: kernel.tables(side(&fold)),
        up: kernel.tables(side(&up)),
        state: kernel.desired(side(&fold)).0,
    };
    Plan {
        running: false,
        left: true,
        changes: next.changes(),
        services: next.services(),
        pools: config.pools.iter().filter_map(|pool| next.pool(pool)).collect(),
    }
}

/// As if a kernel plane were attached: nobody knows before the start.
fn place(config: &Config, fold: &Fold) -> BTreeMap<String, Placement> {
    let plane = InterfacePlane { interface: String::new(), plane: Some(Plane::Tc), reason: String::new() };
    let is_off = config.kernel.strictest() == PlaneChoice::Off;
    let without_kernel = is_off.then_some("kernel.plane = \"off\"");
    placement::place(config, fold, Host { without_kernel, planes: &[plane], local: &BTreeSet::new() })
}

/// What the next start would make of what is there.
struct Next<'a> {
    config: &'a Config,
    left: &'a Left,
    overrides: &'a [Override],
    placements: &'a BTreeMap<String, Placement>,
    kernel: Kernel<'a>,
    fold: &'a Fold,
    at_once: Tables,
    /// With every new backend up.
    up: Tables,
    state: KernelState,
}

fn keys(service: &Service) -> impl Iterator<Item = SocketKey> + '_ {
    service.listens().map(|listen| SocketKey::new(listen.address, listen.protocol.number()))
}

impl Next<'_> {
    /// A line for each setting that pinned entries show, and that the config has another value of.
    fn changes(&self) -> Vec<String> {
        let pings = |state: &KernelState| {
            let mut markers = state.services.values().filter(|entry| entry.flags & VIP_MARKER != 0);
            markers.next().map(|marker| marker.flags & VIP_PING != 0)
        };
        let mut changes = Vec::new();
        if let (Some(before), Some(after)) = (pings(&self.left.state), pings(&self.state))
            && before != after
        {
            changes.push(format!("kernel: ping {before} -> {after}"));
        }
        let services = self.config.services.iter();
        changes.extend(services.flat_map(|service| self.differences(service)));
        changes
    }

    fn differences(&self, service: &Service) -> Vec<String> {
        let both = |key: SocketKey| Some((self.pinned(&key)?, self.state.services.get(&key)?));
        let Some((before, after)) = keys(service).find_map(both) else { return Vec::new() };
        let differences = entries::differences(service.protocol, before, after);
        differences.into_iter().map(|change| format!("service {:?}: {change}", service.name)).collect()
    }

    fn pinned(&self, key: &SocketKey) -> Option<&Entry> {
        self.left.state.services.get(key)
    }

    fn services(&self) -> Vec<ServicePlan> {
        let stay = self.config.services.iter().filter_map(|service| self.service(service));
        let wanted: BTreeSet<_> = self.config.services.iter().flat_map(keys).collect();
        let pinned = self.left.state.services.iter();
        let gone = pinned.filter(|(key, entry)| entry.flags & VIP_MARKER == 0 && !wanted.contains(*key));
        let gone = gone.map(|(key, _)| ServicePlan {
            name: format!("on {}", key.socket()),
            fate: Fate::Removed,
            before: None,
            after: None,
            reason: String::new(),
            flows: Some(self.flows(&mut [*key].into_iter())),
        });
        stay.chain(gone).collect()
    }

    /// A service of which an address is new, or that pinned entries serve in another way.
    fn service(&self, service: &Service) -> Option<ServicePlan> {
        let is_there = |key: &SocketKey| self.pinned(key).is_some();
        let new: Vec<_> =
            keys(service).filter(|key| !is_there(key)).map(|key| key.socket().to_string()).collect();
        let fate = if keys(service).any(|key| is_there(&key)) { Fate::Changed } else { Fate::Added };
        let plan = |reason, flows| {
            let name = service.name.clone();
            Some(ServicePlan { name, fate, before: None, after: None, reason, flows })
        };
        match self.placements.get(&service.name) {
            Some(placement) if fate == Fate::Changed && !placement.is_kernel() => {
                plan(placement.reason().to_owned(), Some(self.flows(&mut keys(service))))
            }
            _ if !new.is_empty() => {
                plan(format!("{} is new; the plane is chosen at the start", new.join(", ")), None)
            }
            _ if !self.differences(service).is_empty() => plan(String::new(), None),
            _ => None,
        }
    }

    /// What is known of the flows of these entries.
    fn flows(&self, keys: &mut dyn Iterator<Item = SocketKey>) -> Flows {
        let mut flows = Flows { known: 0, exact: true };
        for entry in keys.filter_map(|key| self.pinned(&key).copied()) {
            flows.known += self.left.sweep.by_service.get(&entry.id.index()).copied().unwrap_or(0);
            flows.exact &= entry.tracks_always();
        }
        flows
    }

    /// A pool of which a backend or a slot is not as it is there.
    fn pool(&self, pool: &Pool) -> Option<PoolPlan> {
        let pools = pools_by_listen(self.config);
        let after: BTreeMap<SocketAddr, u16> = present(self.fold, &pool.name)
            .into_iter()
            .map(|(address, judged)| (address, judged.weight))
            .collect();
        // Where the listen address is gone, the backend's own tells.
        let is_own = |key: &SocketKey, endpoint: &Endpoint| {
            pools.get(&endpoint.vip).map_or(after.contains_key(&key.socket()), |name| *name == pool.name)
        };
        let endpoints = self.left.state.endpoints.iter();
        let own: Vec<_> = endpoints.filter(|(key, endpoint)| is_own(key, endpoint)).collect();
        let before: BTreeSet<SocketAddr> = own.iter().map(|(key, _)| key.socket()).collect();
        let plan = |address, fate, slots, flows| BackendPlan {
            address,
            fate,
            before: None,
            after: after.get(&address).copied(),
            slots,
            flows,
        };
        let mut backends: Vec<_> = after
            .keys()
            .filter(|address| !before.contains(*address))
            .map(|address| plan(*address, Fate::Added, None, None))
            .collect();
        let is_leaving = |address: SocketAddr| {
            let kept = |kept: &&Override| kept.pool == pool.name && kept.address == address;
            self.overrides.iter().find(kept).is_some_and(|kept| kept.removed)
        };
        for address in before.iter().copied().filter(|address| !after.contains_key(address)) {
            if is_leaving(address) {
                continue;
            }
            let ids = own.iter().filter(|(key, _)| key.socket() == address);
            let known = ids.filter_map(|(_, endpoint)| self.left.sweep.by_backend.get(&endpoint.backend));
            let flows = Flows { known: known.sum(), exact: false };
            backends.push(plan(address, Fate::Removed, None, Some(flows)));
        }
        let stay: Vec<_> = before.iter().copied().filter(|address| after.contains_key(address)).collect();
        let shares = self.shares(&pool.name, &stay).into_iter();
        backends.extend(shares.map(|(address, slots)| plan(address, Fate::Changed, Some(slots), None)));
        let ((slots, moved), (_, later)) =
            (self.kernel.moved(&pool.name, &self.at_once), self.kernel.moved(&pool.name, &self.up));
        (!backends.is_empty() || moved + later > 0).then(|| PoolPlan {
            name: pool.name.clone(),
            fate: if own.is_empty() { Fate::Added } else { Fate::Changed },
            backends,
            slots: Some(slots),
            moved: Some(moved),
            moved_when_up: Some(later),
        })
    }

    /// Of the backends that stay, those whose part of the slots is another one, with their slots before and after.
    fn shares(&self, pool: &str, stay: &[SocketAddr]) -> Vec<(SocketAddr, (u64, u64))> {
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        let count = |slots: Option<&Slots>, counts: &mut BTreeMap<u32, u64>| {
            for slot in slots.into_iter().flat_map(|slots| slots.iter()) {
                *counts.entry(slot.current().index()).or_default() += 1;
            }
        };
        for part in Part::ALL {
            let Some(number) = self.kernel.identities.table(pool, part) else { continue };
            let Some(then) = self.at_once.get(&(pool.to_owned(), part)) else { continue };
            count(self.left.state.tables.get(&number), &mut before);
            count(Some(then), &mut after);
        }
        let of = |counts: &BTreeMap<u32, u64>, address: SocketAddr| -> u64 {
            let indexes: BTreeSet<_> = self.kernel.identities.of(address).map(|id| id.index()).collect();
            indexes.iter().filter_map(|index| counts.get(index)).sum()
        };
        let slots: Vec<_> =
            stay.iter().map(|address| (*address, (of(&before, *address), of(&after, *address)))).collect();
        entries::uneven(slots)
    }
}
