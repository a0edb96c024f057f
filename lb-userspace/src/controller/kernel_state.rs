//! What should stand in the kernel planes' maps. No I/O: ids and tables are given out here, and everything
//! derives from them, the folded pools and the facts of the network.

mod settled;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::service::{SOURCE_AFFINITY, TRACK_ALWAYS, VIP_MARKER, VIP_PING, vip_of};
use lb_common::{Backend, BackendId, Endpoint, NextHop, Service, Slot, SocketKey, limits, ticks};

use super::apply::Confirmed;
use super::assignment::{Assignments, assign};
use super::desired::{Fold, Judged, Members};
use super::ids::{BackendIds, Family, Part, ServiceIds, TableNumbers};
use super::plan::plan;
use crate::config::Config;
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::{FlowCut, KernelAction, KernelState, Slots, Sweep};
use crate::model::{self, Affinity, Protocol, Tracking};
use crate::network::Facts;
use settled::{Piece, Scope, Settled};

/// Who is who in the maps.
#[derive(Clone, Debug, Default)]
pub struct Identities {
    backends: BackendIds,
    services: ServiceIds,
    tables: TableNumbers,
    assignments: Assignments,
    settled: Settled,
}

/// What should stand in the maps.
#[derive(Debug, Default)]
pub struct Desired {
    /// Everything that could be given an id; of backends and endpoints, those of tables that have to be looked at.
    pub state: KernelState,
    /// `None`: everything was looked at.
    scope: Option<Scope>,
    /// The tables that were looked at.
    pieces: BTreeMap<u32, Piece>,
    /// Service indexes whose counters belonged to another one.
    pub clear_services: Vec<u32>,
    /// Backend indexes whose counters belonged to another one.
    pub clear_backends: Vec<u32>,
    /// A backend waits for the retirement of its old id: once this state is applied, ask again.
    pub incomplete: bool,
    /// Idle time-out of each table, in ticks.
    pub idle: BTreeMap<u32, u32>,
    /// Flows with entries that may not stay, although their backend lives. For when the tables are in force.
    pub cuts: Vec<FlowCut>,
    /// What there was no room for.
    pub errors: Vec<PlaneError>,
}

/// One part of a pool that the kernel planes serve: a Maglev table.
struct Table<'a> {
    pool: &'a model::Pool,
    part: Part,
    /// Of the pool.
    members: Option<&'a Members>,
    /// Listen addresses that lead here; never empty.
    listens: Vec<(&'a model::Service, SocketAddr)>,
    number: u32,
    /// Of `listens`, as far as they could be given ids.
    entries: Vec<(SocketKey, Service)>,
}

impl Desired {
    /// What leads there; none where everything is applied.
    pub fn actions(&self, applied: &KernelState) -> Vec<KernelAction> {
        match &self.scope {
            Some(scope) => plan(&scope.of(applied, &self.state), &self.state),
            None => plan(applied, &self.state),
        }
    }
}

impl Table<'_> {
    /// The backends of the table's family.
    fn judged(&self) -> impl Iterator<Item = &Judged> {
        let judged = self.members.into_iter().flat_map(|members| members.iter());
        judged.filter(|judged| Family::of(judged.member.address.ip()) == self.part.family)
    }

    fn endpoints(&self) -> impl Iterator<Item = SocketKey> {
        self.judged().map(|judged| self.endpoint(judged.member.address))
    }

    /// The endpoint of a backend for this table's protocol.
    fn endpoint(&self, address: SocketAddr) -> SocketKey {
        SocketKey::new(address, self.part.protocol.number())
    }
}

impl Identities {
    /// Takes over what a previous daemon left behind.
    pub fn adopt(applied: &KernelState, config: &Config) -> Self {
        let pools = pools_by_listen(config);
        Self {
            backends: BackendIds::adopt(applied, &pools, config.kernel.backends),
            services: ServiceIds::adopt(applied),
            tables: TableNumbers::adopt(
                &applied.services,
                |table| applied.tables.contains_key(&table),
                &pools,
            ),
            assignments: Assignments::default(),
            settled: Settled::default(),
        }
    }

