//! The link layer: Ethernet and the VLAN tags behind it.

use crate::headers::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, Ethernet, U16, Vlan,
};
use crate::packet::Packet;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_LENGTH: usize = 14;
/// Bytes of a VLAN tag.
const VLAN_LENGTH: usize = 4;
/// Tags that are looked behind: a customer's inside a provider's (IEEE 802.1ad).
const TAGS: usize = 2;

/// The network layer's protocol, where it is one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RFC 791.
    Ipv4,
    /// RFC 8200.
    Ipv6,
    /// RFC 826.
    Arp,
}

/// The network layer's kind and place; `None`: none of them. The place is a run-time value (14, 18 or
/// 22 bytes): one walk serves all.
#[inline(always)]
pub fn network<P: Packet>(packet: &P) -> Option<(Kind, usize)> {
    let mut kind = packet.header::<Ethernet>(0)?.kind;
    let mut l3 = ETHERNET_LENGTH;
    for _ in 0..TAGS {
        if !is_tag(kind) {
            break;
        }
        kind = packet.header::<Vlan>(l3)?.kind;
        l3 += VLAN_LENGTH;
    }
    match kind {
        ETHERTYPE_IPV4 => Some((Kind::Ipv4, l3)),
        ETHERTYPE_IPV6 => Some((Kind::Ipv6, l3)),
        ETHERTYPE_ARP => Some((Kind::Arp, l3)),
        _ => None,
    }
}

/// Older switches nest 802.1Q in 802.1Q.
#[inline(always)]
fn is_tag(kind: U16) -> bool {
    kind == ETHERTYPE_VLAN || kind == ETHERTYPE_QINQ
}
