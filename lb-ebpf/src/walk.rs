//! From a frame to a verdict.

use lb_common::address::TCP;
use lb_common::hash::{self, Tuple};
use lb_common::service::SOURCE_AFFINITY;
use lb_common::{Address, Counter, FlowKey, Port, Service, SocketKey};

use crate::family::{Family, Network, Side, V4, V6};
use crate::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Ethernet, Ports, Vlan};
use crate::nat::{self, Translation};
use crate::packet::Packet;
use crate::segment::Segment;
use crate::tables::{Direction, Tables};
use crate::verdict::Verdict;
use crate::{reply, select};

/// Bytes of an Ethernet header.
const ETHERNET_LENGTH: usize = 14;
/// Bytes of an 802.1Q tag.
const VLAN_LENGTH: usize = 4;

/// What becomes of a frame; changes it where the verdict is to forward.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let Some((kind, l3)) = link(packet) else { return Verdict::PASS };
    match kind {
        Kind::Ipv4 => walk::<V4, P, T>(packet, tables, l3),
        Kind::Ipv6 => walk::<V6, P, T>(packet, tables, l3),
    }
}

enum Kind {
    Ipv4,
    Ipv6,
}

/// The network layer's kind and place. The place is a run-time value (14 or 18): one walk serves both.
#[inline(always)]
fn link<P: Packet>(packet: &P) -> Option<(Kind, usize)> {
    let ethernet = packet.header::<Ethernet>(0)?;
    let (kind, l3) = if ethernet.kind == ETHERTYPE_VLAN {
        (packet.header::<Vlan>(ETHERNET_LENGTH)?.kind, ETHERNET_LENGTH + VLAN_LENGTH)
    } else {
        (ethernet.kind, ETHERNET_LENGTH)
    };
    match kind {
        ETHERTYPE_IPV4 => Some((Kind::Ipv4, l3)),
        ETHERTYPE_IPV6 => Some((Kind::Ipv6, l3)),
        _ => None,
    }
}

#[inline(always)]
fn walk<F: Family, P: Packet, T: Tables>(packet: &mut P, tables: &T, l3: usize) -> Verdict {
    let Some(network) = F::inspect(packet, l3) else { return Verdict::PASS };
    let Some((l4, ports)) = network.l4.and_then(|l4| Some((l4, *packet.header::<Ports>(l4)?))) else {
        return portless(tables, &network);
    };
    let vip = SocketKey { address: network.destination, port: ports.destination, protocol: u16::from(TCP) };
    match tables.service(&vip) {
        Some(service) => match forward::<F, P, T>(packet, tables, service, &network, (l3, l4)) {
            Ok(verdict) => verdict,
            Err(reason) => {
                tables.count_drop(service);
                Verdict::drop(reason)
            }
        },
        None => {
            let source = SocketKey { address: network.source, port: ports.source, protocol: u16::from(TCP) };
            match tables.endpoint(&source) {
                Some(endpoint) => reply::answer::<F, P, T>(packet, tables, endpoint, &network, (l3, l4)),
                None => Verdict::PASS,
            }
        }
    }
}

/// A packet without ports is for a service if its destination is a VIP.
#[inline(always)]
fn portless<T: Tables>(tables: &T, network: &Network) -> Verdict {
    match tables.service(&SocketKey::vip(network.destination)) {
        Some(_) => Verdict::drop(network.obstacle.unwrap_or(Counter::Malformed)),
        None => Verdict::PASS,
    }
}

/// A client's packet, to the backend that the slot rules name.
#[inline(always)]
fn forward<F: Family, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    service: &Service,
    network: &Network,
    (l3, l4): (usize, usize),
) -> Result<Verdict, Counter> {
    let segment = check(packet, network, l4)?;
    let client = (network.source, segment.source);
    let vip = (network.destination, segment.destination);
    let slot = slot_of(tables, service, client, vip);
    let key = FlowKey { client: client.0, service: service.id, port: client.1, padding: 0 };
    let id = select::backend(tables, service, &key, slot, &segment)?;
    let backend = tables.backend(id).filter(|backend| backend.id == id).ok_or(Counter::Inconsistent)?;
    if backend.hop.ifindex == 0 {
        return Err(Counter::NoNeighbour);
    }
    let to = Translation {
        side: Side::Destination,
        address: &backend.address,
        port: backend.port,
        hop: &backend.hop,
    };
    nat::translate::<F, P>(packet, l3, l4, &to)?;
    tables.count(service, id, Direction::Forward { new_flow: segment.is_syn() }, network.end as u32);
    Ok(Verdict::forward(backend.hop.ifindex))
}

/// What must hold before a packet may be translated.
///
/// # Errors
/// The drop reason.
#[inline(always)]
pub(crate) fn check<P: Packet>(packet: &P, network: &Network, l4: usize) -> Result<Segment, Counter> {
    if let Some(obstacle) = network.obstacle {
        return Err(obstacle);
    }
    if !packet.holds(network.end) {
        return Err(Counter::Malformed);
    }
    let segment = Segment::read(packet, l4, network.end)?;
    if network.ttl <= 1 {
        return Err(Counter::TtlExceeded);
    }
    Ok(segment)
}

/// The slot of a flow, the same for its packets and for the replies to them.
#[inline(always)]
pub(crate) fn slot_of<T: Tables>(
    tables: &T,
    service: &Service,
    client: (Address, Port),
    vip: (Address, Port),
) -> u32 {
    let by_port = service.flags & SOURCE_AFFINITY == 0;
    let tuple = Tuple {
        source: client.0,
        destination: vip.0,
        source_port: if by_port { client.1 } else { Port::new(0) },
        destination_port: vip.1,
        protocol: TCP,
    };
    hash::slot(tuple.hash(tables.seed()), service.slots)
}
