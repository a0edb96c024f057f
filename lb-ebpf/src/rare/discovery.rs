//! Neighbour solicitations for VIPs (RFC 4861): answered in the name of the interface that they came in by.

use lb_common::{Address, Counter, Mac, NextHop, Station};

use crate::checksum::Sum;
use crate::family::{Family, V6};
use crate::headers::{Ethernet, Ipv6, U16, U32, field, words};
use crate::link::ETHERNET_LENGTH;
use crate::packet::Packet;
use crate::tables::Tables;
use crate::verdict::Verdict;

/// What no router has touched (RFC 4861 §7.1.1).
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u16 = 135 << 8;
const ADVERTISEMENT: u16 = 136 << 8;
/// Flags of an advertisement: it answers a solicitation; what was known before is to be forgotten.
const SOLICITED: u32 = 1 << 30;
const OVERRIDE: u32 = 1 << 29;
/// Option: the sender's link-layer address, 8 bytes long.
const SOURCE_ADDRESS: u8 = 1;
/// Option: the target's link-layer address, 8 bytes long.
const TARGET_ADDRESS: u16 = 0x0201;

/// Bytes of an IPv6 header.
const IPV6_LENGTH: usize = 40;
/// Bytes of a solicitation or an advertisement without options.
const MESSAGE_LENGTH: usize = 24;
/// Options come in units of so many bytes.
const UNIT: usize = 8;
/// Units of options that are looked at: a link-layer address and a nonce (RFC 7527) take one each. Who sends more
/// is answered by nobody.
const UNITS: usize = 4;

/// ff02::1:ff00:0/104 is where an address is solicited (RFC 4291 §2.7.1).
const SOLICITED_NODE: [u32; 3] = [0xff02_0000_u32.to_be(), 0, 1_u32.to_be()];
/// ff02::1: all nodes on the link.
const ALL_NODES: [u32; 4] = [0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()];

/// A solicitation as it stands behind the IPv6 header, and an advertisement likewise.
type Message = [U32; MESSAGE_LENGTH / 4];
/// An advertisement with one option.
type Advertisement = [U32; (MESSAGE_LENGTH + UNIT) / 4];

/// Whether a MAC address is a group's.
#[inline(always)]
pub(super) fn is_group(mac: Mac) -> bool {
    let [first, _] = mac[0].to_ne_bytes();
    first & 1 != 0
}

/// Whether a frame is of the link itself, not of a VLAN on it, and for all or for this station.
#[inline(always)]
pub(super) fn is_on_link<P: Packet>(packet: &P, l3: usize, mac: Mac) -> bool {
    let Some(ethernet) = packet.header::<Ethernet>(0) else { return false };
    let is_ours = ethernet.destination == mac || is_group(ethernet.destination);
    is_ours && l3 == ETHERNET_LENGTH && !packet.is_tagged()
}

/// Who asks for which VIP, and what to say.
struct Question {
    /// `None`: somebody who wants the address for itself (duplicate address detection, RFC 4862 §5.4).
    from: Option<Address>,
    vip: Address,
    /// The way back.
    hop: NextHop,
}

/// Answers a solicitation for a VIP that is at home on this link; `None`: it is something else, and as it came.
#[inline(always)]
pub(super) fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, l3: usize) -> Option<Verdict> {
    let question = question(packet, tables, l3)?;
    if let Some(from) = &question.from {
        tables.remember_asker(from, &question.hop);
    }
    Some(match write(packet, l3, &question) {
        Some(()) => Verdict { counter: Counter::NdAnswered, ifindex: packet.ifindex(), rare: false },
        None => Verdict::drop(Counter::Rewrite),
    })
}

