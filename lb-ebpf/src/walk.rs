//! From a frame to a verdict.

use lb_common::hash::{self, Tuple};
use lb_common::service::{SOURCE_AFFINITY, VIP_MARKER, vip_of};
use lb_common::{Address, Backend, Counter, FlowKey, Handshake, Port, Service, ServiceId, SocketKey};

use crate::checksum::Sum;
use crate::family::{Family, Network, Side, V4, V6};
use crate::headers::{Ports, Tcp};
use crate::link::{self, Kind};
use crate::nat::{self, Translation};
use crate::packet::Packet;
use crate::segment::{self, Segment};
use crate::tables::{Direction, Tables};
use crate::transport::Transport;
use crate::verdict::Verdict;
use crate::{exact, mss, reply, select};

/// What becomes of a frame; changes it where the verdict is to forward.
#[inline(always)]
pub fn fast<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let Some((kind, l3)) = link::network(packet) else { return Verdict::PASS };
    match kind {
        Kind::Ipv4 => walk::<V4, P, T>(packet, tables, l3),
        Kind::Ipv6 => walk::<V6, P, T>(packet, tables, l3),
        Kind::Arp => Verdict::rare(Counter::Passed),
    }
}

/// Where the headers of a packet with ports lie, in bytes from the frame's start, and which they are.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// The IP header.
    pub l3: usize,
    /// The transport header.
    pub l4: usize,
    /// What that is.
    pub transport: Transport,
}

#[inline(always)]
fn walk<F: Family, P: Packet, T: Tables>(packet: &mut P, tables: &T, l3: usize) -> Verdict {
    if F::protocol(packet, l3) == Some(F::ICMP) {
        return Verdict::rare(Counter::Passed);
    }
    let Some(network) = F::inspect(packet, l3) else { return Verdict::PASS };
    let (Some(transport), l4 @ 1..) = (network.transport, network.l4) else {
        return portless(tables, &network);
    };
    let Some(ports) = packet.header::<Ports>(l4).copied() else { return portless(tables, &network) };
    let protocol = u16::from(transport.protocol());
    let vip = SocketKey { address: network.destination, port: ports.destination, protocol };
    let at = At { l3, l4, transport };
    match tables.service(&vip) {
        Some(service) => match forward::<F, P, T>(packet, tables, service, &network, at) {
            Ok(verdict) => verdict,
            Err(reason @ (Counter::TtlExceeded | Counter::TooLong)) => Verdict::rare(reason),
            Err(reason) => {
                tables.count_drop(service);
                Verdict::drop(reason)
            }
        },
        None => {
            if is_syn(packet, at) {
                return direct(packet, tables, &vip, &network, at);
            }
            let source = SocketKey { address: network.source, port: ports.source, protocol };
            match tables.endpoint(&source) {
                Some(endpoint) => reply::answer::<F, P, T>(packet, tables, endpoint, &network, at),
                None if transport == Transport::Udp => direct(packet, tables, &vip, &network, at),
                None => Verdict::PASS,
            }
        }
    }
}

/// A client may open a flow to a backend's own address and port, past its services: that is remembered, so that the
/// answers will not be taken for a service's.
#[inline(always)]
fn direct<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    destination: &SocketKey,
    network: &Network,
    at: At,
) -> Verdict {
    let Some(endpoint) = tables.endpoint(destination) else { return Verdict::PASS };
    // What cannot be read is not ours to judge.
    let Ok(segment) = check(packet, network, at) else { return Verdict::PASS };
    let service = ServiceId::DIRECT;
    let flow = FlowKey { client: network.source, service, port: segment.source, padding: 0 };
    match exact::open(tables, &flow, endpoint.backend, &segment) {
        Ok(()) => Verdict::PASS,
        Err(reason) => Verdict::drop(reason),
    }
}

/// Whether a packet opens a TCP flow.
#[inline(always)]
fn is_syn<P: Packet>(packet: &P, at: At) -> bool {
    at.transport == Transport::Tcp && packet.header::<Tcp>(at.l4).is_some_and(|tcp| segment::opens(tcp.flags))
}

/// A packet without ports may be for a service if its destination is a VIP of one with this transport.
#[inline(always)]
fn portless<T: Tables>(tables: &T, network: &Network) -> Verdict {
    let of = network.transport.map_or(VIP_MARKER, |transport| vip_of(transport.protocol()));
    match tables.service(&SocketKey::vip(network.destination)) {
        Some(marker) if marker.flags & of != 0 => {
            Verdict::drop(network.obstacle.unwrap_or(Counter::Malformed))
        }
        Some(_) | None => Verdict::PASS,
    }
}

