//! What differs between ICMP (RFC 792) and ICMPv6 (RFC 4443).

use lb_common::{Address, Counter};

use super::errors::Quoted;
use crate::checksum::Sum;
use crate::family::{Family, Network, Side, V4, V6};
use crate::headers::{Icmp, Ipv4, Ipv6, U16, U32, field, words};
use crate::packet::Packet;
use crate::transport::Transport;
use crate::walk::At;

/// The bytes of an ICMP header.
const ICMP_LENGTH: usize = 8;
/// The hop limit of what we send.
const TTL: u8 = 64;
/// No link on the internet is narrower, and Linux believes no error that says so (`min_pmtu`); a forged one
/// would cut flows into crumbs (RFC 5927 §7.2).
const LEAST_IPV4_MTU: u32 = 552;
/// The least that an IPv6 link may take (RFC 8200 §5); a host ignores anything below (RFC 8201 §4).
const LEAST_IPV6_MTU: u32 = 1280;

/// A family's ICMP.
pub(super) trait Message: Family {
    /// Of a ping.
    const ECHO_REQUEST: u8;
    /// Of its answer.
    const ECHO_REPLY: u8;
    /// The bytes of an IP packet with an error of ours in it.
    const ERROR_LENGTH: usize;

    /// The IP header at byte `l3` of an ICMP message; its `l4` is where the ICMP header begins. `None`: it is
    /// something else, or hidden behind extension headers.
    fn message<P: Packet>(packet: &P, l3: usize) -> Option<Network>;

    /// Whether its checksum covers the addresses.
    const COVERS_ADDRESSES: bool;

    /// Whether a type says that a packet did not arrive.
    fn is_error(kind: u8) -> bool;

    /// Whether an error claims a link that takes less than what any host has to believe in.
    fn is_too_narrow(icmp: &Icmp) -> bool;

    /// The quoted packet at byte `l3`, if it is TCP or UDP and shows its ports.
    fn quoted<P: Packet>(packet: &P, l3: usize) -> Option<Quoted>;

    /// Replaces an address of the quoted packet at byte `l3`, the one on the other side than `side`; returns
    /// what the sums of its pseudo-header and of its own header change by.
    fn requote<P: Packet>(packet: &mut P, l3: usize, side: Side, to: &Address) -> Option<(Sum, Sum)>;

    /// Whether a type is business between neighbours (neighbour discovery, multicast listeners): the host's.
    fn is_neighbourly(kind: u8) -> bool;

    /// Whether routers may not cut the packet.
    fn forbids_fragments<P: Packet>(packet: &P, l3: usize) -> bool;

    /// Swaps the addresses and gives the packet a new life.
    fn turn<P: Packet>(packet: &mut P, l3: usize) -> Option<()>;

    /// Writes an error over the packet at byte `l3`, quoting its beginning: the packet is too long for `mtu`
    /// bytes, or with 0 its time to live is used up.
    fn write_error<P: Packet>(packet: &mut P, at: At, between: (&Address, &Address), mtu: u32) -> Option<()>;
}

impl Message for V4 {
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const ERROR_LENGTH: usize = 20 + ICMP_LENGTH + size_of::<Quote4>();

    #[inline(always)]
    fn message<P: Packet>(packet: &P, l3: usize) -> Option<Network> {
        let ip = packet.header::<Ipv4>(l3)?;
        if ip.version_ihl >> 4 != 4 || ip.protocol != Self::ICMP {
            return None;
        }
        let header = usize::from(ip.version_ihl & 0xf) * 4;
        let total = usize::from(ip.total_length.get());
        let obstacle = if ip.is_fragment() {
            Some(Counter::Fragment)
        } else if header < 20 || total < header + ICMP_LENGTH {
            Some(Counter::Malformed)
        } else if header > 20 {
            Some(Counter::Options)
        } else {
            None
        };
        Some(Network {
            source: Address::from_v4_raw(ip.source.raw()),
            destination: Address::from_v4_raw(ip.destination.raw()),
            transport: None,
            l4: l3 + 20,
            end: l3 + total,
            ttl: ip.ttl,
            obstacle,
        })
    }

    const COVERS_ADDRESSES: bool = false;

