//! Frames in memory and a model of the maps: what tests, benches and fuzz targets drive the walk with.

mod local;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::rc::Rc;
use std::vec::Vec;

use lb_common::hash;
use lb_common::route::Host;
use lb_common::{
    Address, Backend, BackendId, Claim, Counter, Endpoint, Exact, ExactKey, Flow, FlowKey, HalfOpen,
    Handshake, Handshakes, NextHop, Peer, PeerKey, Service, ServiceId, Slot, SocketKey, Station, Traffic,
    Vip,
};
use zerocopy::IntoBytes;

use crate::checksum::Sum;
use crate::exact;
use crate::headers::Header;
use crate::packet::Packet;
use crate::rare::limiter::{ANSWERS, Answer, Tokens};
use crate::tables::{Direction, ExactEntry, FlowEntry, HalfOpenEntry, Tables};
use crate::transport::{Transport, fix_in_place};
use crate::walk::At;

/// A frame in memory, on an even address as in the kernel.
#[derive(Clone, Debug)]
pub struct Frame {
    words: Vec<u16>,
    length: usize,
    /// What [`Packet::ifindex`] answers.
    pub ifindex: u32,
    /// What [`Packet::route`] answers.
    pub route: Option<NextHop>,
    /// What [`Packet::segment_size`] answers.
    pub segment_size: usize,
}

impl Frame {
    /// A copy of `bytes`, received by interface 1, with no FIB behind it.
    pub fn new(bytes: &[u8]) -> Self {
        let mut words = std::vec![0; bytes.len().div_ceil(2)];
        if let Some(target) = words.as_mut_bytes().get_mut(..bytes.len()) {
            target.copy_from_slice(bytes);
        }
        Self { words, length: bytes.len(), ifindex: 1, route: None, segment_size: 0 }
    }

    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.words.as_bytes().get(..self.length).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.words.as_mut_bytes().get_mut(..self.length).unwrap_or_default()
    }
}

impl Packet for Frame {
    fn header<T: Header>(&self, at: usize) -> Option<&T> {
        T::ref_from_prefix(self.bytes().get(at..)?).ok().map(|(header, _)| header)
    }

    fn header_mut<T: Header>(&mut self, at: usize) -> Option<&mut T> {
        T::mut_from_prefix(self.bytes_mut().get_mut(at..)?).ok().map(|(header, _)| header)
    }

    fn holds(&self, bytes: usize) -> bool {
        self.length >= bytes
    }

    fn fix_checksum(&mut self, transport: Transport, l4: usize, address: Sum, ports: Sum) -> Option<()> {
        fix_in_place(self, transport, l4, address.plus(ports))
    }

