//! Who is who in the maps: ids that stay the same as long as anything may name them. Pure.
//!
//! A backend keeps its id through weight changes, drains, hiccups and reloads. When its flows are cut, the id
//! is *retired*, and the backend comes back under the next generation of the same index: what the flow
//! tables still hold of the old id then counts as absent. All of it is recovered from what the maps hold.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use lb_common::service::VIP_MARKER;
use lb_common::{BackendId, Service, ServiceId, SocketKey, limits};

use crate::data_plane::kernel::{KernelState, Sweep};
use crate::model::Protocol;

/// The kernel's maps have no room for another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no room for another {what}: {limit} are in use (hint: remove some, or use another balancer for them{more})",
    more = if *what == "backend" { "; or raise kernel.backends, which needs `sluice cleanup`" } else { "" }
)]
pub struct Exhausted {
    /// `backend`, `service` or `table`.
    pub what: &'static str,
    /// How many there may be.
    pub limit: u32,
}

/// An id that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<Id> {
    /// The id.
    pub id: Id,
    /// Whether its index counted for another object before: its traffic counters have to be cleared.
    pub clear: bool,
}

#[derive(Clone, Debug)]
struct Held {
    id: BackendId,
    /// `None`: adopted, and no pool has claimed it yet.
    pool: Option<String>,
    retired: bool,
}

/// Ids of backends, by endpoint: a backend that serves TCP and UDP has two, since it loses the flows of the
/// one at another time than those of the other.
#[derive(Clone, Debug, Default)]
pub struct BackendIds {
    held: HashMap<SocketKey, Held>,
    /// Those of `held` that are not retired.
    live: HashSet<BackendId>,
    /// The last id of each index that was ever given out.
    last: BTreeMap<u32, BackendId>,
    free: BTreeSet<u32>,
    /// Retired ones whose endpoint no pool knows any more, until that is confirmed.
    leaving: BTreeSet<SocketKey>,
    /// How many there may be.
    limit: u32,
}

impl BackendIds {
    /// Takes over the ids of a previous daemon; `pools` tells which pool a listen address leads to now, `limit` how
    /// many backends there may be.
    pub fn adopt(applied: &KernelState, pools: &BTreeMap<SocketKey, &str>, limit: u32) -> Self {
        let owners: BTreeMap<_, _> = applied
            .endpoints
            .values()
            .filter_map(|endpoint| Some((endpoint.backend, (*pools.get(&endpoint.vip)?).to_owned())))
            .collect();
        let mut ids = Self { limit, ..Self::default() };
        for (index, backend) in &applied.backends {
            let endpoint = backend.endpoint();
            let held = Held { id: backend.id, pool: owners.get(&backend.id).cloned(), retired: false };
            ids.last.insert(*index, backend.id);
            // Two ids of one endpoint are the remains of damage. The one that replies are translated for
            // stays; the other is named by nobody's wish and goes.
            if held.pool.is_some() || !ids.held.contains_key(&endpoint) {
                ids.held.insert(endpoint, held);
            }
        }
        ids.live = ids.held.values().map(|held| held.id).collect();
        let end = applied.backends.last_key_value().map_or(1, |(index, _)| *index);
        ids.free = (1..end).filter(|index| !applied.backends.contains_key(index)).collect();
        ids
    }

    /// The id under which an endpoint takes part, if it has one.
    pub fn get(&self, endpoint: &SocketKey) -> Option<BackendId> {
        self.held.get(endpoint).filter(|held| !held.retired).map(|held| held.id)
    }

    /// The id under which an endpoint takes part in `pool`, if it has one.
    pub fn owned(&self, endpoint: &SocketKey, pool: &str) -> Option<BackendId> {
        let held = self.held.get(endpoint).filter(|held| !held.retired)?;
        held.pool.as_deref().is_none_or(|owner| owner == pool).then_some(held.id)
    }

    /// Whether an endpoint takes part in `pool`.
    pub fn has(&self, endpoint: &SocketKey, pool: &str) -> bool {
        self.held.get(endpoint).is_some_and(|held| !held.retired && held.pool.as_deref() == Some(pool))
    }