    /// Destination unreachable, time exceeded, parameter problem. Source quench is no more (RFC 6633).
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn is_too_narrow(icmp: &Icmp) -> bool {
        (icmp.kind, icmp.code) == (3, 4) && icmp.rest.get() & 0xffff < LEAST_IPV4_MTU
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, l3: usize) -> Option<Quoted> {
        let ip = packet.header::<Ipv4>(l3)?;
        let header = usize::from(ip.version_ihl & 0xf) * 4;
        let is_later_fragment = ip.fragment.get() & 0x1fff != 0;
        if ip.version_ihl >> 4 != 4 || header < 20 || is_later_fragment {
            return None;
        }
        let at = At { l3, l4: l3 + header, transport: Transport::of(ip.protocol)? };
        let source = Address::from_v4_raw(ip.source.raw());
        Some(Quoted { source, destination: Address::from_v4_raw(ip.destination.raw()), at })
    }

    #[inline(always)]
    fn requote<P: Packet>(packet: &mut P, l3: usize, side: Side, to: &Address) -> Option<(Sum, Sum)> {
        let ip = packet.header_mut::<Ipv4>(l3)?;
        let address = match side {
            Side::Source => &mut ip.destination,
            Side::Destination => &mut ip.source,
        };
        let change = Sum::default().swap32(address.raw(), to.v4_raw());
        *address = U32::from_raw(to.v4_raw());
        let old = ip.checksum.raw();
        ip.checksum = U16::from_raw(change.apply(old));
        Some((change, change.swap16(old, ip.checksum.raw())))
    }

    #[inline(always)]
    fn is_neighbourly(_: u8) -> bool {
        false
    }

    #[inline(always)]
    fn forbids_fragments<P: Packet>(packet: &P, l3: usize) -> bool {
        const DONT_FRAGMENT: u16 = 0x4000;
        packet.header::<Ipv4>(l3).is_some_and(|ip| ip.fragment.get() & DONT_FRAGMENT != 0)
    }

    #[inline(always)]
    fn turn<P: Packet>(packet: &mut P, l3: usize) -> Option<()> {
        let ip = packet.header_mut::<Ipv4>(l3)?;
        core::mem::swap(&mut ip.source, &mut ip.destination);
        let before = u16::from_ne_bytes([ip.ttl, ip.protocol]);
        ip.ttl = TTL;
        let change = Sum::default().swap16(before, u16::from_ne_bytes([ip.ttl, ip.protocol]));
        ip.checksum = U16::from_raw(change.apply(ip.checksum.raw()));
        Some(())
    }

    #[inline(always)]
    fn write_error<P: Packet>(
        packet: &mut P,
        at: At,
        (from, to): (&Address, &Address),
        mtu: u32,
    ) -> Option<()> {
        let quote = *packet.header::<Quote4>(at.l3)?;
        packet.reshape(at, Self::ERROR_LENGTH)?;
        let mut ip = Ipv4 {
            version_ihl: 0x45,
            // Precedence "internetwork control" (RFC 1812 §4.3.2.5).
            tos: 0xc0,
            total_length: U16::new(Self::ERROR_LENGTH as u16),
            id: U16::new(0),
            fragment: U16::new(0x4000),
            ttl: TTL,
            protocol: Self::ICMP,
            checksum: U16::new(0),
            source: U32::from_raw(from.v4_raw()),
            destination: U32::from_raw(to.v4_raw()),
        };
        let words: [U32; 5] = zerocopy::transmute!(ip);
        ip.checksum = U16::from_raw(!sum(&words).fold());
        *packet.header_mut::<Ipv4>(at.l3)? = ip;
        // Destination unreachable: fragmentation needed (RFC 1191 §4), or time exceeded in transit.
        let (kind, code) = if mtu == 0 { (11, 0) } else { (3, 4) };
        let icmp = Icmp { kind, code, checksum: U16::new(0), rest: U32::from_raw(mtu.to_be()) };
        write_message(packet, at.l3 + 20, icmp, &quote, sum(&quote))
    }
}

/// The IPv4 header and the ports.
type Quote4 = [U32; 7];
/// The IPv6 header and the ports.
type Quote6 = [U32; 12];

#[inline(always)]
fn sum<const N: usize>(words: &[U32; N]) -> Sum {
    words.iter().fold(Sum::default(), |sum, word| sum.add32(word.raw()))
}

/// Writes the ICMP header and the quoted words behind it; `covered` is the sum of all else that its checksum
/// covers.
#[inline(always)]
fn write_message<P: Packet, const N: usize>(
    packet: &mut P,
    l4: usize,
    mut icmp: Icmp,
    quote: &[U32; N],
    covered: Sum,
) -> Option<()>
where
    [U32; N]: crate::headers::Header,
{
    let words: [U32; 2] = zerocopy::transmute!(icmp);
    icmp.checksum = U16::from_raw(!covered.plus(sum(&words)).fold());
    *packet.header_mut::<Icmp>(l4)? = icmp;
    *packet.header_mut::<[U32; N]>(l4 + ICMP_LENGTH)? = *quote;
    Some(())
}

