//! Netlink messages for unit tests.

use std::net::IpAddr;

use lb_common::NextHop;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::tables::{OURS, mac};
use crate::data_plane::kernel::Prefix;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn prefix(address: &str, length: u8) -> Prefix {
    Prefix { address: ip(address), length }
}

/// The MAC address that [`neighbour`] gives to an address.
fn neighbour_mac(address: &str) -> [u8; 6] {
    let last = match ip(address) {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    [2, 0, 0, 0, 1, last]
}

/// The next hop through a neighbour of [`neighbour`] and an interface of [`link`].
pub(super) fn hop(interface: u32, neighbour: &str, link: u8) -> NextHop {
    NextHop {
        destination: mac(&neighbour_mac(neighbour)).unwrap(),
        source: mac(&[2, 0, 0, 0, 0, link]).unwrap(),
        ifindex: interface,
        mtu: MTU,
    }
}

/// Of every link but those of [`link_of_mtu`].
pub(super) const MTU: u32 = 1500;

fn link_message(index: u32, name: &str, address: u8, flags: LinkFlags) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = flags;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, address]),
    ];
    message
}

pub(super) fn link(index: u32, name: &str, address: u8) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(link_message(index, name, address, LinkFlags::Up | LinkFlags::LowerUp))
}

pub(super) fn link_of_mtu(index: u32, name: &str, address: u8, mtu: u32) -> RouteNetlinkMessage {
    let mut message = link_message(index, name, address, LinkFlags::Up | LinkFlags::LowerUp);
    message.attributes.retain(|attribute| !matches!(attribute, LinkAttribute::Mtu(_)));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    RouteNetlinkMessage::NewLink(message)
}

pub(super) fn link_down(index: u32, name: &str, address: u8) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(link_message(index, name, address, LinkFlags::Up))
}

pub(super) fn loopback() -> RouteNetlinkMessage {
    let mut message = link_message(1, "lo", 0, LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Loopback);
    message.header.link_layer_type = LinkLayerType::Loopback;
    RouteNetlinkMessage::NewLink(message)
}

pub(super) fn del_link(index: u32, family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = link_message(index, "eth0", 1, LinkFlags::empty());
    message.header.interface_family = family;
    RouteNetlinkMessage::DelLink(message)
}

pub(super) fn address(interface: u32, address: &str, length: u8, ours: bool) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = interface;
    message.header.prefix_len = length;
    message.attributes.push(AddressAttribute::Address(ip(address)));
    if ours {
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(OURS)));
    }
    RouteNetlinkMessage::NewAddress(message)
}

/// `managed`: kept resolved, with our mark.
pub(super) fn neighbour(
    interface: u32,
    address: &str,
    state: NeighbourState,
    managed: bool,
) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = interface;
    message.header.state = state;
    message.attributes.push(NeighbourAttribute::Destination(ip(address).into()));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(neighbour_mac(address).to_vec()));
    if managed {
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(OURS)));
    }
    RouteNetlinkMessage::NewNeighbour(message)
}

fn route_message(address: &str, length: u8, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = kind;
    message.header.destination_prefix_length = length;
    let address = ip(address);
    message.header.address_family =
        if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    if length > 0 {
        message.attributes.push(RouteAttribute::Destination(address.into()));
    }
    message
}

pub(super) fn route(
    address: &str,
    length: u8,
    interface: u32,
    gateway: Option<&str>,
    metric: u32,
) -> RouteMessage {
    let mut message = route_message(address, length, RouteType::Unicast);
    message.attributes.push(RouteAttribute::Oif(interface));
    message.attributes.push(RouteAttribute::Priority(metric));
    if let Some(gateway) = gateway {
        message.attributes.push(RouteAttribute::Gateway(ip(gateway).into()));
    }
    message
}

pub(super) fn reject(address: &str, length: u8, kind: RouteType) -> RouteMessage {
    route_message(address, length, kind)
}