    /// The id of an endpoint as a backend of `pool`; given out if need be.
    ///
    /// `Ok(None)`: the retirement of the old id has to be confirmed first (`applied` still holds it).
    /// `named` are ids that slots or flow entries may still name.
    pub fn claim(
        &mut self,
        endpoint: SocketKey,
        pool: &str,
        applied: &KernelState,
        named: &BTreeSet<BackendId>,
    ) -> Result<Option<Claim<BackendId>>, Exhausted> {
        if let Some(held) = self.held.get_mut(&endpoint) {
            held.pool.get_or_insert_with(|| pool.to_owned());
            if !held.retired {
                return Ok(Some(Claim { id: held.id, clear: false }));
            }
            let index = held.id.index();
            if applied.backends.contains_key(&index) {
                return Ok(None);
            }
            if let Some(id) = unnamed(held.id.next_generation(), named) {
                *held = Held { id, pool: Some(pool.to_owned()), retired: false };
                self.live.insert(id);
                self.last.insert(index, id);
                return Ok(Some(Claim { id, clear: false }));
            }
        }
        let id = self.fresh(applied, named).ok_or(Exhausted { what: "backend", limit: self.limit })?;
        self.last.insert(id.index(), id);
        self.live.insert(id);
        self.held.insert(endpoint, Held { id, pool: Some(pool.to_owned()), retired: false });
        Ok(Some(Claim { id, clear: true }))
    }

    fn fresh(&mut self, applied: &KernelState, named: &BTreeSet<BackendId>) -> Option<BackendId> {
        let next = |index| {
            let first = self.last.get(&index).map_or(BackendId::new(index, 0), |id| id.next_generation());
            if applied.backends.contains_key(&index) { None } else { unnamed(first, named) }
        };
        let reused = self.free.iter().find_map(|index| next(*index));
        if let Some(id) = reused {
            self.free.remove(&id.index());
            return Some(id);
        }
        let beyond = self.last.last_key_value().map_or(1, |(index, _)| index + 1);
        (beyond..limits::backend_entries(self.limit)).find_map(|index| {
            let id = next(index);
            if id.is_none() {
                self.free.insert(index);
            }
            id
        })
    }

    /// Retires every id whose endpoint is not kept by the pool that it was given out for.
    pub fn retire<'p>(&mut self, keeper: impl Fn(&SocketKey) -> Option<&'p str>) {
        let endpoints: Vec<_> = self.held.keys().copied().collect();
        self.retire_some(&endpoints, keeper);
    }

    /// As [`Self::retire`], of these endpoints.
    pub fn retire_some<'p, 'e>(
        &mut self,
        endpoints: impl IntoIterator<Item = &'e SocketKey>,
        keeper: impl Fn(&SocketKey) -> Option<&'p str>,
    ) {
        for endpoint in endpoints {
            let Some(held) = self.held.get_mut(endpoint) else { continue };
            let pool = keeper(endpoint);
            held.retired |= pool.is_none_or(|pool| held.pool.as_deref().is_some_and(|owner| owner != pool));
            if held.retired {
                self.live.remove(&held.id);
                self.leaving.insert(*endpoint);
            }
        }
    }

    /// Frees the indexes of retired endpoints that no pool knows any more, once their retirement is confirmed.
    pub fn release(&mut self, is_known: impl Fn(&SocketKey) -> bool, applied: &KernelState) {
        self.leaving.retain(|endpoint| {
            let Some(held) = self.held.get(endpoint).filter(|held| held.retired) else { return false };
            let index = held.id.index();
            if is_known(endpoint) {
                return false;
            }
            if applied.backends.contains_key(&index) {
                return true;
            }
            self.held.remove(endpoint);
            self.free.insert(index);
            false
        });
    }

    /// Whether an id may be used.
    pub fn lives(&self, id: BackendId) -> bool {
        self.live.contains(&id)
    }
}

/// The first generation from `id` on that nothing names; `None` where all 2048 are named.
fn unnamed(id: BackendId, named: &BTreeSet<BackendId>) -> Option<BackendId> {
    std::iter::successors(Some(id), |id| Some(id.next_generation()))
        .take(1 << 11)
        .find(|id| !named.contains(id))
}

/// Ids of services, by listen address. Index 0 stays with the VIP markers.
#[derive(Clone, Debug, Default)]
pub struct ServiceIds {
    held: BTreeMap<SocketKey, ServiceId>,
    last: BTreeMap<u32, ServiceId>,
}

