//! The kernel planes' state: exactly what stands in the maps that the controller writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::{
    Address, Backend, BackendId, Counter, Endpoint, Handshakes, NextHop, Service, Slot, SocketKey, Station,
    Traffic,
};

use super::PlaneError;

/// A destination prefix of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Host bits are zero.
    pub address: IpAddr,
    /// 0..=32 or 0..=128.
    pub length: u8,
}

/// The slots of a table. Those of a thousand tables are half a gigabyte: they are shared, never copied.
pub type Slots = Arc<Vec<Slot>>;

/// What stands, or should stand, in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// By index of the id. An entry with `id == NONE` retires the index's last id.
    pub backends: BTreeMap<u32, Backend>,
    /// By table number.
    pub tables: BTreeMap<u32, Slots>,
    /// VIPs, markers included.
    pub services: BTreeMap<SocketKey, Service>,
    /// Backends' endpoints.
    pub endpoints: BTreeMap<SocketKey, Endpoint>,
    /// The host's own addresses.
    pub local: BTreeSet<Address>,
    /// Next hops for replies.
    pub routes: BTreeMap<Prefix, NextHop>,
    /// Where ARP and neighbour discovery are answered, and with which MAC address.
    pub stations: BTreeMap<Station, NextHop>,
}

impl KernelState {
    /// The state after `action`. A retired backend (`id == NONE`) leaves no entry.
    pub fn record(&mut self, action: &KernelAction) {
        match action {
            KernelAction::PutBackend { index, backend } if backend.id.is_some() => {
                self.backends.insert(*index, *backend);
            }
            KernelAction::PutBackend { index, .. } => {
                self.backends.remove(index);
            }
            KernelAction::SwapTable { table, slots } => {
                self.tables.insert(*table, Arc::clone(slots));
            }
            KernelAction::DropTable { table } => {
                self.tables.remove(table);
            }
            KernelAction::PutService { key, service } => {
                self.services.insert(*key, *service);
            }
            KernelAction::RemoveService { key } => {
                self.services.remove(key);
            }
            KernelAction::PutEndpoint { key, endpoint } => {
                self.endpoints.insert(*key, *endpoint);
            }
            KernelAction::RemoveEndpoint { key } => {
                self.endpoints.remove(key);
            }
            KernelAction::PutLocal { address } => {
                self.local.insert(*address);
            }
            KernelAction::RemoveLocal { address } => {
                self.local.remove(address);
            }
            KernelAction::PutRoute { prefix, hop } => {
                self.routes.insert(*prefix, *hop);
            }
            KernelAction::RemoveRoute { prefix } => {
                self.routes.remove(prefix);
            }
            KernelAction::PutStation { station, hop } => {
                self.stations.insert(*station, *hop);
            }
            KernelAction::RemoveStation { station } => {
                self.stations.remove(station);
            }
        }
    }
}

/// One step. `plan` orders them so that after each the maps are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant's line names its fields")]
pub enum KernelAction {
    /// Writes one backend entry.
    PutBackend { index: u32, backend: Backend },
    /// Puts a new inner map with these slots in place of the table's old one, in one update; creates the
    /// table's `old_seen` where it is missing. Returns after the grace period: no packet reads the old map.
    SwapTable { table: u32, slots: Slots },
    /// Empties a table's place.
    DropTable { table: u32 },
    /// Writes one service entry.
    PutService { key: SocketKey, service: Service },
    /// Deletes one service entry.
    RemoveService { key: SocketKey },
    /// Writes one endpoint entry.
    PutEndpoint { key: SocketKey, endpoint: Endpoint },
    /// Deletes one endpoint entry.
    RemoveEndpoint { key: SocketKey },
    /// Adds an address of the host.
    PutLocal { address: Address },
    /// Removes an address of the host.
    RemoveLocal { address: Address },
    /// Writes one route.
    PutRoute { prefix: Prefix, hop: NextHop },
    /// Deletes one route.
    RemoveRoute { prefix: Prefix },
    /// Answers ARP or neighbour discovery for a VIP on an interface.
    PutStation { station: Station, hop: NextHop },
    /// Answers no more.
    RemoveStation { station: Station },
}