/// A client's packet, to the backend that the slot rules name.
#[inline(always)]
fn forward<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    service: &Service,
    network: &Network,
    at: At,
) -> Result<Verdict, Counter> {
    if network.source == network.destination || !F::is_host(&network.source) {
        return Err(Counter::ImpossibleSource);
    }
    let segment = check(packet, network, at)?;
    if network.ttl <= 1 {
        return Err(Counter::TtlExceeded);
    }
    let client = (network.source, segment.source);
    let vip = (network.destination, segment.destination);
    let slot = slot_of(tables, service, at.transport, client, vip);
    let key = FlowKey { client: client.0, service: service.id, port: client.1, padding: 0 };
    let select::Selected { backend: id, new_flow } = select::backend(tables, service, &key, slot, &segment)?;
    let backend = tables.backend(id).filter(|backend| backend.id == id).ok_or(Counter::Inconsistent)?;
    if backend.hop.ifindex == 0 {
        return Err(Counter::NoNeighbour);
    }
    if is_too_long(packet, network, at, backend.hop.mtu) {
        return Err(Counter::TooLong);
    }
    let to = Translation {
        change: clamp(packet, service, &segment, at),
        transport: at.transport,
        side: Side::Destination,
        address: &backend.address,
        port: backend.port,
        hop: &backend.hop,
    };
    if segment.is_syn() || segment.is_udp() {
        claim(tables, service, backend, &key, &segment)?;
    }
    nat::translate::<F, P>(packet, at.l3, at.l4, &to)?;
    tables.count(service.id, id, Direction::Forward { new_flow }, network.end as u32);
    if segment.is_syn() {
        tables.count_handshake(id, Handshake::Syn);
    }
    Ok(Verdict::forward(backend.hop.ifindex))
}

/// Sees to it that the backend's packets of a flow that begins will be told from those of its other flows.
#[inline(always)]
fn claim<T: Tables>(
    tables: &T,
    service: &Service,
    backend: &Backend,
    flow: &FlowKey,
    segment: &Segment,
) -> Result<(), Counter> {
    if backend.plain != service.id {
        return exact::open(tables, flow, backend.id, segment);
    }
    if segment.is_udp() && tables.may_have_exact(backend.id) {
        // Whatever the tuple was, it is this service's now, and that needs no entry.
        tables.unclaim(flow, backend.id);
    }
    Ok(())
}

/// What must hold before a packet may be translated.
///
/// # Errors
/// The drop reason.
#[inline(always)]
pub(crate) fn check<P: Packet>(packet: &P, network: &Network, at: At) -> Result<Segment, Counter> {
    if let Some(obstacle) = network.obstacle {
        return Err(obstacle);
    }
    if !packet.holds(network.end) {
        return Err(Counter::Malformed);
    }
    Segment::read(packet, at.transport, at.l4, network.end)
}

/// Lowers the maximum segment size of a SYN or SYN-ACK where the service asks for it.
#[inline(always)]
pub(crate) fn clamp<P: Packet>(packet: &mut P, service: &Service, segment: &Segment, at: At) -> Sum {
    if service.mss != 0 && segment.has_syn() {
        mss::clamp(packet, at.l4, service.mss)
    } else {
        Sum::default()
    }
}

/// Whether a packet is longer than the next link takes. What the device will cut into segments is as long as
/// each of those.
#[inline(always)]
pub(crate) fn is_too_long<P: Packet>(packet: &P, network: &Network, at: At, mtu: u32) -> bool {
    let mtu = mtu as usize;
    if network.end - at.l3 <= mtu {
        return false;
    }
    let segment = packet.segment_size();
    segment == 0 || at.l4 - at.l3 + at.transport.length_at(packet, at.l4) + segment > mtu
}

/// The slot of a flow, the same for its packets and for the replies to them.
#[inline(always)]
pub(crate) fn slot_of<T: Tables>(
    tables: &T,
    service: &Service,
    transport: Transport,
    client: (Address, Port),
    vip: (Address, Port),
) -> u32 {
    let by_port = service.flags & SOURCE_AFFINITY == 0;
    let tuple = Tuple {
        source: client.0,
        destination: vip.0,
        source_port: if by_port { client.1 } else { Port::new(0) },
        destination_port: vip.1,
        protocol: transport.protocol(),
    };
    hash::slot(tuple.hash(|word| tables.hash_key(word)), service.slots)
}