impl ServiceIds {
    /// Takes over the ids of a previous daemon.
    pub fn adopt(applied: &KernelState) -> Self {
        let services = applied.services.iter().filter(|(_, service)| service.flags & VIP_MARKER == 0);
        let held: BTreeMap<_, _> = services.map(|(key, service)| (*key, service.id)).collect();
        let last = held.values().map(|id| (id.index(), *id)).collect();
        Self { held, last }
    }

    /// The id of the service at `key`; given out if need be. Indexes that entries of `sweep` name and whose
    /// last generation is not known are avoided.
    pub fn claim(&mut self, key: SocketKey, sweep: &Sweep) -> Result<Claim<ServiceId>, Exhausted> {
        if let Some(id) = self.held.get(&key) {
            return Ok(Claim { id: *id, clear: false });
        }
        let in_use: BTreeSet<_> = self.held.values().map(|id| id.index()).collect();
        let index = (1..limits::SERVICES)
            .find(|index| {
                let known = self.last.contains_key(index) || !sweep.by_service.contains_key(index);
                known && !in_use.contains(index)
            })
            .ok_or(Exhausted { what: "service", limit: limits::SERVICES })?;
        let generation = self.last.get(&index).map_or(0, |id| id.generation().wrapping_add(1));
        let id = ServiceId::new(index, generation);
        self.held.insert(key, id);
        self.last.insert(index, id);
        Ok(Claim { id, clear: true })
    }

    /// Forgets services that are neither wanted nor applied.
    pub fn release(&mut self, wanted: &BTreeSet<SocketKey>, applied: &KernelState) {
        self.held.retain(|key, _| wanted.contains(key) || applied.services.contains_key(key));
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The part of a pool's traffic that has a Maglev table of its own: NAT keeps the family, and the windows of
/// a change are longer for TCP than for UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// The family of the VIPs and of the backends.
    pub family: Family,
    /// The transport.
    pub protocol: Protocol,
}

impl Part {
    /// Every part that a pool can have.
    pub const ALL: [Self; 4] = [
        Self { family: Family::V4, protocol: Protocol::Tcp },
        Self { family: Family::V4, protocol: Protocol::Udp },
        Self { family: Family::V6, protocol: Protocol::Tcp },
        Self { family: Family::V6, protocol: Protocol::Udp },
    ];

    /// The part that the service at `key` belongs to.
    pub fn of(key: &SocketKey) -> Option<Self> {
        Some(Self { family: Family::of(key.address.ip()), protocol: Protocol::of(key.protocol)? })
    }
}

/// Numbers of Maglev tables, by pool and part.
#[derive(Clone, Debug, Default)]
pub struct TableNumbers {
    held: BTreeMap<(String, Part), u32>,
}

impl TableNumbers {
    /// Takes over the tables of a previous daemon that are there; `pools` tells which pool a listen address leads to now.
    pub fn adopt(
        services: &BTreeMap<SocketKey, Service>,
        is_there: impl Fn(u32) -> bool,
        pools: &BTreeMap<SocketKey, &str>,
    ) -> Self {
        let mut held = BTreeMap::new();
        for (key, service) in services.iter().filter(|(_, service)| service.flags & VIP_MARKER == 0) {
            if let (Some(pool), Some(part)) = (pools.get(key), Part::of(key))
                && is_there(service.table)
                && !held.values().any(|number| *number == service.table)
            {
                held.entry(((*pool).to_owned(), part)).or_insert(service.table);
            }
        }
        Self { held }
    }

    /// The number of a table of `pool`; given out if need be.
    pub fn claim(&mut self, pool: &str, part: Part, applied: &KernelState) -> Result<u32, Exhausted> {
        if let Some(number) = self.get(pool, part) {
            return Ok(number);
        }
        let in_use: BTreeSet<_> = self.held.values().chain(applied.tables.keys()).collect();
        let number = (0..limits::TABLES)
            .find(|number| !in_use.contains(number))
            .ok_or(Exhausted { what: "table", limit: limits::TABLES })?;
        self.held.insert((pool.to_owned(), part), number);
        Ok(number)
    }

    /// The number of a table of `pool`, if it has one.
    pub fn get(&self, pool: &str, part: Part) -> Option<u32> {
        self.held.get(&(pool.to_owned(), part)).copied()
    }