/// What a sweep of the flow tables found alive after it deleted what had expired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Backends that entries of a slot still name, by table and slot.
    pub slots: HashMap<(u32, u32), BTreeSet<BackendId>>,
    /// Live flow entries (proven half-open ones included) by backend.
    pub by_backend: HashMap<BackendId, u64>,
    /// Live flow entries by service index.
    pub by_service: HashMap<u32, u64>,
    /// Live entries of the half-open table.
    pub half_open: u64,
    /// Live entries of the flow table.
    pub flows: u64,
    /// Entries that the half-open table has room for.
    pub half_open_capacity: u64,
    /// Entries that the flow table has room for.
    pub flows_capacity: u64,
    /// Entries deleted.
    pub deleted: u64,
}

/// Old flows of a backend that are cut although the backend lives: those of the first slots of a table. The backend
/// must not be `current` or `fallback` there any more, so that none comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowCut {
    /// The table.
    pub table: u32,
    /// The backend.
    pub backend: BackendId,
    /// The first slot of which flows stay.
    pub below: u32,
}

impl FlowCut {
    /// Whether it means this flow.
    pub fn takes(&self, flow: &lb_common::Flow) -> bool {
        flow.table == self.table && flow.backend == self.backend && flow.slot < self.below
    }
}

/// Sums over all CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// By counter.
    pub counters: BTreeMap<Counter, u64>,
    /// By service index; only indexes that were asked for.
    pub services: BTreeMap<u32, Traffic>,
    /// By backend index; only indexes that were asked for.
    pub backends: BTreeMap<u32, Traffic>,
    /// Likewise.
    pub handshakes: BTreeMap<u32, Handshakes>,
}

/// An entry of the flow tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackedFlow {
    /// In the half-open table.
    HalfOpen(lb_common::HalfOpen),
    /// In the flow table.
    Flow(lb_common::Flow),
}

/// The kernel planes' maps. Calls block (a table swap waits for an RCU grace period of up to some 30 ms):
/// the controller makes them off the reactor.
pub trait KernelTables: Send {
    /// Does one step.
    fn apply(&mut self, action: &KernelAction) -> Result<(), PlaneError>;
    /// Makes tables that are not there yet. After an error some of them may be.
    fn make_tables(&mut self, tables: &[(u32, Slots)]) -> Result<(), PlaneError>;
    /// Reads everything back that `apply` can write: for adoption and audit. Tables that are as `known` says are
    /// shared with it.
    fn read_back(&mut self, known: &KernelState) -> Result<KernelState, PlaneError>;
    /// When a packet of an old flow was last seen, in ticks, by slot; 0: never.
    fn old_seen(&mut self, table: u32) -> Result<Vec<u32>, PlaneError>;
    /// Deletes expired entries of the flow tables (`half_open` before `flows`) and reports what is left.
    fn sweep(&mut self, now: u32) -> Result<Sweep, PlaneError>;
    /// Lets the entries of these flows expire; how many did. A packet that is under way may prolong one: it is met
    /// by the next call.
    fn cut(&mut self, cuts: &[FlowCut]) -> Result<u64, PlaneError>;
    /// Deletes expired exact entries and says how many are left.
    fn sweep_exact(&mut self, now: u32) -> Result<u64, PlaneError>;
    /// Sums of the per-CPU counters, for these service and backend indexes.
    fn counters(&mut self, services: &[u32], backends: &[u32]) -> Result<KernelCounters, PlaneError>;
    /// Zeroes the traffic of an index that is about to be given out again; sums over all indexes do not change.
    fn clear_traffic(&mut self, service: Option<u32>, backend: Option<u32>) -> Result<(), PlaneError>;
    /// Takes out the neighbours that replies waited for.
    fn take_wanted(&mut self) -> Result<Vec<(IpAddr, u32)>, PlaneError>;
    /// The flow tables, to be looked at while this is in use elsewhere.
    fn flow_tables(&self) -> Arc<dyn FlowTables>;
    /// The entry of one flow.
    fn flow(&mut self, key: &lb_common::FlowKey) -> Result<Option<TrackedFlow>, PlaneError>;
    /// Now, in ticks of the programs' clock.
    fn now(&self) -> u32;
}

/// The flow tables alone. Calls block.
pub trait FlowTables: Send + Sync {
    /// Calls `each` with every entry, expired ones included. An entry that is promoted meanwhile may come twice.
    fn scan(&self, each: &mut dyn FnMut(&lb_common::FlowKey, TrackedFlow)) -> Result<(), PlaneError>;
}
