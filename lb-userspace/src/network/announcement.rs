//! Tells the link that an address is here now: gratuitous ARP (RFC 5227 §3) and unsolicited neighbour
//! advertisement (RFC 4861 §7.2.6). The kernel does so by itself only when a link comes up.
#![expect(unsafe_code, reason = "socket2 has no safe way to write a link-layer socket address")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};

use lb_common::Mac;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use zerocopy::IntoBytes;

use super::tables::Device;

/// ARP's number as an Ethernet type (RFC 826).
const ETHERTYPE_ARP: u16 = 0x0806;
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Sends one announcement; does nothing on devices without a link-layer address (loopback).
pub(super) fn announce(ip: IpAddr, device: &Device) -> io::Result<()> {
    let Some(mac) = device.mac else { return Ok(()) };
    match ip {
        IpAddr::V4(ip) => gratuitous_arp(ip, mac, device.link.index),
        IpAddr::V6(ip) => unsolicited_advertisement(ip, mac, device.link.index),
    }
}

fn gratuitous_arp(ip: Ipv4Addr, mac: Mac, interface: u32) -> io::Result<()> {
    // A datagram packet socket lets the kernel write the Ethernet header.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    let to = packet_address(BROADCAST, interface)?;
    socket.send_to(&arp_announcement(ip, mac), &to).map(drop)
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

fn packet_address(to: [u8; 6], interface: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(interface).map_err(io::Error::other)?;
    let mut hardware = [0; 8];
    hardware[..6].copy_from_slice(&to);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: ETHERTYPE_ARP.to_be(),
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

fn unsolicited_advertisement(ip: Ipv6Addr, mac: Mac, interface: u32) -> io::Result<()> {
    // The kernel writes the checksum of every ICMPv6 socket (RFC 3542 §3.1).
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(interface)?;
    socket.bind(&SocketAddrV6::new(ip, 0, 0, 0).into())?;
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, interface);
    socket.send_to(&advertisement(ip, mac), &to.into()).map(drop)
}

/// Type 136 with the override flag, the address, and the option that holds the link-layer address.
fn advertisement(ip: Ipv6Addr, mac: Mac) -> [u8; 32] {
    let mut packet = [0; 32];
    let fields: [&[u8]; 4] = [&[136, 0, 0, 0, 0x20, 0, 0, 0], &ip.octets(), &[2, 1], mac.as_bytes()];
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
        assert_eq!(packet[..8], [136, 0, 0, 0, 0x20, 0, 0, 0]);
        assert_eq!(packet[8..24], ip.octets());
        assert_eq!(packet[24..26], [2, 1]);
        assert_eq!(packet[26..], MAC);
    }
}