    /// Forgets tables that are neither wanted nor applied.
    pub fn release(&mut self, wanted: &BTreeSet<u32>, applied: &KernelState) {
        self.held.retain(|_, number| wanted.contains(number) || applied.tables.contains_key(number));
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use lb_common::Backend;

    const WEB: &str = "web";
    const LIMIT: u32 = 1024;

    fn ids() -> BackendIds {
        BackendIds::adopt(&KernelState::default(), &BTreeMap::new(), LIMIT)
    }

    fn endpoint(last: u8) -> SocketKey {
        SocketKey::new(SocketAddr::from(([10, 0, 0, last], 80)), Protocol::Tcp.number())
    }

    fn applied(ids: &[(u8, BackendId)]) -> KernelState {
        let entry = |(last, id): &(u8, BackendId)| {
            let SocketKey { address, port, protocol } = endpoint(*last);
            (id.index(), Backend { address, port, protocol, id: *id, ..Backend::default() })
        };
        KernelState { backends: ids.iter().map(entry).collect(), ..KernelState::default() }
    }

    fn claim(
        ids: &mut BackendIds,
        last: u8,
        applied: &KernelState,
        named: &[BackendId],
    ) -> Option<BackendId> {
        let named = named.iter().copied().collect();
        ids.claim(endpoint(last), WEB, applied, &named).unwrap().map(|claim| claim.id)
    }

    #[test]
    fn a_retired_id_comes_back_as_the_next_generation_once_that_is_confirmed() {
        let mut ids = ids();
        let empty = KernelState::default();
        let id = claim(&mut ids, 1, &empty, &[]).unwrap();
        assert_eq!(id, BackendId::new(1, 0), "index 0 stays unused");
        assert_eq!(claim(&mut ids, 1, &empty, &[]), Some(id));
        ids.retire(|_| None);
        assert_eq!(ids.get(&endpoint(1)), None);
        assert_eq!(claim(&mut ids, 1, &applied(&[(1, id)]), &[]), None, "the maps still have it");
        assert_eq!(claim(&mut ids, 1, &empty, &[]), Some(BackendId::new(1, 1)));
    }

    #[test]
    fn generations_that_something_names_are_skipped() {
        let mut ids = ids();
        let empty = KernelState::default();
        let named = [BackendId::new(1, 0), BackendId::new(1, 1)];
        assert_eq!(claim(&mut ids, 1, &empty, &named), Some(BackendId::new(1, 2)));
    }

    #[test]
    fn a_freed_index_is_used_again_under_another_generation() {
        let mut ids = ids();
        let empty = KernelState::default();
        let id = claim(&mut ids, 1, &empty, &[]).unwrap();
        ids.retire(|_| None);
        ids.release(|_| false, &applied(&[(1, id)]));
        assert_eq!(claim(&mut ids, 2, &applied(&[(1, id)]), &[]), Some(BackendId::new(2, 0)));
        ids.release(|known| *known == endpoint(2), &empty);
        assert_eq!(claim(&mut ids, 3, &empty, &[]), Some(BackendId::new(1, 1)));
    }

    #[test]
    fn adopted_ids_stay_and_gaps_are_filled() {
        let id = BackendId::new(3, 7);
        let state = applied(&[(1, id)]);
        let mut ids = BackendIds::adopt(&state, &BTreeMap::new(), LIMIT);
        assert_eq!(ids.get(&endpoint(1)), Some(id));
        assert_eq!(claim(&mut ids, 1, &state, &[]), Some(id));
        let others: Vec<_> = (2..5).map(|last| claim(&mut ids, last, &state, &[]).unwrap().index()).collect();
        assert_eq!(others, [1, 2, 4]);
    }

    #[test]
    fn too_many_backends_are_told() {
        let mut ids = ids();
        let empty = KernelState::default();
        for number in 1..=LIMIT {
            let address = SocketAddr::from(([10, 1, (number >> 8) as u8, number as u8], 80));
            let endpoint = SocketKey::new(address, Protocol::Tcp.number());
            ids.claim(endpoint, WEB, &empty, &BTreeSet::new()).unwrap();
        }
        let error = ids.claim(endpoint(1), WEB, &empty, &BTreeSet::new()).unwrap_err();
        assert!(error.to_string().contains("another backend"), "{error}");
    }
}