    fn forget(&self, at: usize) -> usize {
        at
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn is_tagged(&self) -> bool {
        false
    }

    fn segment_size(&self) -> usize {
        self.segment_size
    }

    fn reshape(&mut self, at: At, length: usize) -> Option<()> {
        let length = at.l3 + length;
        if length > self.length {
            return None;
        }
        self.length = length;
        self.segment_size = 0;
        Some(())
    }

    fn resize(&mut self, length: usize) -> Option<()> {
        self.words.resize(length.div_ceil(2), 0);
        self.length = length;
        Some(())
    }

    fn route(&mut self, _: u8, _: &Address, _: &Address) -> Option<NextHop> {
        self.route
    }
}

/// A model of the maps. Plain fields: a test sets what it needs.
#[derive(Debug, Default)]
pub struct Model {
    /// The clock, in ticks.
    pub now: Cell<u32>,
    /// The flow hash's key.
    pub hash_key: hash::Key,
    /// The service map.
    pub services: HashMap<SocketKey, Service>,
    /// The endpoint map.
    pub endpoints: HashMap<SocketKey, Endpoint>,
    /// The backend map, by index.
    pub backends: HashMap<u32, Backend>,
    /// The Maglev tables.
    pub tables: HashMap<u32, Vec<Slot>>,
    /// What is known of single addresses.
    pub hosts: HashMap<Address, Host>,
    /// Mirrored routes: address, prefix length of 128, next hop.
    pub routes: Vec<(Address, u8, NextHop)>,
    /// Where ARP and neighbour discovery are answered.
    pub stations: HashMap<Station, NextHop>,
    /// Hosts that have asked for a VIP.
    pub askers: RefCell<HashMap<Address, NextHop>>,
    /// When a packet of an old flow was seen, by table and slot.
    pub old_seen: RefCell<HashMap<(u32, u32), u32>>,
    /// Neighbours that replies waited for.
    pub wanted: RefCell<HashSet<Address>>,
    /// The flow table.
    pub flows: Memory<Flow>,
    /// The half-open table.
    pub half_open: Memory<HalfOpen>,
    /// Whom sockets were led to.
    pub peers: RefCell<HashMap<PeerKey, Peer>>,
    /// The buckets of the one CPU that there is, one for each kind of answer.
    pub answers: [Cell<Tokens>; ANSWERS],
    /// The VIPs, by service index.
    pub vips: HashMap<u32, Vip>,
    /// The exact entries.
    pub exact: Memory<Exact, ExactKey>,
    /// Indexes of backends whose endpoints may have exact entries.
    pub exact_hints: RefCell<HashSet<u32>>,
    /// What happened on the way of packets.
    pub events: RefCell<HashMap<Counter, u64>>,
    /// Whether the guard has let enough flows in for the moment.
    pub is_guarded: Cell<bool>,
    /// Traffic by service index.
    pub service_traffic: RefCell<HashMap<u32, Traffic>>,
    /// Traffic by backend index.
    pub backend_traffic: RefCell<HashMap<u32, Traffic>>,
    /// Handshakes by backend index.
    pub handshakes: RefCell<HashMap<u32, Handshakes>>,
}

/// A hash table of bounded size that refuses when full.
#[derive(Debug)]
pub struct Memory<T: Copy, K = FlowKey> {
    /// Entries at most.
    pub capacity: usize,
    /// The entries.
    pub entries: RefCell<HashMap<K, Rc<Cell<T>>>>,
    /// Deleted elements. As in the kernel, the next insert may be given one that another CPU still looks at.
    free: RefCell<Vec<Rc<Cell<T>>>>,
}

impl<T: Copy, K> Default for Memory<T, K> {
    fn default() -> Self {
        Self { capacity: 1024, entries: RefCell::default(), free: RefCell::default() }
    }
}

impl<T: Copy, K: Copy + Eq + Hash> Memory<T, K> {
    /// The entry of a flow.
    pub fn get(&self, key: &K) -> Option<Rc<Cell<T>>> {
        self.entries.borrow().get(key).cloned()
    }

    /// Adds an entry unless the table is full or has one.
    pub fn insert(&self, key: &K, value: T) -> bool {
        let mut entries = self.entries.borrow_mut();
        if entries.len() >= self.capacity || entries.contains_key(key) {
            return false;
        }
        let element = self.free.borrow_mut().pop().unwrap_or_else(|| Rc::new(Cell::new(value)));
        element.set(value);
        entries.insert(*key, element);
        true
    }

    /// Deletes an entry.
    pub fn remove(&self, key: &K) {
        let element = self.entries.borrow_mut().remove(key);
        self.free.borrow_mut().extend(element);
    }
}

fn edit<T: Copy>(cell: &Cell<T>, change: impl FnOnce(&mut T)) {
    let mut value = cell.get();
    change(&mut value);
    cell.set(value);
}

impl FlowEntry for Rc<Cell<Flow>> {
    fn read(&self) -> Flow {
        self.get()
    }

    fn set_expires(&self, expires: u32) {
        edit(self, |flow| flow.expires = expires);
    }

    fn set_seq(&self, seq: u32) {
        edit(self, |flow| flow.seq = seq);
    }

    fn set_closing(&self) {
        edit(self, |flow| flow.closing = 1);
    }
}

impl HalfOpenEntry for Rc<Cell<HalfOpen>> {
    fn read(&self) -> HalfOpen {
        self.get()
    }

    fn set_expires(&self, expires: u32) {
        edit(self, |half| half.expires = expires);
    }

    fn set_proven(&self) {
        edit(self, |half| half.proven = 1);
    }

    fn record_server(&self, isn: u32) {
        edit(self, |half| half.record_server(isn));
    }
}

impl ExactEntry for Rc<Cell<Exact>> {
    fn read(&self) -> Exact {
        self.get()
    }

    fn set_confirmed(&self, claim: Claim) {
        edit(self, |exact| exact.confirmed = claim);
    }

