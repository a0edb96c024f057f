//! ICMP errors about packets of services (RFC 5508 §4): matched by the packet that they quote, and translated
//! with it, so that each side hears of the packet that it knows.

use lb_common::{Address, Counter, FlowKey, NextHop, Port, ServiceId, SocketKey};

use super::message::Message;
use super::owner::{self, Flow};
use crate::checksum::Sum;
use crate::family::{Network, Side};
use crate::headers::{Ethernet, Icmp, Ports, U16, U32};
use crate::packet::Packet;
use crate::reply;
use crate::tables::{Direction, Tables};
use crate::transport::fix_in_place;
use crate::verdict::Verdict;
use crate::walk::At;

/// The beginning of the quoted packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoted {
    /// Its sender.
    pub(super) source: Address,
    /// Its receiver.
    pub(super) destination: Address,
    /// Where its headers begin.
    pub(super) at: At,
}

/// Ports and, of TCP, the sequence number: the least that an error quotes (RFC 792).
type Beginning = [U32; 2];

impl Quoted {
    /// Ports and sequence number (of UDP: nothing in particular), if they are quoted.
    #[inline(always)]
    fn beginning<P: Packet>(&self, packet: &P, end: usize) -> Option<(Ports, u32)> {
        if self.at.l4 + size_of::<Beginning>() > end {
            return None;
        }
        let [ports, seq] = *packet.header::<Beginning>(self.at.l4)?;
        Some((zerocopy::transmute!(ports), seq.get()))
    }
}

/// An error for a VIP: about a reply that a backend sent. It goes to that backend.
///
/// # Errors
/// [`Counter::Icmp`] where it is about no packet of ours; else why it cannot be forwarded.
#[inline(always)]
pub(super) fn to_backend<F: Message, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    network: &Network,
    l3: usize,
) -> Result<Verdict, Counter> {
    let quoted = quoted::<F, P>(packet, network).ok_or(Counter::Icmp)?;
    let (ports, seq) = quoted.beginning(packet, network.end).ok_or(Counter::Icmp)?;
    if quoted.source != network.destination {
        return Err(Counter::Icmp);
    }
    let transport = quoted.at.transport;
    let protocol = u16::from(transport.protocol());
    let vip = SocketKey { address: quoted.source, port: ports.source, protocol };
    let service = tables.service(&vip).ok_or(Counter::Icmp)?;
    let key =
        FlowKey { client: quoted.destination, service: service.id, port: ports.destination, padding: 0 };
    let flow = Flow { transport, key, vip: &vip };
    let id = owner::of(tables, service, &flow, |half| owner::is_servers(half, seq));
    let backend = tables.backend(id).filter(|backend| backend.id == id).ok_or(Counter::NoBackend)?;
    if backend.hop.ifindex == 0 {
        return Err(Counter::NoNeighbour);
    }
    let to = Target { address: &backend.address, port: backend.port, hop: &backend.hop };
    translate::<F, P>(packet, network, l3, (Side::Destination, &quoted, &to))?;
    tables.count(service.id, id, Direction::Forward { new_flow: false }, network.end as u32);
    Ok(Verdict::forward(backend.hop.ifindex))
}

