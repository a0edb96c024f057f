//! What differs between IPv4 and IPv6; everything else of the walk is written once.

use lb_common::{Address, Counter};

use crate::checksum::Sum;
use crate::headers::{Extension, Ipv4, Ipv6, U16};
use crate::packet::Packet;
use crate::transport::Transport;

/// The IP header of a packet that may be for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// What it carries, or what its first fragment carried; `None`: extension headers hide it.
    pub transport: Option<Transport>,
    /// Where the transport header begins, in bytes from the frame's start; 0: this packet shows no ports.
    ///
    /// No `Option`: LLVM would copy its undefined payload, which the verifier refuses.
    pub l4: usize,
    /// Where the packet ends by its own header, in bytes from the frame's start.
    pub end: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Why it cannot be translated, if it turns out to be for a service.
    pub obstacle: Option<Counter>,
}

/// Which address of a packet is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Of a reply.
    Source,
    /// Of a client's packet.
    Destination,
}

/// An IP version.
pub trait Family {
    /// The IP protocol number of its ICMP.
    const ICMP: u8;

    /// The protocol number in the header at byte `l3`; over IPv6 an extension header's, if there is one.
    fn protocol<P: Packet>(packet: &P, l3: usize) -> Option<u8>;

    /// Reads the header at byte `l3`; `None`: whatever it is, it is neither TCP nor UDP over this version.
    fn inspect<P: Packet>(packet: &P, l3: usize) -> Option<Network>;

    /// Whether an address can be one host's: not loopback, multicast, broadcast or unspecified. What claims to
    /// come from any other is forged, and an answer would go astray (RFC 1122 §3.2.1.3, RFC 4291 §2.5 and §2.7).
    fn is_host(address: &Address) -> bool;

    /// Replaces one address and takes one hop off; returns what the pseudo-header's sum changes by.
    fn translate<P: Packet>(packet: &mut P, l3: usize, side: Side, to: &Address) -> Option<Sum>;
}

/// RFC 791.
pub struct V4;
/// RFC 8200.
pub struct V6;

/// The offset within the fragment field.
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Bytes of an IPv4 header without options.
const IPV4_LENGTH: usize = 20;
/// Bytes of an IPv6 header.
const IPV6_LENGTH: usize = 40;

/// IPv6 extension headers that may stand before TCP or UDP (IANA "IPv6 Extension Header Types", without ESP,
/// which hides what follows).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT_HEADER: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// Extension headers that are looked behind. More than these four nobody sends: each may appear once, the
/// destination options twice (RFC 8200 §4.1).
const DEPTH: usize = 4;

/// Whether it is an extension header that is looked behind. An authentication header covers the addresses, so
/// what is behind it cannot be translated.
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS)
}

/// What stands behind extension headers.
struct Behind {
    /// The kind of header.
    next: u8,
    /// Where it begins.
    at: usize,
    /// No routing header has somewhere else to go.
    arrived: bool,
}

/// Looks behind the extension headers that begin at byte `at` with one of kind `next`.
#[inline(always)]
fn behind_extensions<P: Packet>(packet: &P, mut next: u8, mut at: usize) -> Behind {
    let mut arrived = true;
    for _ in 0..DEPTH {
        if !is_extension(next) {
            break;
        }
        let Some(extension) = packet.header::<Extension>(at) else { break };
        arrived &= next != ROUTING || extension.left == 0;
        next = extension.next;
        at += (usize::from(extension.length) + 1) * 8;
    }
    Behind { next, at: packet.forget(at), arrived }
}

impl Family for V4 {
    const ICMP: u8 = 1;

    #[inline(always)]
    fn protocol<P: Packet>(packet: &P, l3: usize) -> Option<u8> {
        packet.header::<Ipv4>(l3).map(|ip| ip.protocol)
    }

    #[inline(always)]
    fn inspect<P: Packet>(packet: &P, l3: usize) -> Option<Network> {
        let ip = packet.header::<Ipv4>(l3)?;
        if ip.version_ihl >> 4 != 4 {
            return None;
        }
        let transport = Transport::of(ip.protocol)?;
        let header = usize::from(ip.version_ihl & 0xf) * 4;
        let total = usize::from(ip.total_length.get());
        let mut network = Network {
            source: Address::from_v4_raw(P::word(&ip.source)),
            destination: Address::from_v4_raw(P::word(&ip.destination)),
            transport: Some(transport),
            l4: 0,
            end: l3 + total,
            ttl: ip.ttl,
            obstacle: Some(Counter::Malformed),
        };
        // Compared once and for all: where it is compared again, older verifiers (6.1) walk into a branch in which
        // the length has no value, and refuse the offset that is made of it.
        if header < IPV4_LENGTH {
            return Some(network);
        }
        if ip.fragment.get() & FRAGMENT_OFFSET == 0 {
            network.l4 = l3 + header;
        }
        if ip.is_fragment() {
            network.obstacle = Some(Counter::Fragment);
        } else if total >= header + transport.header_length() {
            network.obstacle = if header > IPV4_LENGTH { Some(Counter::Options) } else { None };
        }
        Some(network)
    }

