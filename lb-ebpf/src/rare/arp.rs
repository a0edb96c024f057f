//! ARP requests for VIPs (RFC 826): answered in the name of the interface that they came in by. As that page wants it, who
//! asks is remembered: this host has never met it, and the reply to its first packet has to go somewhere.

use lb_common::{Address, Counter, NextHop, Station};

use crate::family::{Family, V4};
use crate::headers::{Arp, Ethernet, U16, U32};
use crate::packet::Packet;
use crate::tables::Tables;
use crate::verdict::Verdict;

use super::discovery::{is_group, is_on_link};

const ETHERNET: U16 = U16::new(1);
const IPV4: U16 = U16::new(0x0800);
/// Of the two kinds of addresses: 6 bytes and 4.
const LENGTHS: U16 = U16::new(0x0604);
const REQUEST: U16 = U16::new(1);
const REPLY: U16 = U16::new(2);

/// Answers a request for a VIP that is at home on this link; all else passes as it came.
///
/// Who probes an address that it wants for itself (RFC 5227 §2.1.1, the sender's address is 0) is answered too:
/// the address is taken. An announcement is a request for the sender's own address, and needs no answer.
#[inline(always)]
pub(super) fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, l3: usize) -> Verdict {
    let Some((request, hop)) = request(packet, tables, l3) else { return Verdict::PASS };
    if request.sender.raw() != 0 {
        tables.remember_asker(&Address::from_v4_raw(request.sender.raw()), &hop);
    }
    match write(packet, l3, &request, &hop) {
        Some(()) => Verdict { counter: Counter::ArpAnswered, ifindex: packet.ifindex(), rare: false },
        None => Verdict::drop(Counter::Rewrite),
    }
}

/// The request, and the way to who sent it.
#[inline(always)]
fn request<P: Packet, T: Tables>(packet: &P, tables: &T, l3: usize) -> Option<(Arp, NextHop)> {
    let arp = *packet.header::<Arp>(l3)?;
    let is_request = arp.hardware == ETHERNET
        && arp.protocol == IPV4
        && arp.lengths == LENGTHS
        && arp.operation == REQUEST;
    let (sender, target) = (arp.sender.raw(), arp.target.raw());
    let is_known = sender == 0 || V4::is_host(&Address::from_v4_raw(sender));
    if !is_request || sender == target || !is_known || is_group(arp.sender_mac) {
        return None;
    }
    let station = Station { vip: Address::from_v4_raw(target), ifindex: packet.ifindex() };
    let hop = NextHop { destination: arp.sender_mac, ..*tables.station(&station)? };
    is_on_link(packet, l3, hop.source).then_some((arp, hop))
}

#[inline(always)]
fn write<P: Packet>(packet: &mut P, l3: usize, request: &Arp, hop: &NextHop) -> Option<()> {
    let ethernet = packet.header_mut::<Ethernet>(0)?;
    ethernet.destination = hop.destination;
    ethernet.source = hop.source;
    *packet.header_mut::<Arp>(l3)? = Arp {
        operation: REPLY,
        sender_mac: hop.source,
        sender: U32::from_raw(request.target.raw()),
        target_mac: request.sender_mac,
        target: U32::from_raw(request.sender.raw()),
        ..*request
    };
    Some(())
}
