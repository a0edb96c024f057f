//! Packets in stable slots, and packets that are not ours.

use std::net::SocketAddr;

use lb_common::Counter;

use super::{Case, chosen, client, client6};
use crate::segment::{ACK, FIN, PSH, RECEIVER, RST, SENDER, SYN, Tcp};
use crate::world::{HOST, STRANGER, Web};

pub(super) fn cases() -> Vec<Case> {
    let (web, web6) = (Web::V4, Web::V6);
    let to_web = |flags| Tcp::new(client(), web.vip(), flags);
    let to_web6 = |flags| Tcp::new(client6(), web6.vip(), flags);
    let id = chosen(web, client());
    let id6 = chosen(web6, client6());
    let from_backend = |flags| Tcp::new(web.endpoint(id), client(), flags);
    let from_backend6 = |flags| Tcp::new(web6.endpoint(id6), client6(), flags);
    let other = *web.backends().iter().find(|other| **other != id).expect("three backends");
    let host: SocketAddr = HOST.parse().expect("an address");
    let stranger: SocketAddr = STRANGER.parse().expect("an address");
    let same_host = SocketAddr::new(client().ip(), 50000);
    vec![
        Case::forwarded("a SYN goes to the slot's backend", &to_web(SYN), web, id),
        Case::forwarded("an ACK goes to the slot's backend", &to_web(ACK), web, id),
        Case::forwarded(
            "data keeps its payload",
            &to_web(ACK | PSH).payload(b"GET / HTTP/1.1\r\n\r\n"),
            web,
            id,
        ),
        Case::forwarded("an odd payload", &to_web(ACK | PSH).payload(b"odd"), web, id),
        Case::forwarded("a FIN goes the same way", &to_web(FIN | ACK), web, id),
        Case::forwarded("a RST without ACK goes the same way", &to_web(RST), web, id),
        Case::forwarded("SYN data (TCP fast open) is kept", &to_web(SYN).payload(b"early"), web, id),
        Case::forwarded("a VLAN tag stays", &to_web(ACK).vlan(42), web, id),
        Case::forwarded("a priority tag (VLAN id 0) stays", &to_web(ACK).vlan(0), web, id),
        Case::forwarded("IPv6", &to_web6(SYN), web6, id6),
        Case::forwarded("IPv6 with payload and VLAN tag", &to_web6(ACK).payload(b"hello").vlan(7), web6, id6),
        Case::forwarded("the last hop but one", &to_web(ACK).ttl(2), web, id),
        Case::replied("a SYN-ACK comes from the VIP", &from_backend(SYN | ACK), web),
        Case::replied(
            "a reply with payload",
            &from_backend(ACK | PSH).payload(b"HTTP/1.1 200 OK\r\n\r\n"),
            web,
        ),
        Case::replied("a reply's RST", &from_backend(RST | ACK), web),
        Case::replied("a reply keeps its VLAN tag", &from_backend(ACK).vlan(42), web),
        Case::replied("an IPv6 reply", &from_backend6(SYN | ACK), web6),
        Case::forwarded(
            "with source affinity the port does not matter",
            &Tcp::new(same_host, Web::Affinity.vip(), SYN),
            Web::Affinity,
            chosen(Web::Affinity, client()),
        ),
        Case::passed(
            "another port of the VIP",
            Tcp::new(client(), SocketAddr::new(web.vip().ip(), 81), SYN).frame(),
        ),
        Case::passed("ssh to the host", Tcp::new(client(), host, SYN).frame()),
        Case::passed(
            "the answer to the host's own health check",
            Tcp::new(web.endpoint(id), host, SYN | ACK).frame(),
        ),
        Case::passed("a backend's own connection", from_backend(SYN).frame()),
        Case::passed(
            "a backend's packet that no slot gives it",
            Tcp::new(web.endpoint(other), client(), ACK).frame(),
        ),
        Case::passed("a backend's other port", {
            Tcp::new(SocketAddr::new(web.endpoint(id).ip(), 9090), client(), ACK).frame()
        }),
        Case::passed("ARP", ethernet(0x0806, &[0; 46])),
        Case::passed("LLDP", ethernet(0x88cc, &[0; 46])),
        Case::passed("an 802.3 length field", ethernet(46, &[0; 46])),
        Case::passed("PPPoE", ethernet(0x8864, &[0; 46])),
        Case::passed("UDP to the VIP's port", protocol(to_web(SYN).frame(), 17)),
        Case::passed("IPv4 inside an IPv6 EtherType", {
            let mut frame = to_web(SYN).frame();
            frame[12..14].copy_from_slice(&0x86dd_u16.to_be_bytes());
            frame
        }),
        Case::passed("IPv4-mapped addresses inside IPv6", mapped(client(), web.vip())),
        Case::new(
            "no backend takes new flows",
            Tcp::new(client(), Web::Empty.vip(), SYN).frame(),
            Counter::NoBackend,
        ),
        Case::new(
            "the backend's neighbour is unknown",
            Tcp::new(client(), Web::Unresolved.vip(), SYN).frame(),
            Counter::NoNeighbour,
        ),
        Case::new(
            "the client's neighbour is unknown",
            {
                let web = Web::Unresolved;
                Tcp::new(web.endpoint(web.backends()[0]), stranger, SYN | ACK).frame()
            },
            Counter::NoNeighbour,
        ),
        Case::new(
            "the table is missing",
            Tcp::new(client(), Web::Damaged.vip(), SYN).frame(),
            Counter::Inconsistent,
        ),
    ]
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&RECEIVER[..], &SENDER[..], &kind.to_be_bytes(), payload].concat()
}

/// The frame with another protocol number (the header checksum is then wrong, which is the receiver's business).
fn protocol(mut frame: Vec<u8>, number: u8) -> Vec<u8> {
    frame[14 + 9] = number;
    frame
}

/// IPv6 from and to IPv4-mapped addresses: not the IPv4 service.
fn mapped(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let v6 = |socket: SocketAddr| match socket.ip() {
        std::net::IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), socket.port()),
        std::net::IpAddr::V6(_) => socket,
    };
    Tcp::new(v6(from), v6(to), SYN).frame()
}