#[inline(always)]
fn question<P: Packet, T: Tables>(packet: &P, tables: &T, l3: usize) -> Option<Question> {
    let ip = packet.header::<Ipv6>(l3)?;
    if ip.version_class_flow.get() >> 28 != 6 || ip.next_header != V6::ICMP || ip.hop_limit != HOP_LIMIT {
        return None;
    }
    let message = packet.header::<Message>(l3 + IPV6_LENGTH)?;
    // The code is 0.
    if message[0].get() >> 16 != u32::from(SOLICITATION) {
        return None;
    }
    let vip = Address::from_v6_raw([message[2].raw(), message[3].raw(), message[4].raw(), message[5].raw()]);
    let station = Station { vip, ifindex: packet.ifindex() };
    let station = *tables.station(&station)?;
    let source = Address::from_v6_raw(words(ip.source));
    let is_probe = source.words == [0; 4];
    let to = words(ip.destination);
    let to_group = [to[0], to[1], to[2]] == SOLICITED_NODE && to[3] == vip.words[3] | 0xff00_0000_u32.to_be();
    let is_asked = to_group || to == vip.words && !is_probe;
    if !is_asked
        || source == vip
        || !is_probe && !V6::is_host(&source)
        || !is_on_link(packet, l3, station.source)
    {
        return None;
    }
    let end = usize::from(ip.payload_length.get());
    let pseudo_header = sum(&ip.source)
        .plus(sum(&ip.destination))
        .add16(ip.payload_length.raw())
        .add16(u16::from(V6::ICMP).to_be());
    if !is_sound(packet, l3 + IPV6_LENGTH, end, is_probe, pseudo_header.plus(sum(message))) {
        return None;
    }
    let hop = NextHop { destination: packet.header::<Ethernet>(0)?.source, ..station };
    if is_group(hop.destination) {
        return None;
    }
    Some(Question { from: if is_probe { None } else { Some(source) }, vip, hop })
}

/// Whether the options behind a message of `length` bytes at byte `l4` are whole and allowed, and its checksum
/// right; `covered` is the sum of all before them.
#[inline(always)]
fn is_sound<P: Packet>(packet: &P, l4: usize, length: usize, is_probe: bool, mut covered: Sum) -> bool {
    if !(MESSAGE_LENGTH..=MESSAGE_LENGTH + UNITS * UNIT).contains(&length) || !length.is_multiple_of(UNIT) {
        return false;
    }
    // Units that still belong to the option before.
    let mut rest = 0_u8;
    for unit in 0..UNITS {
        if MESSAGE_LENGTH + unit * UNIT >= length {
            break;
        }
        let Some(words) = packet.header::<[U32; UNIT / 4]>(l4 + MESSAGE_LENGTH + unit * UNIT) else {
            return false;
        };
        covered = covered.plus(sum(words));
        if rest == 0 {
            let [kind, units, ..] = words[0].raw().to_ne_bytes();
            if units == 0 || is_probe && kind == SOURCE_ADDRESS {
                return false;
            }
            rest = units;
        }
        rest -= 1;
    }
    rest == 0 && covered.fold() == u16::MAX
}

#[inline(always)]
fn sum<const N: usize>(words: &[U32; N]) -> Sum {
    words.iter().fold(Sum::default(), |sum, word| sum.add32(word.raw()))
}

/// Writes the advertisement over the solicitation.
#[inline(always)]
fn write<P: Packet>(packet: &mut P, l3: usize, question: &Question) -> Option<()> {
    let Question { from, vip, hop } = question;
    let length = size_of::<Advertisement>();
    packet.resize(l3 + IPV6_LENGTH + length)?;
    let ethernet = packet.header_mut::<Ethernet>(0)?;
    ethernet.source = hop.source;
    let (to, flags) = match from {
        Some(from) => {
            ethernet.destination = hop.destination;
            (field(from.words), SOLICITED | OVERRIDE)
        }
        None => {
            // The stations that all nodes are (RFC 2464 §7), word by word: no constant of 6 bytes in memory.
            ethernet.destination[0] = 0x3333;
            ethernet.destination[1] = 0;
            ethernet.destination[2] = 1_u16.to_be();
            (field(ALL_NODES), OVERRIDE)
        }
    };
    let ip = packet.header_mut::<Ipv6>(l3)?;
    ip.version_class_flow = U32::from_raw(0x6000_0000_u32.to_be());
    ip.payload_length = U16::new(length as u16);
    ip.hop_limit = HOP_LIMIT;
    ip.source = field(vip.words);
    ip.destination = to;
    let target = field(vip.words);
    let [high, middle, low] = hop.source;
    let mut message: Advertisement = [
        U32::from_raw((u32::from(ADVERTISEMENT) << 16).to_be()),
        U32::from_raw(flags.to_be()),
        target[0],
        target[1],
        target[2],
        target[3],
        zerocopy::transmute!([TARGET_ADDRESS.to_be(), high]),
        zerocopy::transmute!([middle, low]),
    ];
    let pseudo_header =
        sum(&ip.source).plus(sum(&to)).add16(ip.payload_length.raw()).add16(u16::from(V6::ICMP).to_be());
    let checksum = !pseudo_header.plus(sum(&message)).fold();
    message[0] = zerocopy::transmute!([ADVERTISEMENT.to_be(), checksum]);
    *packet.header_mut::<Advertisement>(l3 + IPV6_LENGTH)? = message;
    Some(())
}