impl Message for V6 {
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const ERROR_LENGTH: usize = 40 + ICMP_LENGTH + size_of::<Quote6>();

    #[inline(always)]
    fn message<P: Packet>(packet: &P, l3: usize) -> Option<Network> {
        let ip = packet.header::<Ipv6>(l3)?;
        let source = Address::from_v6_raw(words(ip.source));
        let destination = Address::from_v6_raw(words(ip.destination));
        let is_other = ip.version_class_flow.get() >> 28 != 6 || ip.next_header != Self::ICMP;
        if is_other || source.is_v4() || destination.is_v4() {
            return None;
        }
        let payload = usize::from(ip.payload_length.get());
        let obstacle = if payload < ICMP_LENGTH { Some(Counter::Malformed) } else { None };
        let l4 = l3 + 40;
        Some(Network {
            source,
            destination,
            transport: None,
            l4,
            end: l4 + payload,
            ttl: ip.hop_limit,
            obstacle,
        })
    }

    const COVERS_ADDRESSES: bool = true;

    /// Destination unreachable, packet too big, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn is_too_narrow(icmp: &Icmp) -> bool {
        icmp.kind == 2 && icmp.rest.get() < LEAST_IPV6_MTU
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, l3: usize) -> Option<Quoted> {
        let ip = packet.header::<Ipv6>(l3)?;
        let source = Address::from_v6_raw(words(ip.source));
        let destination = Address::from_v6_raw(words(ip.destination));
        if ip.version_class_flow.get() >> 28 != 6 || source.is_v4() || destination.is_v4() {
            return None;
        }
        let at = At { l3, l4: l3 + 40, transport: Transport::of(ip.next_header)? };
        Some(Quoted { source, destination, at })
    }

    #[inline(always)]
    fn requote<P: Packet>(packet: &mut P, l3: usize, side: Side, to: &Address) -> Option<(Sum, Sum)> {
        let ip = packet.header_mut::<Ipv6>(l3)?;
        let address = match side {
            Side::Source => &mut ip.destination,
            Side::Destination => &mut ip.source,
        };
        let change = Sum::default().swap128(words(*address), to.words);
        *address = field(to.words);
        Some((change, change))
    }

    /// RFC 2710, RFC 4861, RFC 3810.
    #[inline(always)]
    fn is_neighbourly(kind: u8) -> bool {
        matches!(kind, 130..=137 | 143)
    }

    #[inline(always)]
    fn forbids_fragments<P: Packet>(_: &P, _: usize) -> bool {
        true
    }

    #[inline(always)]
    fn turn<P: Packet>(packet: &mut P, l3: usize) -> Option<()> {
        let ip = packet.header_mut::<Ipv6>(l3)?;
        core::mem::swap(&mut ip.source, &mut ip.destination);
        ip.hop_limit = TTL;
        Some(())
    }

    #[inline(always)]
    fn write_error<P: Packet>(
        packet: &mut P,
        at: At,
        (from, to): (&Address, &Address),
        mtu: u32,
    ) -> Option<()> {
        let quote = *packet.header::<Quote6>(at.l3)?;
        packet.reshape(at, Self::ERROR_LENGTH)?;
        let payload = (ICMP_LENGTH + size_of::<Quote6>()) as u16;
        let (source, destination) = (field(from.words), field(to.words));
        *packet.header_mut::<Ipv6>(at.l3)? = Ipv6 {
            version_class_flow: U32::from_raw(0x6000_0000_u32.to_be()),
            payload_length: U16::new(payload),
            next_header: Self::ICMP,
            hop_limit: TTL,
            source,
            destination,
        };
        // Packet too big, or hop limit exceeded in transit (RFC 4443 §3.2, §3.3).
        let (kind, rest) = if mtu == 0 { (3, 0) } else { (2, mtu.max(LEAST_IPV6_MTU)) };
        let icmp = Icmp { kind, code: 0, checksum: U16::new(0), rest: U32::from_raw(rest.to_be()) };
        let pseudo_header =
            sum(&source).plus(sum(&destination)).add16(payload.to_be()).add16(u16::from(Self::ICMP).to_be());
        write_message(packet, at.l3 + 40, icmp, &quote, pseudo_header.plus(sum(&quote)))
    }
}
