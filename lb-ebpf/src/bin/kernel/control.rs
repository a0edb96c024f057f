//! What the flood tests are proven by: [`Tables`] of a usual balancer, which remembers a flow from its SYN on in one
//! table that evicts the oldest, and knows of each slot only whose it is now. It must lose flows in a flood.
//!
//! Wants services that track always, because the walk offers nothing to remember otherwise in slots like these.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use lb_common::route::Host;
use lb_common::{
    Address, Backend, BackendId, Claim, Counter, Endpoint, Exact, ExactKey, Flow, FlowKey, HalfOpen,
    Handshake, NextHop, Service, ServiceId, Slot, SocketKey, Station, Vip, limits,
};
use lb_ebpf::rare::limiter::Answer;
use lb_ebpf::tables::{Direction, Tables};

use crate::tables::{Entry, Maps};

/// All flows; the test says how many.
#[map]
static CONNECTIONS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(limits::FLOWS, 0);

/// The maps of this object, and [`CONNECTIONS`]. What is left to the rare programs knows of the former only.
pub struct Control;

impl Tables for Control {
    type Flow = Entry<Flow>;
    type HalfOpen = Entry<HalfOpen>;
    type Exact = Entry<Exact>;

    /// Nothing but the backend of new flows is known, and every packet looks into the table.
    #[inline(always)]
    fn slot(&self, table: u32, index: u32) -> Option<Slot> {
        let current = Maps.slot(table, index)?.current();
        Some(Slot::tracked(current, current, false))
    }

    #[inline(always)]
    fn admit(&self, _: u32) -> bool {
        true
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Self::Flow> {
        CONNECTIONS.get_ptr_mut(key).map(Entry)
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        CONNECTIONS.insert(key, flow, 0).is_ok()
    }

    #[inline(always)]
    fn half_open(&self, _: &FlowKey) -> Option<Self::HalfOpen> {
        None
    }

    /// A flow like any other.
    #[inline(always)]
    fn insert_half_open(&self, key: &FlowKey, entry: &HalfOpen) -> bool {
        let HalfOpen { backend, slot, table, isn, expires, .. } = *entry;
        self.insert_flow(key, &Flow { backend, slot, table, seq: isn, expires, closing: 0 })
    }

    #[inline(always)]
    fn remove_half_open(&self, _: &FlowKey) {}

    // Of exact entries it knows nothing: the tests have one service, and nobody goes past it.

    #[inline(always)]
    fn vip(&self, _: ServiceId) -> Option<&Vip> {
        None
    }

    #[inline(always)]
    fn exact(&self, _: &ExactKey) -> Option<Self::Exact> {
        None
    }

    #[inline(always)]
    fn insert_exact(&self, _: &ExactKey, _: Claim, _: bool) -> bool {
        false
    }

    #[inline(always)]
    fn may_have_exact(&self, _: BackendId) -> bool {
        false
    }

    #[inline(always)]
    fn expect_exact(&self, _: BackendId) {}

    #[inline(always)]
    fn now(&self) -> u32 {
        Maps.now()
    }

    #[inline(always)]
    fn hash_key(&self, word: usize) -> u64 {
        Maps.hash_key(word)
    }

    #[inline(always)]
    fn service(&self, key: &SocketKey) -> Option<&Service> {
        Maps.service(key)
    }

    #[inline(always)]
    fn endpoint(&self, key: &SocketKey) -> Option<&Endpoint> {
        Maps.endpoint(key)
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<&Backend> {
        Maps.backend(id)
    }

    #[inline(always)]
    fn stamp_old(&self, _: u32, _: u32, _: u32) {}

    #[inline(always)]
    fn host(&self, address: &Address) -> Option<&Host> {
        Maps.host(address)
    }

    #[inline(always)]
    fn next_hop(&self, address: &Address) -> Option<&NextHop> {
        Maps.next_hop(address)
    }

    #[inline(always)]
    fn station(&self, station: &Station) -> Option<&NextHop> {
        Maps.station(station)
    }

    #[inline(always)]
    fn remember_asker(&self, address: &Address, hop: &NextHop) {
        Maps.remember_asker(address, hop);
    }

    #[inline(always)]
    fn asker(&self, address: &Address) -> Option<NextHop> {
        Maps.asker(address)
    }

    #[inline(always)]
    fn want(&self, address: &Address, ifindex: u32) {
        Maps.want(address, ifindex);
    }

    #[inline(always)]
    fn may_answer(&self, answer: Answer) -> bool {
        Maps.may_answer(answer)
    }

    #[inline(always)]
    fn count(&self, service: ServiceId, backend: BackendId, direction: Direction, bytes: u32) {
        Maps.count(service, backend, direction, bytes);
    }

    #[inline(always)]
    fn note(&self, event: Counter) {
        Maps.note(event);
    }

    #[inline(always)]
    fn count_handshake(&self, backend: BackendId, step: Handshake) {
        Maps.count_handshake(backend, step);
    }

    #[inline(always)]
    fn count_drop(&self, service: &Service) {
        Maps.count_drop(service);
    }
}
