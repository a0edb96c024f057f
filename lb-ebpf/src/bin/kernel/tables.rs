//! [`Tables`] over the maps.
#![expect(unsafe_code, reason = "map values are reached by pointer")]

use aya_ebpf::Global;
use aya_ebpf::maps::lpm_trie::Key;
use lb_common::route::{self, Host, Routes};
use lb_common::{
    Address, Backend, BackendId, Claim, Counter, Endpoint, Exact, ExactKey, Flow, FlowKey, HalfOpen,
    Handshake, NextHop, Service, ServiceId, Slot, SocketKey, Station, Vip, limits,
};
use lb_ebpf::exact::Kind;
use lb_ebpf::rare::limiter::Answer;
use lb_ebpf::tables::{Direction, ExactEntry, FlowEntry, HalfOpenEntry, Tables};

use crate::{buckets, clock, exact, flows, maps};

/// The maps of this object.
pub struct Maps;

/// A flow's value in its map, shared with other CPUs and with the controller.
pub struct Entry<T>(pub *mut T);

/// Writes one field of an element: a single aligned store.
macro_rules! store {
    ($entry:expr, $field:ident, $value:expr) => {
        // SAFETY: within an element of an array map, which stays; an aligned 32-bit store is not torn, and readers on
        // other CPUs take either value.
        unsafe { (&raw mut (*$entry.0).$field).write_volatile($value) }
    };
}

/// Reads one field of an element, once. Field by field: a copy of the whole would lie on the program's stack.
macro_rules! load {
    ($entry:expr, $field:ident) => {
        // SAFETY: as in `store!`; every mix of old and new fields is a state that the rules allow for.
        unsafe { (&raw const (*$entry.0).$field).read_volatile() }
    };
}

impl FlowEntry for Entry<Flow> {
    #[inline(always)]
    fn read(&self) -> Flow {
        Flow {
            backend: load!(self, backend),
            slot: load!(self, slot),
            table: load!(self, table),
            seq: load!(self, seq),
            expires: load!(self, expires),
            closing: load!(self, closing),
        }
    }

    #[inline(always)]
    fn set_expires(&self, expires: u32) {
        store!(self, expires, expires);
    }

    #[inline(always)]
    fn set_seq(&self, seq: u32) {
        store!(self, seq, seq);
    }

    #[inline(always)]
    fn set_closing(&self) {
        store!(self, closing, 1);
    }
}

impl HalfOpenEntry for Entry<HalfOpen> {
    #[inline(always)]
    fn read(&self) -> HalfOpen {
        HalfOpen {
            backend: load!(self, backend),
            slot: load!(self, slot),
            table: load!(self, table),
            isn: load!(self, isn),
            server_isn: load!(self, server_isn),
            recorded: load!(self, recorded),
            expires: load!(self, expires),
            proven: load!(self, proven),
        }
    }

    #[inline(always)]
    fn set_expires(&self, expires: u32) {
        store!(self, expires, expires);
    }

    #[inline(always)]
    fn set_proven(&self) {
        store!(self, proven, 1);
    }

    #[inline(always)]
    fn record_server(&self, isn: u32) {
        let mut half = self.read();
        half.record_server(isn);
        store!(self, server_isn, half.server_isn);
        store!(self, recorded, half.recorded);
    }
}

/// The first of the listed routes that covers an address.
///
/// Older verifiers (6.1) take the loop's end from a comparison with a constant, not from one with `count`.
#[inline(always)]
fn listed<'a>(routes: &'a Routes, address: &Address) -> Option<&'a NextHop> {
    for (number, route) in (0..).zip(&routes.list) {
        if number >= routes.count {
            return None;
        }
        if route.covers(address) {
            return Some(&route.hop);
        }
    }
    None
}

/// Reads one part of an exact entry.
macro_rules! read_part {
    ($entry:expr, $part:ident) => {
        // SAFETY: as in `store!`.
        unsafe {
            let part = &raw const (*$entry.0).$part;
            Claim {
                isn: (&raw const (*part).isn).read_volatile(),
                whose: (&raw const (*part).whose).read_volatile(),
                expires: (&raw const (*part).expires).read_volatile(),
            }
        }
    };
}

