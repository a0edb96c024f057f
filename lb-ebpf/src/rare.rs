//! The rare packets: a second walk, in a program of its own.
//!
//! ICMP, ARP, and packets of services that cannot go on as they are (too long for the next link, time to live
//! used up). The first walk only notices them ([`Verdict::rare`]) and has changed nothing by then; this one begins
//! with the frame's first byte again, so the two programs share no state and may be of different builds. What
//! it costs, no other packet pays.
//!
//! It reads slots and entries and writes none.

mod answer;
mod arp;
mod discovery;
mod echo;
mod errors;
pub mod limiter;
mod message;
mod owner;

use lb_common::service::VIP_PING;
use lb_common::{Counter, FlowKey, Service, SocketKey};

use crate::family::{Network, V4, V6};
use crate::headers::{Icmp, Ports};
use crate::link::{self, Kind};
use crate::packet::Packet;
use crate::tables::Tables;
use crate::verdict::Verdict;
use crate::walk::{self, At};
use answer::Problem;
use message::Message;
use owner::Flow;

/// What becomes of a frame that the first walk left to this one.
#[inline(always)]
pub fn rare<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let Some((kind, l3)) = link::network(packet) else { return Verdict::PASS };
    match kind {
        Kind::Ipv4 => walk::<V4, P, T>(packet, tables, l3),
        Kind::Ipv6 => match discovery::answer(packet, tables, l3) {
            Some(verdict) => verdict,
            None => walk::<V6, P, T>(packet, tables, l3),
        },
        Kind::Arp => arp::answer(packet, tables, l3),
    }
}

#[inline(always)]
fn walk<F: Message, P: Packet, T: Tables>(packet: &mut P, tables: &T, l3: usize) -> Verdict {
    match F::message(packet, l3) {
        Some(network) => message::<F, P, T>(packet, tables, &network, l3),
        None => trouble::<F, P, T>(packet, tables, l3),
    }
}

/// An ICMP message.
#[inline(always)]
fn message<F: Message, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    network: &Network,
    l3: usize,
) -> Verdict {
    let outcome = match tables.service(&SocketKey::vip(network.destination)) {
        Some(marker) => to_vip::<F, P, T>(packet, tables, network, l3, marker),
        None => to_others::<F, P, T>(packet, tables, network, l3),
    };
    match outcome {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::drop(reason),
    }
}

#[inline(always)]
fn to_vip<F: Message, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    network: &Network,
    l3: usize,
    marker: &Service,
) -> Result<Verdict, Counter> {
    if let Some(obstacle) = network.obstacle {
        return Err(obstacle);
    }
    let kind = packet.header::<Icmp>(network.l4).ok_or(Counter::Malformed)?.kind;
    if F::is_neighbourly(kind) {
        return Ok(Verdict::PASS);
    }
    if !packet.holds(network.end) {
        return Err(Counter::Malformed);
    }
    if network.source == network.destination || !F::is_host(&network.source) {
        return Err(Counter::ImpossibleSource);
    }
    if kind == F::ECHO_REQUEST {
        let may = marker.flags & VIP_PING != 0;
        return echo::answer::<F, P, T>(packet, tables, network, l3, may);
    }
    let outcome = if F::is_error(kind) {
        errors::to_backend::<F, P, T>(packet, tables, network, l3)
    } else {
        Err(Counter::Icmp)
    };
    match outcome {
        // Perhaps about the host's own connections, from an address that it shares with a service.
        Err(Counter::Icmp) if tables.is_local(&network.destination) => Ok(Verdict::PASS),
        outcome => outcome,
    }
}

/// A message that is not for a VIP; about a packet of a service it may be all the same.
#[inline(always)]
fn to_others<F: Message, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    network: &Network,
    l3: usize,
) -> Result<Verdict, Counter> {
    let is_error = packet.header::<Icmp>(network.l4).is_some_and(|icmp| F::is_error(icmp.kind));
    if !is_error || network.obstacle.is_some() || !packet.holds(network.end) {
        return Ok(Verdict::PASS);
    }
    errors::to_client::<F, P, T>(packet, tables, network, l3)
}

/// A packet of a service that cannot go on.
#[inline(always)]
fn trouble<F: Message, P: Packet, T: Tables>(packet: &mut P, tables: &T, l3: usize) -> Verdict {
    let Some(network) = F::inspect(packet, l3) else { return Verdict::PASS };
    let (Some(transport), l4 @ 1..) = (network.transport, network.l4) else { return Verdict::PASS };
    let Some(ports) = packet.header::<Ports>(l4).copied() else { return Verdict::PASS };
    let protocol = u16::from(transport.protocol());
    let at = At { l3, l4, transport };
    let destination = SocketKey { address: network.destination, port: ports.destination, protocol };
    if let Some(service) = tables.service(&destination) {
        tables.count_drop(service);
        let key = FlowKey { client: network.source, service: service.id, port: ports.source, padding: 0 };
        let flow = Flow { transport, key, vip: &destination };
        return match to_backend::<P, T>(packet, tables, service, &network, (at, &flow)) {
            Ok(problem) => {
                answer::send::<F, P, T>(packet, tables, &network, at, (&destination.address, problem))
            }
            Err(reason) => Verdict::drop(reason),
        };
    }
    let source = SocketKey { address: network.source, port: ports.source, protocol };
    let Some(endpoint) = tables.endpoint(&source) else { return Verdict::PASS };
    let vip = &endpoint.vip.address;
    match to_client::<P, T>(packet, tables, &network, at, vip) {
        Some(problem) => answer::send::<F, P, T>(packet, tables, &network, at, (vip, problem)),
        None => Verdict::drop(Counter::NoNeighbour),
    }
}

/// What stops a client's packet.
#[inline(always)]
fn to_backend<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    service: &Service,
    network: &Network,
    (at, flow): (At, &Flow),
) -> Result<Problem, Counter> {
    let segment = walk::check(packet, network, at)?;
    if network.ttl <= 1 {
        return Ok(Problem::EXPIRED);
    }
    let id = owner::of(tables, service, flow, |half| owner::is_clients(half, segment.seq));
    let backend = tables.backend(id).filter(|backend| backend.id == id).ok_or(Counter::NoBackend)?;
    Ok(Problem::too_long(backend.hop.mtu))
}

/// What stops a reply; `None`: the way to the client is not known (any more).
#[inline(always)]
fn to_client<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    network: &Network,
    at: At,
    vip: &lb_common::Address,
) -> Option<Problem> {
    if network.ttl <= 1 {
        return Some(Problem::EXPIRED);
    }
    let host = tables.host(&network.destination);
    let hop = crate::reply::next_hop(packet, tables, (vip, host), network, at.transport)?;
    Some(Problem::too_long(hop.mtu))
}
