//! Whose a flow is, by the forward rules, read-only: for packets that are about a flow and not of it.

use lb_common::{BackendId, FlowKey, HalfOpen, Service, SocketKey};

use crate::segment::follows;
use crate::select;
use crate::tables::Tables;
use crate::transport::Transport;
use crate::walk;

/// A client's flow to a service.
pub(super) struct Flow<'a> {
    /// Its transport.
    pub(super) transport: Transport,
    /// The client, and the service's id.
    pub(super) key: FlowKey,
    /// The service.
    pub(super) vip: &'a SocketKey,
}

/// The backend of a flow; [`BackendId::NONE`] where there is none. `proves` tells whether the sequence number
/// at hand belongs to a handshake.
#[inline(always)]
pub(super) fn of<T: Tables>(
    tables: &T,
    service: &Service,
    flow: &Flow<'_>,
    proves: impl Fn(&HalfOpen) -> bool,
) -> BackendId {
    let vip = (flow.vip.address, flow.vip.port);
    let index = walk::slot_of(tables, service, flow.transport, (flow.key.client, flow.key.port), vip);
    let Some(slot) = tables.slot(service.table, index) else { return BackendId::NONE };
    if !slot.is_tracked() {
        return slot.current();
    }
    let now = tables.now();
    let known = select::live_flow(tables, &flow.key, now).map(|(_, flow)| flow);
    if let Some(flow) = &known
        && flow.closing == 0
    {
        return flow.backend;
    }
    if let Some((_, half)) = select::live_half_open(tables, &flow.key, now)
        && (half.proven != 0 || proves(&half))
    {
        return half.backend;
    }
    known.map_or_else(|| select::default(tables, slot), |flow| flow.backend)
}

/// Whether a client's sequence number belongs to a handshake: its SYN, or what follows it.
#[inline(always)]
pub(super) fn is_clients(half: &HalfOpen, seq: u32) -> bool {
    seq == half.isn || follows(seq, half.isn)
}

/// Whether a server's sequence number belongs to a handshake: its SYN-ACK, or what follows it.
#[inline(always)]
pub(super) fn is_servers(half: &HalfOpen, seq: u32) -> bool {
    let [first, second] = half.server_isn;
    (half.recorded >= 1 && (seq == first || follows(seq, first)))
        || (half.recorded >= 2 && (seq == second || follows(seq, second)))
}