/// Replaces one part of an exact entry. In between it is nobody's.
macro_rules! replace {
    ($entry:expr, $part:ident, $claim:expr) => {
        // SAFETY: as in `store!`.
        unsafe {
            let part = &raw mut (*$entry.0).$part;
            (&raw mut (*part).whose).write_volatile(ServiceId::NOBODY);
            (&raw mut (*part).isn).write_volatile($claim.isn);
            (&raw mut (*part).expires).write_volatile($claim.expires);
            (&raw mut (*part).whose).write_volatile($claim.whose);
        }
    };
}

impl ExactEntry for Entry<Exact> {
    #[inline(always)]
    fn read(&self) -> Exact {
        Exact { confirmed: read_part!(self, confirmed), pending: read_part!(self, pending) }
    }

    #[inline(always)]
    fn set_confirmed(&self, claim: Claim) {
        replace!(self, confirmed, claim);
    }

    #[inline(always)]
    fn set_pending(&self, claim: Claim) {
        replace!(self, pending, claim);
    }
}

impl Tables for Maps {
    type Flow = Entry<Flow>;
    type HalfOpen = Entry<HalfOpen>;
    type Exact = Entry<Exact>;

    #[inline(always)]
    fn now(&self) -> u32 {
        clock::now()
    }

    #[inline(always)]
    fn hash_key(&self, word: usize) -> u64 {
        maps::HASH_KEY.get(word).map_or(0, Global::load)
    }

    #[inline(always)]
    fn service(&self, key: &SocketKey) -> Option<&Service> {
        buckets::find(&maps::SERVICE_BUCKETS, limits::SERVICE_BUCKETS, &maps::SERVICES, key)
    }