    #[inline(always)]
    fn is_host(address: &Address) -> bool {
        let raw = address.v4_raw();
        let [first, ..] = raw.to_ne_bytes();
        let is_multicast = first & 0xf0 == 0xe0;
        first != 0 && first != 127 && !is_multicast && raw != u32::MAX
    }

    #[inline(always)]
    fn translate<P: Packet>(packet: &mut P, l3: usize, side: Side, to: &Address) -> Option<Sum> {
        let ip = packet.header_mut::<Ipv4>(l3)?;
        let new = to.v4_raw();
        let field = match side {
            Side::Source => &mut ip.source,
            Side::Destination => &mut ip.destination,
        };
        let old = P::word(field);
        P::set_word(field, new);
        let address = Sum::default().swap32(old, new);
        let before = u16::from_ne_bytes([ip.ttl, ip.protocol]);
        ip.ttl = ip.ttl.wrapping_sub(1);
        let header = address.swap16(before, u16::from_ne_bytes([ip.ttl, ip.protocol]));
        ip.checksum = U16::from_raw(header.apply(ip.checksum.raw()));
        Some(address)
    }
}

impl Family for V6 {
    const ICMP: u8 = 58;

    #[inline(always)]
    fn protocol<P: Packet>(packet: &P, l3: usize) -> Option<u8> {
        packet.header::<Ipv6>(l3).map(|ip| ip.next_header)
    }

    #[inline(always)]
    fn inspect<P: Packet>(packet: &P, l3: usize) -> Option<Network> {
        let ip = packet.header::<Ipv6>(l3)?;
        if ip.version_class_flow.get() >> 28 != 6 {
            return None;
        }
        let source = Address::from_v6_raw(P::words(&ip.source));
        let destination = Address::from_v6_raw(P::words(&ip.destination));
        if source.is_v4() || destination.is_v4() {
            // IPv4-mapped addresses do not belong on the wire (RFC 4038 §4.2); here they would be taken for IPv4.
            return None;
        }
        let end = l3 + IPV6_LENGTH + usize::from(ip.payload_length.get());
        let (ttl, first) = (ip.hop_limit, ip.next_header);
        let Behind { next, at, arrived } = match Transport::of(first) {
            Some(_) => Behind { next: first, at: l3 + IPV6_LENGTH, arrived: true },
            None => behind_extensions(packet, first, l3 + IPV6_LENGTH),
        };
        let transport = Transport::of(next);
        let obstacle = match transport {
            _ if !arrived => Some(Counter::Options),
            Some(transport) if at + transport.header_length() > end => Some(Counter::Malformed),
            Some(_) => None,
            None if next == FRAGMENT_HEADER => Some(Counter::Fragment),
            None if is_extension(next) || next == AUTHENTICATION || next == MOBILITY => {
                Some(Counter::Options)
            }
            None => return None,
        };
        let l4 = if transport.is_some() && arrived { at } else { 0 };
        Some(Network { source, destination, transport, l4, end, ttl, obstacle })
    }

    #[inline(always)]
    fn is_host(address: &Address) -> bool {
        let [a, b, c, d] = address.words;
        let [first, ..] = a.to_ne_bytes();
        let is_low = a | b | c == 0 && (d == 0 || d == 1_u32.to_be());
        first != 0xff && !is_low
    }

    #[inline(always)]
    fn translate<P: Packet>(packet: &mut P, l3: usize, side: Side, to: &Address) -> Option<Sum> {
        let ip = packet.header_mut::<Ipv6>(l3)?;
        let address = match side {
            Side::Source => &mut ip.source,
            Side::Destination => &mut ip.destination,
        };
        let old = P::words(address);
        P::set_words(address, to.words);
        ip.hop_limit = ip.hop_limit.wrapping_sub(1);
        Some(Sum::default().swap128(old, to.words))
    }
}
