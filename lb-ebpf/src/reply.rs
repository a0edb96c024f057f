//! Replies: translated without connection tracking.
//!
//! A packet from a backend's endpoint is a reply when the forward rules, run backwards and read-only, yield
//! that very backend. Everything else from there (answers to the host itself, the backend's own connections)
//! passes untouched.

use lb_common::route::Host;
use lb_common::{Address, BackendId, Counter, Endpoint, FlowKey, NextHop, Service, ServiceId, SocketKey};

use crate::exact::Kind;
use crate::family::{Family, Network, Side};
use crate::nat::{self, Translation};
use crate::packet::Packet;
use crate::segment::{Segment, follows};
use crate::select;
use crate::tables::{Direction, HalfOpenEntry, Tables};
use crate::transport::Transport;
use crate::verdict::Verdict;
use crate::walk::{self, At};

/// What becomes of a packet from a backend's endpoint.
#[inline(always)]
pub(crate) fn answer<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    endpoint: &Endpoint,
    network: &Network,
    at: At,
) -> Verdict {
    let host = tables.host(&network.destination);
    if host.is_some_and(Host::is_local) {
        return Verdict::PASS;
    }
    let segment = match walk::check(packet, network, at) {
        Ok(segment) => segment,
        // A fragment or a packet with options: nobody can tell whose it is.
        Err(Counter::Fragment | Counter::Options) => return Verdict::PASS,
        Err(reason) => return Verdict::drop(reason),
    };
    let whose = match claimant(tables, endpoint, network, &segment) {
        Some(ServiceId::DIRECT) => return Verdict::PASS,
        Some(id) => match tables.vip(id) {
            Some(vip) => Some(vip),
            None => return Verdict::drop(Counter::Inconsistent),
        },
        None => None,
    };
    let (vip, service) = match whose {
        Some(vip) => {
            if segment.is_syn_ack() {
                record(tables, endpoint, &vip.service, network, &segment);
            }
            (&vip.key, &vip.service)
        }
        None if belongs(tables, endpoint, network, &segment) => (&endpoint.vip, &endpoint.service),
        None => return Verdict::PASS,
    };
    match send::<F, P, T>(packet, tables, (vip, service, endpoint.backend), host, network, (at, &segment)) {
        Ok(verdict) => verdict,
        Err(reason @ (Counter::TtlExceeded | Counter::TooLong)) => Verdict::rare(reason),
        Err(reason) => Verdict::drop(reason),
    }
}

/// Whose an exact entry says that the packet is.
#[inline(always)]
fn claimant<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    network: &Network,
    segment: &Segment,
) -> Option<ServiceId> {
    if !tables.may_have_exact(endpoint.backend) {
        return None;
    }
    let (client, port) = (network.destination, segment.destination);
    let key = FlowKey { client, service: endpoint.service.id, port, padding: 0 };
    tables.claimed(&key, endpoint.backend, Kind::of(segment), segment.ack)
}

/// Notes the answer to a SYN of a further service in that flow's handshake.
#[inline(always)]
fn record<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    service: &Service,
    network: &Network,
    segment: &Segment,
) {
    let (client, port) = (network.destination, segment.destination);
    let key = FlowKey { client, service: service.id, port, padding: 0 };
    if let Some((entry, half)) = select::live_half_open(tables, &key, tables.now())
        && half.backend == endpoint.backend
        && follows(segment.ack, half.isn)
    {
        entry.record_server(segment.seq);
    }
}

/// Whether the forward rules yield the backend that sent this.
#[inline(always)]
fn belongs<T: Tables>(tables: &T, endpoint: &Endpoint, network: &Network, segment: &Segment) -> bool {
    let service = &endpoint.service;
    let client = (network.destination, segment.destination);
    let vip = (endpoint.vip.address, endpoint.vip.port);
    let index = walk::slot_of(tables, service, segment.transport, client, vip);
    let Some(slot) = tables.slot(service.table, index) else { return false };
    // Of a service that tracks always, the answer to a SYN is noted in stable slots too.
    if !(slot.is_tracked() || service.tracks_always() && segment.is_syn_ack()) {
        return slot.current() == endpoint.backend;
    }
    let now = tables.now();
    let key = FlowKey { client: client.0, service: service.id, port: client.1, padding: 0 };
    let flow = select::live_flow(tables, &key, now);
    if let Some((_, flow)) = &flow
        && flow.closing == 0
    {
        return flow.backend == endpoint.backend;
    }
    if !segment.is_udp()
        && let Some((entry, half)) = select::live_half_open(tables, &key, now)
    {
        if half.proven != 0 {
            return half.backend == endpoint.backend;
        }
        if half.backend == endpoint.backend && follows(segment.ack, half.isn) {
            if segment.is_syn_ack() {
                entry.record_server(segment.seq);
            }
            return true;
        }
    }
    // Once more: another CPU may have promoted the flow between the two look-ups.
    if let Some((_, flow)) = select::live_flow(tables, &key, now) {
        return flow.backend == endpoint.backend;
    }
    select::default(tables, slot) == endpoint.backend
}

#[inline(always)]
fn send<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    (vip, service, backend): (&SocketKey, &Service, BackendId),
    host: Option<&Host>,
    network: &Network,
    (at, segment): (At, &Segment),
) -> Result<Verdict, Counter> {
    if network.ttl <= 1 {
        return Err(Counter::TtlExceeded);
    }
    let hop =
        next_hop(packet, tables, (&vip.address, host), network, at.transport).ok_or(Counter::NoNeighbour)?;
    if walk::is_too_long(packet, network, at, hop.mtu) {
        return Err(Counter::TooLong);
    }
    let to = Translation {
        change: walk::clamp(packet, service, segment, at),
        transport: at.transport,
        side: Side::Source,
        address: &vip.address,
        port: vip.port,
        hop: &hop,
    };
    nat::translate::<F, P>(packet, at.l3, at.l4, &to)?;
    tables.count(service.id, backend, Direction::Reply, network.end as u32);
    if let Some(step) = segment.step() {
        tables.count_handshake(backend, step);
    }
    Ok(Verdict::reply(hop.ifindex))
}

/// The client's next hop: the mirrored routes, else the kernel's FIB. A neighbour that neither knows is asked for;
/// until it is found, what it said of itself when it asked for the VIP must do. That comes last, for whoever is on the
/// link can say it.
#[inline(always)]
pub(crate) fn next_hop<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    (vip, host): (&Address, Option<&Host>),
    network: &Network,
    transport: Transport,
) -> Option<NextHop> {
    let client = &network.destination;
    let known = host.filter(|host| host.has_hop()).map(|host| &host.hop);
    if let Some(hop) = known.or_else(|| tables.next_hop(client))
        && hop.ifindex != 0
    {
        return Some(*hop);
    }
    let hop = packet.route(transport.protocol(), vip, client);
    if hop.is_some() {
        return hop;
    }
    tables.want(client, packet.ifindex());
    tables.asker(client)
}
