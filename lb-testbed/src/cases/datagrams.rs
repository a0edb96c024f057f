//! UDP.

use std::net::SocketAddr;

use lb_common::ticks::SECOND;
use lb_common::{Counter, Flow};

use super::{Case, chosen, client, client6};
use crate::segment::{SYN, Tcp};
use crate::world::{HOST, Web, World};

pub(super) fn cases() -> Vec<Case> {
    let (dns, dns6) = (Web::Dns, Web::Dns6);
    let to_dns = |payload: &[u8]| Tcp::datagram(client(), dns.vip(), payload);
    let to_dns6 = |payload: &[u8]| Tcp::datagram(client6(), dns6.vip(), payload);
    let id = chosen(dns, client());
    let id6 = chosen(dns6, client6());
    let from_backend = |payload: &[u8]| Tcp::datagram(dns.endpoint(id), client(), payload);
    let from_backend6 = |payload: &[u8]| Tcp::datagram(dns6.endpoint(id6), client6(), payload);
    let other = *dns.backends().iter().find(|other| **other != id).expect("three backends");
    let host: SocketAddr = HOST.parse().expect("an address");
    let length = |mut frame: Vec<u8>, length: u16| {
        frame[14 + 20 + 4..][..2].copy_from_slice(&length.to_be_bytes());
        frame
    };
    vec![
        Case::forwarded("UDP: a datagram goes to the slot's backend", &to_dns(b"question"), dns, id),
        Case::forwarded("UDP: an empty datagram", &to_dns(b""), dns, id),
        Case::forwarded("UDP: an odd payload and a VLAN tag", &to_dns(b"odd").vlan(42), dns, id),
        Case::forwarded(
            "UDP: no checksum stays no checksum",
            &to_dns(b"question").without_checksum(),
            dns,
            id,
        ),
        Case::forwarded("UDP: IPv6", &to_dns6(b"question"), dns6, id6),
        Case::forwarded(
            "UDP: a checksum that comes out as 0 is sent as all ones",
            &zero_sum(&to_dns(b""), dns.endpoint(id)),
            dns,
            id,
        ),
        Case::forwarded(
            "UDP: a checksum that comes out as 0 is sent as all ones over IPv6",
            &zero_sum(&to_dns6(b""), dns6.endpoint(id6)),
            dns6,
            id6,
        ),
        Case::replied("UDP: an answer comes from the VIP", &from_backend(b"answer"), dns),
        Case::replied("UDP: an answer without checksum", &from_backend(b"answer").without_checksum(), dns),
        Case::replied("UDP: an IPv6 answer", &from_backend6(b"answer"), dns6),
        Case::passed("UDP: the VIP's port over TCP", Tcp::new(client(), dns.vip(), SYN).frame()),
        Case::passed(
            "UDP: another port of the VIP",
            Tcp::datagram(client(), SocketAddr::new(dns.vip().ip(), 54), b"").frame(),
        ),
        Case::passed(
            "UDP: a datagram to a VIP of TCP services",
            Tcp::datagram(client(), Web::V4.vip(), b"").frame(),
        ),
        Case::passed(
            "UDP: the answer to the host's own question",
            Tcp::datagram(dns.endpoint(id), host, b"").frame(),
        ),
        Case::passed(
            "UDP: a backend's datagram that no slot gives it",
            Tcp::datagram(dns.endpoint(other), client(), b"").frame(),
        ),
        Case::passed("UDP: a later fragment for a VIP of TCP services", {
            Tcp { fragment_offset: 3, ..Tcp::datagram(client(), Web::V4.vip(), b"part") }.frame()
        }),
        Case::new(
            "UDP: a later fragment",
            Tcp { fragment_offset: 3, ..to_dns(b"part") }.frame(),
            Counter::Fragment,
        ),
        Case::new(
            "UDP: a first fragment",
            Tcp { more_fragments: true, ..to_dns(b"part") }.frame(),
            Counter::Fragment,
        ),
        Case::new("UDP: a length below the header's", length(to_dns(b"").frame(), 7), Counter::Malformed),
        Case::new("UDP: a length beyond the packet", length(to_dns(b"").frame(), 9), Counter::Malformed),
        Case::new("UDP: no room for the header", cut(to_dns(b"").frame()), Counter::Malformed),
        Case::new("UDP: the last hop", to_dns(b"").ttl(1).frame(), Counter::TtlExceeded),
    ]
}

/// The datagram with a payload that makes its checksum 0 once `to` is its destination.
fn zero_sum(packet: &Tcp, to: SocketAddr) -> Tcp {
    let after = |payload: [u8; 2]| Tcp { destination: to, ..packet.clone() }.payload(&payload);
    let checksum = |payload| {
        let frame = after(payload).frame();
        let at = frame.len() - 4;
        u16::from_be_bytes([frame[at], frame[at + 1]])
    };
    // The payload is one more word of the sum: the checksum over zeros makes it all ones.
    let payload = checksum([0, 0]).to_be_bytes();
    assert_eq!(checksum(payload), u16::MAX, "a computed 0 is sent as all ones");
    packet.clone().payload(&payload)
}

/// The frame with an IP length that ends 1 byte before the UDP header does.
fn cut(mut frame: Vec<u8>) -> Vec<u8> {
    frame[14 + 2..][..2].copy_from_slice(&27_u16.to_be_bytes());
    frame
}

/// In slots that go from an old backend to a new one.
pub(super) fn tracked() -> Vec<Case> {
    let web = Web::TrackedDns;
    let (new, old) = (web.new_backend(), web.old_backend());
    let datagram = Tcp::datagram(client(), web.vip(), b"question");
    let answer = |id| Tcp::datagram(web.endpoint(id), client(), b"answer");
    let flow = |id, expires| {
        let flow = Flow { backend: id, table: web as u32, expires, ..Flow::default() };
        World { flows: vec![(web.flow_key(client()), flow)], ..World::new() }
    };
    vec![
        Case::forwarded("UDP: within a change a flow is remembered for the fallback", &datagram, web, old)
            .remembers_flow(old, 0),
        Case::forwarded("UDP: an entry is followed", &datagram, web, new)
            .in_world(&flow(new, 10 * SECOND))
            .remembers_flow(new, 0),
        Case::forwarded("UDP: an expired entry counts as absent", &datagram, web, old)
            .in_world(&flow(new, 0_u32.wrapping_sub(SECOND)))
            .remembers_flow(new, 0),
        Case::replied("UDP: the fallback's answer needs no entry", &answer(old), web),
        Case::passed("UDP: an answer of the new backend needs one", answer(new).frame()),
        Case::replied("UDP: an answer for an entry", &answer(new), web)
            .in_world(&flow(new, 10 * SECOND))
            .remembers_flow(new, 0),
        Case::forwarded(
            "UDP: what can be remembered while its slot settles is",
            &Tcp::datagram(client(), Web::SettlingDns.vip(), b""),
            Web::SettlingDns,
            Web::SettlingDns.old_backend(),
        )
        .remembers_flow(Web::SettlingDns.old_backend(), 0),
    ]
}