    #[inline(always)]
    fn endpoint(&self, key: &SocketKey) -> Option<&Endpoint> {
        buckets::find(&maps::ENDPOINT_BUCKETS, limits::ENDPOINT_BUCKETS, &maps::ENDPOINTS, key)
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<&Backend> {
        maps::BACKENDS.get(id.index())
    }

    #[inline(always)]
    fn slot(&self, table: u32, index: u32) -> Option<Slot> {
        maps::TABLES.get_value(table, &index).copied()
    }

    #[inline(always)]
    fn stamp_old(&self, table: u32, index: u32, now: u32) {
        if let Some(stamp) = maps::OLD_SEEN.get_value_ptr_mut(table, &index) {
            // SAFETY: the inner array lives as long as the program runs; an aligned store is not torn, and
            // all CPUs write about the same number.
            unsafe { stamp.write_volatile(now) }
        }
    }

    #[inline(always)]
    fn host(&self, address: &Address) -> Option<&Host> {
        buckets::find(&maps::HOST_BUCKETS, limits::HOST_BUCKETS, &maps::HOSTS, address)
    }

    #[inline(always)]
    fn next_hop(&self, address: &Address) -> Option<&NextHop> {
        let family = Routes::key(address.is_v4());
        match buckets::find_sure(&maps::LIST_BUCKETS, limits::LIST_BUCKETS, &maps::LISTS, &family) {
            Some(routes) if routes.count != route::TOO_MANY => listed(routes, address),
            _ => maps::ROUTES.get(Key::new(128, *address)),
        }
    }

    #[inline(always)]
    fn station(&self, station: &Station) -> Option<&NextHop> {
        maps::STATIONS.get_ptr(station).map(|hop| {
            // SAFETY: RCU keeps the element's memory until the program ends; the controller replaces elements whole.
            unsafe { &*hop }
        })
    }

    #[inline(always)]
    fn remember_asker(&self, address: &Address, hop: &NextHop) {
        // It fails only where another CPU does the same.
        let _ = maps::ASKERS.insert(address, hop, 0);
    }

    #[inline(always)]
    fn asker(&self, address: &Address) -> Option<NextHop> {
        maps::ASKERS.get_ptr(address).map(|hop| {
            // SAFETY: the map keeps the memory until the program ends. An element that is evicted meanwhile may be
            // another host's by then: a packet goes astray, as it would have without any.
            unsafe { hop.read_volatile() }
        })
    }

    #[inline(always)]
    fn want(&self, address: &Address, ifindex: u32) {
        // Full, or noted already: the next packet asks again.
        let _ = maps::WANTED.insert(address, ifindex, maps::NOEXIST);
    }

    #[inline(always)]
    fn vip(&self, id: ServiceId) -> Option<&Vip> {
        maps::VIPS.get(id.index()).filter(|vip| vip.service.id == id)
    }

    #[inline(always)]
    fn exact(&self, key: &ExactKey) -> Option<Self::Exact> {
        maps::EXACT.get_ptr_mut(key).map(Entry)
    }

    #[inline(always)]
    fn insert_exact(&self, key: &ExactKey, claim: Claim, is_udp: bool) -> bool {
        exact::insert(key, claim, is_udp)
    }

    #[inline(always)]
    fn claim(&self, flow: &FlowKey, backend: BackendId, isn: u32, is_udp: bool) -> bool {
        exact::claim(flow, backend, isn, is_udp)
    }

    #[inline(always)]
    fn unclaim(&self, flow: &FlowKey, backend: BackendId) {
        exact::unclaim(flow, backend);
    }

    #[inline(always)]
    fn claimed(&self, flow: &FlowKey, backend: BackendId, kind: Kind, ack: u32) -> Option<ServiceId> {
        exact::claimed(flow, backend, kind, ack)
    }

    #[inline(always)]
    fn claimed_quote(&self, flow: &FlowKey, backend: BackendId, seq: u32) -> Option<ServiceId> {
        exact::quoted(flow, backend, seq)
    }

    #[inline(always)]
    fn may_have_exact(&self, backend: BackendId) -> bool {
        maps::EXACT_HINTS.get(backend.index()).is_some_and(|hint| *hint != 0)
    }

    #[inline(always)]
    fn expect_exact(&self, backend: BackendId) {
        if let Some(hint) = maps::EXACT_HINTS.get_ptr_mut(backend.index()) {
            // SAFETY: an element of an array map, written in one aligned store.
            unsafe { hint.write_volatile(1) }
        }
    }

    #[inline(always)]
    fn admit(&self, now: u32) -> bool {
        let Some(guard) = maps::GUARD.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's element; nobody else writes it.
        let is_admitted = unsafe { (*guard).admit(now) };
        if !is_admitted {
            maps::note(Counter::Guard);
        }
        is_admitted
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Self::Flow> {
        flows::flow(key).map(Entry)
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        flows::insert_flow(key, flow)
    }

    #[inline(always)]
    fn half_open(&self, key: &FlowKey) -> Option<Self::HalfOpen> {
        flows::half_open(key).map(Entry)
    }

    #[inline(always)]
    fn insert_half_open(&self, key: &FlowKey, entry: &HalfOpen) -> bool {
        flows::insert_half_open(key, entry)
    }

    #[inline(always)]
    fn remove_half_open(&self, key: &FlowKey) {
        flows::remove_half_open(key);
    }

    #[inline(always)]
    fn may_answer(&self, answer: Answer) -> bool {
        let Some(bucket) = maps::ANSWERS.get_ptr_mut(answer as u32) else { return false };
        // SAFETY: this CPU's element; nobody else writes it.
        unsafe { (*bucket).take(self.now()) }
    }

    #[inline(always)]
    fn count(&self, service: ServiceId, backend: BackendId, direction: Direction, bytes: u32) {
        if let Some(traffic) = maps::SERVICE_TRAFFIC.get_ptr_mut(service.index()) {
            // SAFETY: this CPU's element; nobody else writes it.
            direction.count(unsafe { &mut *traffic }, bytes);
        }
        if let Some(traffic) = maps::BACKEND_TRAFFIC.get_ptr_mut(backend.index()) {
            // SAFETY: as above.
            direction.count(unsafe { &mut *traffic }, bytes);
        }
    }

    #[inline(always)]
    fn count_handshake(&self, backend: BackendId, step: Handshake) {
        if let Some(handshakes) = maps::HANDSHAKES.get_ptr_mut(backend.index()) {
            // SAFETY: this CPU's element; nobody else writes it.
            unsafe { (*handshakes).count(step) }
        }
    }

    #[inline(always)]
    fn note(&self, event: Counter) {
        maps::note(event);
    }

    #[inline(always)]
    fn count_drop(&self, service: &Service) {
        if let Some(traffic) = maps::SERVICE_TRAFFIC.get_ptr_mut(service.id.index()) {
            // SAFETY: this CPU's element; nobody else writes it.
            unsafe { (*traffic).drops += 1 }
        }
    }
}
