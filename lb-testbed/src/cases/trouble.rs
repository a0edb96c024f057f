//! Packets of services that cannot go on: too long for the next link, or with no hop left. Their senders are told,
//! in the name of the VIP, by no more bytes than came.

use std::net::IpAddr;

use lb_common::Counter;

use super::{Case, chosen, client, client6};
use crate::icmp::Icmp;
use crate::segment::{ACK, HOP_BY_HOP, RECEIVER, ROUTING, SENDER, SYN, Tcp};
use crate::world::{MTU, Web, World};

/// What the narrow link of these tests takes.
const NARROW: u32 = 1400;
/// The class of what a router says about the network (RFC 1812 §4.3.2.5).
const CONTROL: u8 = 0xc0;
/// Bytes of an IP header and the ports behind it.
const QUOTE: usize = 28;
const QUOTE6: usize = 48;

pub(super) fn cases() -> Vec<Case> {
    [too_long(), expired()].concat()
}

/// The usual packets of `length` bytes, from the IP header on: to a VIP, and back.
fn sized(web: Web, length: u32) -> (Tcp, Tcp) {
    let client = if web == Web::V6 { client6() } else { client() };
    let headers = if web == Web::V6 { 60 } else { 40 };
    let sized = |packet: Tcp| packet.payload(&vec![0x5a; length as usize - headers]);
    let backend = web.endpoint(chosen(web, client));
    (sized(Tcp::new(client, web.vip(), ACK)), sized(Tcp::new(backend, client, ACK)))
}

/// The link to the backends takes less than the clients'; or with `back` the other way round.
fn narrow(back: bool) -> World {
    let mut world = World::new();
    if back {
        world.state.routes.values_mut().for_each(|hop| hop.mtu = NARROW);
    } else {
        world.state.backends.values_mut().for_each(|backend| backend.hop.mtu = NARROW);
    }
    world
}

/// The beginning of a packet as an error quotes it.
fn quote(packet: &Tcp) -> Vec<u8> {
    let mut plain = packet.clone();
    (plain.vlan, plain.provider_vlan) = (None, None);
    let length = if packet.source.is_ipv4() { QUOTE } else { QUOTE6 };
    plain.frame()[14..14 + length].to_vec()
}

fn class(packet: &Tcp) -> u8 {
    if packet.source.is_ipv4() { CONTROL } else { 0 }
}

fn told(name: &'static str, packet: &Tcp, vip: IpAddr, mtu: u32) -> Case {
    let error = Icmp::too_long(vip, packet.source.ip(), mtu, &quote(packet)).class(class(packet));
    let out = error.frame_between(RECEIVER, SENDER);
    Case::answered(name, packet.frame(), Counter::TooLongAnswered, out)
}

fn too_long() -> Vec<Case> {
    let (web, web6) = (Web::V4, Web::V6);
    let (vip, vip6) = (web.vip().ip(), web6.vip().ip());
    let (there, back) = sized(web, NARROW + 1);
    let (there6, back6) = sized(web6, NARROW + 1);
    let (fits, fits_back) = sized(web, NARROW);
    let fits6 = sized(web6, NARROW).0;
    let widest = sized(web, MTU + 1).0;
    let mut may_cut = Case::new("a packet too long that may be cut", there.frame(), Counter::TooLong);
    may_cut.frame[14 + 6] &= !0x40;
    let mut to_many = Case::new("a packet too long that was sent to many", there.frame(), Counter::TooLong);
    to_many.frame[0] |= 1;
    let mut below = narrow(false);
    below.state.backends.values_mut().for_each(|backend| backend.hop.mtu = 1000);
    vec![
        Case::forwarded("a packet as long as the link takes", &fits, web, chosen(web, client()))
            .in_world(&narrow(false)),
        Case::forwarded("an IPv6 packet as long as the link takes", &fits6, web6, chosen(web6, client6()))
            .in_world(&narrow(false)),
        Case::replied("a reply as long as the link takes", &fits_back, web).in_world(&narrow(true)),
        told("a packet too long for the backend's link", &there, vip, NARROW).in_world(&narrow(false)),
        told("an IPv6 packet too long for the backend's link", &there6, vip6, NARROW)
            .in_world(&narrow(false)),
        told("a reply too long for the client's link", &back, vip, NARROW).in_world(&narrow(true)),
        told("an IPv6 reply too long for the client's link", &back6, vip6, NARROW).in_world(&narrow(true)),
        told("a packet longer than any other", &widest, vip, MTU),
        told("an IPv6 link below what IPv6 asks for", &there6, vip6, 1280).in_world(&below),
        may_cut.in_world(&narrow(false)),
        to_many.in_world(&narrow(false)),
    ]
}

fn expired() -> Vec<Case> {
    let (web, web6) = (Web::V4, Web::V6);
    let (vip, vip6) = (web.vip().ip(), web6.vip().ip());
    let (there, back) = sized(web, 56);
    let (there6, back6) = sized(web6, 96);
    let expired = |name, packet: Tcp, vip| {
        let packet = packet.ttl(1);
        let error = Icmp::expired(vip, packet.source.ip(), &quote(&packet)).class(class(&packet));
        let out = error.frame_between(RECEIVER, SENDER);
        Case::answered(name, packet.frame(), Counter::TtlAnswered, out)
    };
    vec![
        expired("a packet at its last hop", there.clone(), vip),
        expired("an IPv6 packet at its last hop", there6.clone(), vip6),
        expired("a reply at its last hop", back, vip),
        expired("an IPv6 reply at its last hop", back6, vip6),
        {
            let packet = sized(web6, 80).0.extensions(&[HOP_BY_HOP, ROUTING]);
            expired("an IPv6 packet of extension headers at its last hop", packet, vip6)
        },
        Case::new(
            "a packet at its last hop, shorter than the error",
            sized(web, 55).0.ttl(1).frame(),
            Counter::TtlExceeded,
        ),
        Case::new(
            "an IPv6 packet at its last hop, shorter than the error",
            sized(web6, 95).0.ttl(1).frame(),
            Counter::TtlExceeded,
        ),
        Case::new(
            "a SYN at its last hop",
            Tcp::new(client(), web.vip(), SYN).ttl(1).frame(),
            Counter::TtlExceeded,
        ),
        Case::new("a packet without any hop left", there.ttl(0).frame(), Counter::TtlAnswered),
    ]
}
