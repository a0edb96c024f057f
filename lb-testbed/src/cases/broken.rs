//! Packets for a VIP that cannot be translated, each beside the same packet for somebody else.

use std::net::SocketAddr;

use lb_common::Counter;

use super::{Case, chosen, client, client6};
use crate::segment::{ACK, FIN, RST, SYN, Tcp};
use crate::world::Web;

/// Bytes of an Ethernet header.
const L3: usize = 14;
/// Where the TCP header begins in an IPv4 frame.
const L4: usize = L3 + 20;

pub(super) fn cases() -> Vec<Case> {
    let web = Web::V4;
    let to_web = |flags| Tcp::new(client(), web.vip(), flags);
    let elsewhere = |flags| Tcp::new(client(), SocketAddr::from(([192, 0, 2, 150], 80)), flags);
    let to_web6 = Tcp::new(client6(), Web::V6.vip(), SYN);
    let reply = Tcp::new(web.endpoint(chosen(web, client())), client(), ACK);
    let mut cases = Vec::new();
    let mut dropped = |name, frame, reason| cases.push(Case::new(name, frame, reason));

    dropped("TTL 1", to_web(ACK).ttl(1).frame(), Counter::TtlExceeded);
    dropped("TTL 0", to_web(ACK).ttl(0).frame(), Counter::TtlExceeded);
    dropped("hop limit 1", to_web6.clone().ttl(1).frame(), Counter::TtlExceeded);
    dropped("IHL 4", edited(to_web(SYN).frame(), L3, 0x44), Counter::Malformed);
    dropped("IHL 0", edited(to_web(SYN).frame(), L3, 0x40), Counter::Malformed);
    dropped("a total length below the headers", length(to_web(SYN).frame(), 39), Counter::Malformed);
    dropped("a total length beyond the frame", length(to_web(SYN).frame(), 41), Counter::Malformed);
    dropped("a total length of 65535", length(to_web(SYN).frame(), 0xffff), Counter::Malformed);
    dropped("a TCP header of 16 bytes", edited(to_web(SYN).frame(), L4 + 12, 0x40), Counter::Malformed);
    dropped("a TCP header beyond the packet", edited(to_web(SYN).frame(), L4 + 12, 0x60), Counter::Malformed);
    dropped("a frame cut after the ports", to_web(SYN).frame()[..L4 + 4].to_vec(), Counter::Malformed);
    dropped("a frame cut in the ports", to_web(SYN).frame()[..L4 + 3].to_vec(), Counter::Malformed);
    dropped(
        "an IPv6 payload length of 0",
        edited(edited(to_web6.frame(), L3 + 4, 0), L3 + 5, 0),
        Counter::Malformed,
    );
    dropped("an IPv6 frame cut in TCP", to_web6.frame()[..L3 + 40 + 19].to_vec(), Counter::Malformed);
    dropped("no flags at all", to_web(0).frame(), Counter::TcpFlags);
    dropped("SYN and FIN", to_web(SYN | FIN).frame(), Counter::TcpFlags);
    dropped("SYN and RST", to_web(SYN | RST).frame(), Counter::TcpFlags);
    dropped("FIN without ACK", to_web(FIN).frame(), Counter::TcpFlags);
    dropped("every flag", to_web(0x3f).frame(), Counter::TcpFlags);
    dropped("a first fragment", fragment(to_web(SYN), true, 0).frame(), Counter::Fragment);
    dropped("a middle fragment", fragment(to_web(ACK), true, 3).frame(), Counter::Fragment);
    dropped("a last fragment", fragment(to_web(ACK), false, 3).frame(), Counter::Fragment);
    dropped(
        "a tiny fragment",
        {
            // Its IP header and the ports and sequence number of its TCP header.
            let mut frame = fragment(to_web(SYN), true, 0).frame();
            frame.truncate(L4 + 8);
            length(frame, 28)
        },
        Counter::Fragment,
    );
    dropped("IPv4 options", options(to_web(SYN)).frame(), Counter::Options);
    for (name, frame) in [
        ("TTL 1 of a backend's own packet", {
            let other = web.backends().into_iter().find(|id| *id != chosen(web, client())).expect("three");
            Tcp::new(web.endpoint(other), client(), ACK).ttl(1).frame()
        }),
        ("TTL 1 for somebody else", elsewhere(ACK).ttl(1).frame()),
        ("IHL 4 for somebody else", edited(elsewhere(SYN).frame(), L3, 0x44)),
        ("IPv4 options for somebody else", options(elsewhere(SYN)).frame()),
        ("a fragment for somebody else", fragment(elsewhere(SYN), true, 0).frame()),
        ("a later fragment for somebody else", fragment(elsewhere(ACK), false, 3).frame()),
        ("a fragment of a reply", fragment(reply.clone(), true, 0).frame()),
        ("options on a reply", options(reply).frame()),
        ("impossible flags for somebody else", elsewhere(0).frame()),
        ("a first fragment for another port of the VIP", {
            fragment(Tcp::new(client(), SocketAddr::new(web.vip().ip(), 22), SYN), true, 0).frame()
        }),
        ("a frame cut in the IPv4 header", to_web(SYN).frame()[..L3 + 19].to_vec()),
        ("a bare Ethernet header", to_web(SYN).frame()[..L3].to_vec()),
        ("an IPv6 frame cut in its header", to_web6.frame()[..L3 + 39].to_vec()),
    ] {
        cases.push(Case::passed(name, frame));
    }

    // Padding to the minimum frame is kept and counts for nothing.
    let id = chosen(web, client());
    let mut padded = Case::forwarded("padding behind the packet", &to_web(SYN), web, id);
    padded.frame.resize(60, 0xaa);
    if let Some(out) = &mut padded.out {
        out.resize(60, 0xaa);
    }
    cases.push(padded);

    // A wrong checksum stays wrong by the same amount: it is the receiver who must find it.
    let mut wrong = Case::forwarded("a wrong checksum is not repaired", &to_web(ACK), web, id);
    for frame in [Some(&mut wrong.frame), wrong.out.as_mut()].into_iter().flatten() {
        let checksum = u16::from_be_bytes([frame[L4 + 16], frame[L4 + 17]]);
        frame[L4 + 16..L4 + 18].copy_from_slice(&ones_complement_add(checksum, 0x1234).to_be_bytes());
    }
    cases.push(wrong);
    cases
}

fn edited(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    frame
}

fn length(mut frame: Vec<u8>, total: u16) -> Vec<u8> {
    frame[L3 + 2..L3 + 4].copy_from_slice(&total.to_be_bytes());
    frame
}

fn fragment(mut packet: Tcp, more: bool, offset: u16) -> Tcp {
    (packet.more_fragments, packet.fragment_offset) = (more, offset);
    packet
}

fn options(mut packet: Tcp) -> Tcp {
    packet.ip_options = vec![1, 1, 1, 0];
    packet
}

fn ones_complement_add(a: u16, b: u16) -> u16 {
    let sum = u32::from(a) + u32::from(b);
    (sum & 0xffff) as u16 + (sum >> 16) as u16
}
