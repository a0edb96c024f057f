//! What differs between IPv4 and IPv6; everything else of the walk is written once.

use lb_common::{Address, Counter};

use crate::checksum::Sum;
use crate::headers::{Ipv4, Ipv6, U16, U32, field, words};
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
    /// Where the transport header begins, in bytes from the frame's start; `None`: this packet shows no ports.
    pub l4: Option<usize>,
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
    /// Reads the header at byte `l3`; `None`: whatever it is, it is neither TCP nor UDP over this version.
    fn inspect<P: Packet>(packet: &P, l3: usize) -> Option<Network>;

    /// Replaces one address and takes one hop off; returns what the pseudo-header's sum changes by.
    fn translate<P: Packet>(packet: &mut P, l3: usize, side: Side, to: &Address) -> Option<Sum>;
}

/// RFC 791.
pub struct V4;
/// RFC 8200.
pub struct V6;

/// The more-fragments bit and the offset, without the reserved and don't-fragment bits.
const FRAGMENT: u16 = 0x3fff;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Bytes of an IPv4 header without options.
const IPV4_LENGTH: usize = 20;
/// Bytes of an IPv6 header.
const IPV6_LENGTH: usize = 40;

/// IPv6 extension headers that may stand before TCP or UDP (IANA "IPv6 Extension Header Types", without ESP, which
/// hides what follows).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT_HEADER: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

impl Family for V4 {
    #[inline(always)]
    fn inspect<P: Packet>(packet: &P, l3: usize) -> Option<Network> {
        let ip = packet.header::<Ipv4>(l3)?;
        if ip.version_ihl >> 4 != 4 {
            return None;
        }
        let transport = Transport::of(ip.protocol)?;
        let header = usize::from(ip.version_ihl & 0xf) * 4;
        let total = usize::from(ip.total_length.get());
        let fragment = ip.fragment.get() & FRAGMENT;
        let has_ports = header >= IPV4_LENGTH && fragment & FRAGMENT_OFFSET == 0;
        let obstacle = if fragment != 0 {
            Some(Counter::Fragment)
        } else if header < IPV4_LENGTH || total < header + transport.header_length() {
            Some(Counter::Malformed)
        } else if header > IPV4_LENGTH {
            Some(Counter::Options)
        } else {
            None
        };
        Some(Network {
            source: Address::from_v4_raw(ip.source.raw()),
            destination: Address::from_v4_raw(ip.destination.raw()),
            transport: Some(transport),
            l4: if has_ports { Some(l3 + header) } else { None },
            end: l3 + total,
            ttl: ip.ttl,
            obstacle,
        })
    }

    #[inline(always)]
    fn translate<P: Packet>(packet: &mut P, l3: usize, side: Side, to: &Address) -> Option<Sum> {
        let ip = packet.header_mut::<Ipv4>(l3)?;
        let new = to.v4_raw();
        let old = match side {
            Side::Source => core::mem::replace(&mut ip.source, U32::from_raw(new)).raw(),
            Side::Destination => core::mem::replace(&mut ip.destination, U32::from_raw(new)).raw(),
        };
        let address = Sum::default().swap32(old, new);
        let before = u16::from_ne_bytes([ip.ttl, ip.protocol]);
        ip.ttl = ip.ttl.wrapping_sub(1);
        let header = address.swap16(before, u16::from_ne_bytes([ip.ttl, ip.protocol]));
        ip.checksum = U16::from_raw(header.apply(ip.checksum.raw()));
        Some(address)
    }
}

impl Family for V6 {
    #[inline(always)]
    fn inspect<P: Packet>(packet: &P, l3: usize) -> Option<Network> {
        let ip = packet.header::<Ipv6>(l3)?;
        if ip.version_class_flow.get() >> 28 != 6 {
            return None;
        }
        let source = Address::from_v6_raw(words(ip.source));
        let destination = Address::from_v6_raw(words(ip.destination));
        if source.is_v4() || destination.is_v4() {
            // IPv4-mapped addresses do not belong on the wire (RFC 4038 §4.2); here they would be taken for IPv4.
            return None;
        }
        let payload = usize::from(ip.payload_length.get());
        let transport = Transport::of(ip.next_header);
        let obstacle = match (transport, ip.next_header) {
            (Some(transport), _) if payload < transport.header_length() => Some(Counter::Malformed),
            (Some(_), _) => None,
            (None, FRAGMENT_HEADER) => Some(Counter::Fragment),
            (None, HOP_BY_HOP | ROUTING | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY) => {
                Some(Counter::Options)
            }
            (None, _) => return None,
        };
        Some(Network {
            source,
            destination,
            transport,
            l4: if transport.is_some() { Some(l3 + IPV6_LENGTH) } else { None },
            end: l3 + IPV6_LENGTH + payload,
            ttl: ip.hop_limit,
            obstacle,
        })
    }

    #[inline(always)]
    fn translate<P: Packet>(packet: &mut P, l3: usize, side: Side, to: &Address) -> Option<Sum> {
        let ip = packet.header_mut::<Ipv6>(l3)?;
        let new = field(to.words);
        let old = match side {
            Side::Source => core::mem::replace(&mut ip.source, new),
            Side::Destination => core::mem::replace(&mut ip.destination, new),
        };
        ip.hop_limit = ip.hop_limit.wrapping_sub(1);
        Some(Sum::default().swap128(words(old), to.words))
    }
}