    fn set_pending(&self, claim: Claim) {
        edit(self, |exact| exact.pending = claim);
    }
}

impl Tables for Model {
    type Flow = Rc<Cell<Flow>>;
    type HalfOpen = Rc<Cell<HalfOpen>>;
    type Exact = Rc<Cell<Exact>>;

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn hash_key(&self, word: usize) -> u64 {
        self.hash_key.get(word).copied().unwrap_or_default()
    }

    fn service(&self, key: &SocketKey) -> Option<&Service> {
        self.services.get(key)
    }

    fn endpoint(&self, key: &SocketKey) -> Option<&Endpoint> {
        self.endpoints.get(key)
    }

    fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(&id.index())
    }

    fn slot(&self, table: u32, index: u32) -> Option<Slot> {
        self.tables.get(&table)?.get(index as usize).copied()
    }

    fn stamp_old(&self, table: u32, index: u32, now: u32) {
        self.old_seen.borrow_mut().insert((table, index), now);
    }

    fn host(&self, address: &Address) -> Option<&Host> {
        self.hosts.get(address)
    }

    fn next_hop(&self, address: &Address) -> Option<&NextHop> {
        self.routes
            .iter()
            .filter(|(prefix, length, _)| covers(prefix, *length, address))
            .max_by_key(|(_, length, _)| *length)
            .map(|(_, _, hop)| hop)
    }

    fn station(&self, station: &Station) -> Option<&NextHop> {
        self.stations.get(station)
    }

    fn remember_asker(&self, address: &Address, hop: &NextHop) {
        self.askers.borrow_mut().insert(*address, *hop);
    }

    fn asker(&self, address: &Address) -> Option<NextHop> {
        self.askers.borrow().get(address).copied()
    }

    fn want(&self, address: &Address, _ifindex: u32) {
        self.wanted.borrow_mut().insert(*address);
    }

    fn vip(&self, id: ServiceId) -> Option<&Vip> {
        self.vips.get(&id.index()).filter(|vip| vip.service.id == id)
    }

    fn exact(&self, key: &ExactKey) -> Option<Self::Exact> {
        self.exact.get(key)
    }

    fn insert_exact(&self, key: &ExactKey, claim: Claim, is_udp: bool) -> bool {
        self.exact.insert(key, exact::fresh(claim, is_udp))
    }

    fn may_have_exact(&self, backend: BackendId) -> bool {
        self.exact_hints.borrow().contains(&backend.index())
    }

    fn expect_exact(&self, backend: BackendId) {
        self.exact_hints.borrow_mut().insert(backend.index());
    }

    fn admit(&self, _now: u32) -> bool {
        !self.is_guarded.get()
    }

    fn flow(&self, key: &FlowKey) -> Option<Self::Flow> {
        self.flows.get(key)
    }

    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.flows.insert(key, *flow)
    }

    fn half_open(&self, key: &FlowKey) -> Option<Self::HalfOpen> {
        self.half_open.get(key)
    }

    fn insert_half_open(&self, key: &FlowKey, entry: &HalfOpen) -> bool {
        self.half_open.insert(key, *entry)
    }

    fn remove_half_open(&self, key: &FlowKey) {
        self.half_open.remove(key);
    }

    fn may_answer(&self, answer: Answer) -> bool {
        let Some(cell) = self.answers.get(answer as usize) else { return false };
        let mut bucket = cell.get();
        let may = bucket.take(self.now());
        cell.set(bucket);
        may
    }

    fn count(&self, service: ServiceId, backend: BackendId, direction: Direction, bytes: u32) {
        let mut services = self.service_traffic.borrow_mut();
        direction.count(services.entry(service.index()).or_default(), bytes);
        let mut backends = self.backend_traffic.borrow_mut();
        direction.count(backends.entry(backend.index()).or_default(), bytes);
    }

    fn count_handshake(&self, backend: BackendId, step: Handshake) {
        self.handshakes.borrow_mut().entry(backend.index()).or_default().count(step);
    }

    fn note(&self, event: Counter) {
        *self.events.borrow_mut().entry(event).or_default() += 1;
    }

    fn count_drop(&self, service: &Service) {
        self.service_traffic.borrow_mut().entry(service.id.index()).or_default().drops += 1;
    }
}

fn covers(prefix: &Address, length: u8, address: &Address) -> bool {
    let number = |address: &Address| u128::from_be_bytes(zerocopy::transmute!(address.words));
    let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
    (number(prefix) ^ number(address)) & mask == 0
}
