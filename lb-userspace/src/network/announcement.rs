//! Tells the link that an address is here now: gratuitous ARP (RFC 5227 §3) and unsolicited neighbour
//! advertisement (RFC 4861 §7.2.6). The kernel does so by itself only when a link comes up.
#![expect(unsafe_code, reason = "socket2 has no safe way to write a link-layer socket address")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::Mac;
use socket2::{Domain, SockAddr, Socket, Type};
use zerocopy::IntoBytes;

use super::OnLink;

/// ARP's number as an Ethernet type (RFC 826).
const ETHERTYPE_ARP: u16 = 0x0806;
/// IPv6's number as an Ethernet type (RFC 2464).
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// The IP protocol number of ICMPv6.
const ICMPV6: u8 = 58;
const BROADCAST: [u8; 6] = [0xff; 6];
/// The stations that all nodes are (RFC 2464 §7).
const ALL_STATIONS: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Sends one announcement. The address need not be the host's.
pub(super) fn announce(ip: IpAddr, link: OnLink) -> io::Result<()> {
    match ip {
        IpAddr::V4(ip) => gratuitous_arp(ip, link),
        IpAddr::V6(ip) => unsolicited_advertisement(ip, link),
    }
}

fn gratuitous_arp(ip: Ipv4Addr, link: OnLink) -> io::Result<()> {
    send(&arp_announcement(ip, link.mac), ETHERTYPE_ARP, BROADCAST, link.index)
}

/// Has the kernel write the Ethernet header.
fn send(packet: &[u8], kind: u16, to: [u8; 6], interface: u32) -> io::Result<()> {
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    socket.send_to(packet, &packet_address(to, kind, interface)?).map(drop)
}

/// Hardware Ethernet, protocol IPv4, a request in which sender and target are the same address: hosts that
/// know it replace what they knew.
fn arp_announcement(ip: Ipv4Addr, mac: Mac) -> [u8; 28] {
    let mut packet = [0; 28];
    let fields: [&[u8]; 5] = [&[0, 1, 8, 0, 6, 4, 0, 1], mac.as_bytes(), &ip.octets(), &[0; 6], &ip.octets()];
    for (place, byte) in packet.iter_mut().zip(fields.into_iter().flatten()) {
        *place = *byte;
    }
    packet
}

fn packet_address(to: [u8; 6], kind: u16, interface: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(interface).map_err(io::Error::other)?;
    let mut hardware = [0; 8];
    hardware[..6].copy_from_slice(&to);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: kind.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: hardware,
    };
    // SAFETY: the storage is zeroed, larger than a `sockaddr_ll` and aligned for every kind of address; the
    // length is that of what is written into it.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<libc::sockaddr_ll>().write(address);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}

fn unsolicited_advertisement(ip: Ipv6Addr, link: OnLink) -> io::Result<()> {
    send(&advertisement(ip, link.mac), ETHERTYPE_IPV6, ALL_STATIONS, link.index)
}

/// Behind the IPv6 header type 136 with the override flag, the address, and the option that holds the link-layer
/// address. Written whole: no socket sends in the name of an address that the host has not.
fn advertisement(ip: Ipv6Addr, mac: Mac) -> [u8; 72] {
    let (from, to) = (ip.octets(), ALL_NODES.octets());
    let pseudo_header: [&[u8]; 3] = [&from, &to, &[0, 0, 0, 32, 0, 0, 0, ICMPV6]];
    let message: [&[u8]; 4] = [&[136, 0, 0, 0, 0x20, 0, 0, 0], &from, &[2, 1], mac.as_bytes()];
    let covered: Vec<u8> = pseudo_header.concat().into_iter().chain(message.concat()).collect();
    let sum: u32 = covered.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;

    let mut packet = [0; 72];
    let fields: [&[u8]; 7] = [
        &[0x60, 0, 0, 0, 0, 32, ICMPV6, 255],
        &from,
        &to,
        &[136, 0],
        &checksum.to_be_bytes(),
        &[0x20, 0, 0, 0],
        &[&from[..], &[2, 1], mac.as_bytes()].concat(),
    ];
    for (place, byte) in packet.iter_mut().zip(fields.into_iter().flatten()) {
        *place = *byte;
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tables::mac;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn arp_names_the_address_as_sender_and_target() {
        let packet = arp_announcement(Ipv4Addr::new(192, 0, 2, 10), mac(&MAC).unwrap());
        assert_eq!(packet[8..14], MAC);
        assert_eq!(packet[14..18], [192, 0, 2, 10]);
        assert_eq!(packet[18..24], [0; 6]);
        assert_eq!(packet[24..28], [192, 0, 2, 10]);
    }

    #[test]
    fn advertisement_overrides_and_carries_the_link_layer_address() {
        let ip: Ipv6Addr = "2001:db8::10".parse().unwrap();
        let packet = advertisement(ip, mac(&MAC).unwrap());
        assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(packet[8..24], ip.octets());
        assert_eq!(packet[40..42], [136, 0]);
        // By hand: ones' complement of the sum of the pseudo-header and the message.
        assert_eq!(packet[42..44], [0xf9, 0x06]);
        assert_eq!(packet[44..48], [0x20, 0, 0, 0]);
        assert_eq!(packet[48..64], ip.octets());
        assert_eq!(packet[64..66], [2, 1]);
        assert_eq!(packet[66..], MAC);
    }
}