    /// The ids of the backend at `address`: one for each protocol that it serves.
    pub fn of(&self, address: SocketAddr) -> impl Iterator<Item = BackendId> + '_ {
        let endpoints = Protocol::ALL.map(|protocol| SocketKey::new(address, protocol.number()));
        endpoints.into_iter().filter_map(|endpoint| self.backends.get(&endpoint))
    }

    /// The number of a pool's table, if it has one.
    pub fn table(&self, pool: &str, part: Part) -> Option<u32> {
        self.tables.get(pool, part)
    }

    /// The state that `served` (the services of the kernel planes) ask for.
    pub fn desire(
        &mut self,
        config: &Config,
        fold: &Fold,
        served: &[&model::Service],
        facts: &Facts,
        confirmed: &Confirmed,
        sweep: &Sweep,
    ) -> Desired {
        let applied = &confirmed.applied;
        let mut desired = Desired::default();
        desired.state.local = facts.local.iter().map(|ip| (*ip).into()).collect();
        // A part of the routes would be worse than none: replies would fall to a shorter prefix. Without any,
        // the kernel's FIB is asked.
        if facts.routes.len() <= limits::ROUTES as usize {
            desired.state.routes = facts.routes.clone();
        }

        let mut tables = tables(config, fold, served);
        tables.retain_mut(|table| self.number(table, applied, sweep, &mut desired));
        let scope = self.settled.scope(&tables, confirmed, facts);
        let (settled, stale): (Vec<_>, Vec<_>) =
            tables.iter().partition(|table| self.settled.table(table.number, scope.as_ref()).is_some());
        self.name_backends(&stale, scope.as_ref(), confirmed, sweep, &mut desired);
        for table in settled {
            let piece = self.settled.table(table.number, scope.as_ref());
            desired.cuts.extend(piece.into_iter().flat_map(|piece| &piece.cuts));
            if let Some(slots) = applied.tables.get(&table.number) {
                put_table(table, Arc::clone(slots), &mut desired);
            }
        }
        for table in stale {
            let cuts = self.cuts(table);
            let slots = match self.slots(table, confirmed, &cuts) {
                Ok(slots) => slots,
                Err(error) => {
                    desired.errors.push(error);
                    match applied.tables.get(&table.number) {
                        Some(slots) => slots.clone(),
                        None => continue,
                    }
                }
            };
            put_table(table, slots, &mut desired);
            self.put_backends(table, facts, applied, &mut desired.state);
            desired.cuts.extend(&cuts);
            let index = |endpoint| Some(self.backends.owned(&endpoint, &table.pool.name)?.index());
            let backends = table.endpoints().map(|endpoint| (endpoint, index(endpoint))).collect();
            desired.pieces.insert(table.number, Piece::new(table, cuts, backends));
        }
        desired.scope = scope;
        if config.kernel.ping {
            let markers = desired.state.services.values_mut().filter(|entry| entry.flags & VIP_MARKER != 0);
            markers.for_each(|marker| marker.flags |= VIP_PING);
        }
        self.assignments.retain(|number| desired.state.tables.contains_key(&number));
        desired
    }

    /// Takes in that everything desired was confirmed.
    pub fn settle(&mut self, desired: Desired, facts: &Facts, confirmed: &Confirmed) {
        let Desired { pieces, scope, incomplete, .. } = desired;
        let pieces = pieces.into_iter();
        let pieces =
            pieces.map(|(number, piece)| (number, if incomplete { piece.unfinished() } else { piece }));
        self.settled.settle(pieces.collect(), scope.as_ref(), &facts.hops, confirmed);
    }

    /// Takes in that what stands in the maps may be anything.
    pub fn unsettle(&mut self) {
        self.settled = Settled::default();
    }

    /// Gives a table its number, and its services their ids; whether there is room for the table.
    fn number(
        &mut self,
        table: &mut Table<'_>,
        applied: &KernelState,
        sweep: &Sweep,
        desired: &mut Desired,
    ) -> bool {
        match self.tables.claim(&table.pool.name, table.part, applied) {
            Ok(number) => table.number = number,
            Err(error) => {
                desired.errors.push(PlaneError::new(format!("pool {:?}", table.pool.name), error));
                return false;
            }
        }
        table.entries = self.services(table, sweep, desired);
        true
    }

    /// Forgets the services and tables that are neither `desired` nor `applied` any more.
    pub fn release(&mut self, desired: &KernelState, applied: &KernelState) {
        self.services.release(&desired.services.keys().copied().collect(), applied);
        self.tables.release(&desired.tables.keys().copied().collect(), applied);
    }

    /// Gives ids to backends that take new flows, and retires those whose old flows may not stay.
    fn name_backends(
        &mut self,
        tables: &[&Table<'_>],
        scope: Option<&Scope>,
        confirmed: &Confirmed,
        sweep: &Sweep,
        desired: &mut Desired,
    ) {
        // By endpoint: the pool that keeps it.
        let mut known: HashMap<SocketKey, Option<&str>> = HashMap::new();
        for table in tables {
            for judged in table.judged() {
                let keeper = known.entry(table.endpoint(judged.member.address)).or_default();
                // One that moved from a pool to another leaves the first at once: its replies can only be
                // those of one service.
                if judged.keeps(table.part.protocol) && judged.leaving.is_none() {
                    *keeper = Some(&table.pool.name);
                } else if judged.keeps(table.part.protocol) {
                    keeper.get_or_insert(&table.pool.name);
                }
            }
        }
        let keeper = |endpoint: &SocketKey| known.get(endpoint).copied().flatten();
        match scope {
            Some(scope) => self.backends.retire_some(&scope.endpoints, keeper),
            None => self.backends.retire(keeper),
        }
        self.backends.release(|endpoint| known.contains_key(endpoint), &confirmed.applied);

        let named = LazyCell::new(|| {
            let mut named: BTreeSet<_> = confirmed.tables.values().flat_map(|table| table.named()).collect();
            named.extend(sweep.by_backend.keys().chain(sweep.slots.values().flatten()));
            named
        });
        for table in tables {
            let pool = table.pool.name.as_str();
            let takes_new = table.judged().map(|judged| judged.member).filter(|member| member.weight > 0);
            for member in takes_new {
                let endpoint = table.endpoint(member.address);
                if keeper(&endpoint) != Some(pool) || self.backends.has(&endpoint, pool) {
                    continue;
                }
                match self.backends.claim(endpoint, pool, &confirmed.applied, &named) {
                    Ok(Some(claim)) if claim.clear => desired.clear_backends.push(claim.id.index()),
                    Ok(Some(_)) => {}
                    Ok(None) => desired.incomplete = true,
                    Err(error) => {
                        let object = format!("backend {} of pool {pool:?}", member.address);
                        desired.errors.push(PlaneError::new(object, error));
                    }
                }
            }
        }
    }

    /// The next slots of a table: a change of those that the kernel has, or all new ones.
    fn slots(
        &mut self,
        table: &Table<'_>,
        confirmed: &Confirmed,
        cuts: &[FlowCut],
    ) -> Result<Slots, PlaneError> {
        let (size, number) = (table.pool.table_size, table.number);
        let object = || format!("pool {:?}, table {number}", table.pool.name);
        let members = table.judged().map(|judged| judged.member).filter(|member| member.weight > 0);
        let mut backends: Vec<_> = members
            .filter_map(|member| {
                let id = self.backends.owned(&table.endpoint(member.address), &table.pool.name)?;
                Some((member.address, member.weight, id))
            })
            .collect();
        backends.sort_unstable();
        let wanted = || assign(size, &backends).map_err(|error| PlaneError::new(object(), error));
        let Some(state) = confirmed.tables.get(&number) else {
            let assignment = wanted()?;
            let id = |index| assignment.get(index).copied().unwrap_or(BackendId::NONE);
            let slots: Slots = Slots::new((0..size as usize).map(|index| Slot::stable(id(index))).collect());
            self.assignments.propose(number, backends, &slots);
            return Ok(slots);
        };
        if state.slots().len() != size as usize {
            let reason = format!(
                "has {} slots, but table_size is {size} (hint: `sluice cleanup` drops the table with its flows)",
                state.slots().len()
            );
            return Err(PlaneError::new(object(), reason));
        }
        let is_cut =
            |index: usize, id| cuts.iter().any(|cut| cut.backend == id && index < cut.below as usize);
        let lives = |index, id: BackendId| self.backends.lives(id) && !is_cut(index, id);
        let holds = self.assignments.holds(number, &backends, state);
        if holds && cuts.is_empty() && state.named().all(|id| self.backends.lives(id)) {
            return Ok(Arc::clone(state.slots()));
        }
        let assignment =
            if holds { state.slots().iter().map(|slot| slot.current()).collect() } else { wanted()? };
        let slots = state.assign(&assignment, lives).map_or_else(|| Arc::clone(state.slots()), Slots::new);
        self.assignments.propose(number, backends, &slots);
        Ok(slots)
    }

    /// The slots from which old flows are cut already, by backend.
    fn cuts(&self, table: &Table<'_>) -> Vec<FlowCut> {
        let backends = table.judged().filter_map(|judged| {
            let below = judged.cut(table.part.protocol).slots(table.pool.table_size);
            (below > 0).then_some(())?;
            let id = self.backends.owned(&table.endpoint(judged.member.address), &table.pool.name)?;
            Some(FlowCut { table: table.number, backend: id, below })
        });
        backends.collect()
    }

    fn services(
        &mut self,
        table: &Table<'_>,
        sweep: &Sweep,
        desired: &mut Desired,
    ) -> Vec<(SocketKey, Service)> {
        let mut entries = Vec::new();
        for (service, listen) in &table.listens {
            let key = SocketKey::new(*listen, service.protocol.number());
            let claim = match self.services.claim(key, sweep) {
                Ok(claim) => claim,
                Err(error) => {
                    desired.errors.push(PlaneError::new(format!("service {:?}", service.name), error));
                    continue;
                }
            };
            if claim.clear {
                desired.clear_services.push(claim.id.index());
            }
            let affinity = match service.affinity {
                Affinity::None => 0,
                Affinity::Source => SOURCE_AFFINITY,
            };
            let tracking = match service.tracking {
                Tracking::Auto => 0,
                Tracking::Always => TRACK_ALWAYS,
            };
            let entry = Service {
                id: claim.id,
                table: table.number,
                slots: table.pool.table_size,
                flags: affinity | tracking,
                established: ticks::from_duration(service.timeouts.idle(service.protocol)),
                closing: ticks::from_duration(service.timeouts.closing),
                half_open: ticks::from_duration(service.timeouts.half_open),
                mss: service.mss.unwrap_or(0),
            };
            entries.push((key, entry));
        }
        entries
    }

    /// Entries and endpoints of every backend of the table that has an id: it is named by slots, or its old
    /// flows stay.
    fn put_backends(&self, table: &Table<'_>, facts: &Facts, applied: &KernelState, state: &mut KernelState) {
        let vips: Vec<_> = table.listens.iter().map(|(_, listen)| table.endpoint(*listen)).collect();
        let Some(first) = vips.first() else { return };
        for judged in table.judged() {
            let address = judged.member.address;
            let endpoint = table.endpoint(address);
            let Some(id) = self.backends.owned(&endpoint, &table.pool.name) else { continue };
            let hop = next_hop(address, id, facts, applied);
            let SocketKey { address, port, protocol } = endpoint;
            // The service whose flows have no exact entries stays the same as long as it is there.
            let last = applied.endpoints.get(&endpoint).map(|endpoint| endpoint.vip);
            let vip = last.filter(|vip| vips.contains(vip)).unwrap_or(*first);
            let service = state.services.get(&vip).copied();
            let plain = service.map(|service| service.id).unwrap_or_default();
            state.backends.insert(id.index(), Backend { address, port, protocol, id, hop, plain });
            if let Some(service) = service {
                state.endpoints.insert(endpoint, Endpoint { vip, backend: id, service });
            }
        }
    }
}