/// An error for somebody else: from a backend, or from a router before it, about a client's packet. It goes to
/// that client in the name of the VIP, the only one it knows.
///
/// # Errors
/// [`Counter::Passed`] where it is about no packet of ours; else why it cannot be forwarded.
#[inline(always)]
pub(super) fn to_client<F: Message, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    network: &Network,
    l3: usize,
) -> Result<Verdict, Counter> {
    let quoted = quoted::<F, P>(packet, network).ok_or(Counter::Passed)?;
    let (ports, seq) = quoted.beginning(packet, network.end).ok_or(Counter::Passed)?;
    let transport = quoted.at.transport;
    let protocol = u16::from(transport.protocol());
    let backend = SocketKey { address: quoted.destination, port: ports.destination, protocol };
    let endpoint = tables.endpoint(&backend).ok_or(Counter::Passed)?;
    if quoted.source != network.destination || tables.is_local(&network.destination) {
        return Err(Counter::Passed);
    }
    let key = FlowKey { client: quoted.source, service: endpoint.service.id, port: ports.source, padding: 0 };
    let may_have_exact = tables.may_have_exact(endpoint.backend);
    let whose = if may_have_exact { tables.claimed_quote(&key, endpoint.backend, seq) } else { None };
    let (vip, service) = match whose {
        Some(ServiceId::DIRECT) => return Err(Counter::Passed),
        Some(id) => {
            let vip = tables.vip(id).ok_or(Counter::Passed)?;
            (&vip.key, vip.service.id)
        }
        None => {
            let flow = Flow { transport, key, vip: &endpoint.vip };
            let id = owner::of(tables, &endpoint.service, &flow, |half| owner::is_clients(half, seq));
            if id != endpoint.backend {
                return Err(Counter::Passed);
            }
            (&endpoint.vip, endpoint.service.id)
        }
    };
    let host = tables.host(&network.destination);
    let hop = reply::next_hop(packet, tables, (&vip.address, host), network, transport);
    let hop = hop.ok_or(Counter::NoNeighbour)?;
    let to = Target { address: &vip.address, port: vip.port, hop: &hop };
    translate::<F, P>(packet, network, l3, (Side::Source, &quoted, &to))?;
    tables.count(service, endpoint.backend, Direction::Reply, network.end as u32);
    Ok(Verdict::reply(hop.ifindex))
}

/// The quoted packet; `None`: it is neither TCP nor UDP, its ports are not quoted, or the error says what no
/// link is like and would only slow the receiver down.
#[inline(always)]
fn quoted<F: Message, P: Packet>(packet: &P, network: &Network) -> Option<Quoted> {
    let icmp = packet.header::<Icmp>(network.l4)?;
    if F::is_too_narrow(icmp) {
        return None;
    }
    F::quoted(packet, network.l4 + size_of::<Icmp>())
}

/// What takes the place of one address and port.
struct Target<'a> {
    address: &'a Address,
    port: Port,
    hop: &'a NextHop,
}

/// Rewrites the whole frame: `side` is that of the outer packet, the quoted one has it the other way round.
#[inline(always)]
fn translate<F: Message, P: Packet>(
    packet: &mut P,
    network: &Network,
    l3: usize,
    (side, quoted, to): (Side, &Quoted, &Target<'_>),
) -> Result<(), Counter> {
    if network.ttl <= 1 {
        return Err(Counter::TtlExceeded);
    }
    rewrite::<F, P>(packet, network, l3, (side, quoted, to)).ok_or(Counter::Rewrite)
}

#[inline(always)]
fn rewrite<F: Message, P: Packet>(
    packet: &mut P,
    network: &Network,
    l3: usize,
    (side, quoted, to): (Side, &Quoted, &Target<'_>),
) -> Option<()> {
    let ethernet = packet.header_mut::<Ethernet>(0)?;
    ethernet.destination = to.hop.destination;
    ethernet.source = to.hop.source;
    let outer = F::translate(packet, l3, side, to.address)?;
    let inner = requote::<F, P>(packet, network.end, (side, quoted, to))?;
    let change = if F::COVERS_ADDRESSES { inner.plus(outer) } else { inner };
    let icmp = packet.header_mut::<Icmp>(network.l4)?;
    icmp.checksum = U16::from_raw(change.apply(icmp.checksum.raw()));
    Some(())
}

/// Translates the quoted packet, its own checksums too where they are quoted; returns what its bytes' sum
/// changes by.
#[inline(always)]
fn requote<F: Message, P: Packet>(
    packet: &mut P,
    end: usize,
    (side, quoted, to): (Side, &Quoted, &Target<'_>),
) -> Option<Sum> {
    let At { l3, l4, transport } = quoted.at;
    let (address, mut bytes) = F::requote(packet, l3, side, to.address)?;
    let ports = packet.header_mut::<Ports>(l4)?;
    let port = match side {
        Side::Source => &mut ports.destination,
        Side::Destination => &mut ports.source,
    };
    let change = Sum::default().swap16(port.raw(), to.port.raw());
    *port = to.port;
    bytes = bytes.plus(change);
    let checksum = l4 + transport.checksum_at();
    if checksum + size_of::<U16>() <= end {
        let old = packet.header::<U16>(checksum)?.raw();
        fix_in_place(packet, transport, l4, address.plus(change))?;
        bytes = bytes.swap16(old, packet.header::<U16>(checksum)?.raw());
    }
    Some(bytes)
}