fn put_table(table: &Table<'_>, slots: Slots, desired: &mut Desired) {
    let idle = table.listens.iter().map(|(service, _)| service.timeouts.idle(service.protocol)).max();
    desired.idle.insert(table.number, ticks::from_duration(idle.unwrap_or_default()));
    desired.state.tables.insert(table.number, slots);
    for (key, entry) in &table.entries {
        desired.state.services.insert(*key, *entry);
        let marker = desired.state.services.entry(SocketKey::vip(key.address)).or_default();
        marker.flags |= VIP_MARKER | vip_of(table.part.protocol.number());
    }
}

/// Where to send a backend's frames. A neighbour that is missing for a moment keeps its last place: dropping
/// what still arrives helps nobody.
fn next_hop(address: SocketAddr, id: BackendId, facts: &Facts, applied: &KernelState) -> NextHop {
    let last = || applied.backends.get(&id.index()).filter(|backend| backend.address == address.ip().into());
    let hop = facts.hops.get(&address.ip()).copied();
    hop.or_else(|| last().map(|backend| backend.hop)).unwrap_or_default()
}

/// The tables that `served` need: one per pool, and family and protocol of its listen addresses.
fn tables<'a>(config: &'a Config, fold: &'a Fold, served: &[&'a model::Service]) -> Vec<Table<'a>> {
    let pools: HashMap<_, _> = config.pools.iter().map(|pool| (pool.name.as_str(), pool)).collect();
    let mut tables = BTreeMap::new();
    for service in served {
        let Some(pool) = pools.get(service.pool.as_str()).copied() else { continue };
        for listen in &service.listen {
            let part = Part { family: Family::of(listen.ip()), protocol: service.protocol };
            let table = tables.entry((&pool.name, part)).or_insert_with(|| {
                let members = fold.members(&pool.name);
                Table { pool, part, members, listens: Vec::new(), number: 0, entries: Vec::new() }
            });
            table.listens.push((*service, *listen));
        }
    }
    tables.into_values().collect()
}

/// The pool that each listen address leads to, by service key.
pub fn pools_by_listen(config: &Config) -> BTreeMap<SocketKey, &str> {
    let services = config.services.iter();
    services
        .flat_map(|service| {
            let protocol = service.protocol.number();
            service
                .listen
                .iter()
                .map(move |listen| (SocketKey::new(*listen, protocol), service.pool.as_str()))
        })
        .collect()
}
