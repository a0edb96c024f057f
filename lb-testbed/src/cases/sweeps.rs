//! One thing of a frame in every value that it can have: where the frame is cut, header lengths, flags.

use std::net::SocketAddr;

use lb_common::Counter;

use super::{Case, chosen, client, client6};
use crate::icmp::Icmp;
use crate::segment::{ACK, DESTINATION_OPTIONS, FIN, HOP_BY_HOP, RST, SYN, Tcp};
use crate::world::Web;

/// Bytes of an Ethernet header.
const L3: usize = 14;
/// Bytes of an IPv4 header without options.
const IPV4: usize = 20;
/// Bytes of an IPv6 header.
const IPV6: usize = 40;
/// Of two extension headers of 8 bytes, so many have to be there to tell what follows: half of the last will do.
const BEHIND: usize = 12;
/// Bytes of a VLAN tag.
const TAG: usize = 4;

pub(super) fn cases() -> Vec<Case> {
    [cuts(), ipv4_lengths(), tcp_lengths(), flags()].concat()
}

fn to_web(flags: u8) -> Tcp {
    Tcp::new(client(), Web::V4.vip(), flags)
}

fn to_web6(flags: u8) -> Tcp {
    Tcp::new(client6(), Web::V6.vip(), flags)
}

/// The same packet to an address that is no VIP.
fn elsewhere(packet: &Tcp) -> Vec<u8> {
    let to = SocketAddr::from(([192, 0, 2, 150], packet.destination.port()));
    Tcp { destination: to, ..packet.clone() }.frame()
}

fn named(name: &str, case: Case) -> Case {
    Case { name: name.to_owned().leak(), ..case }
}

/// A frame for a VIP, cut everywhere: nobody's before its addresses can be read, and then malformed, or within extension
/// headers what these are. For somebody else it is nobody's throughout.
fn cuts() -> Vec<Case> {
    let question = |from, web: Web| Tcp::datagram(from, web.vip(), b"question");
    let (v4, v6) = (L3 + IPV4, L3 + IPV6);
    let packets = [
        ("a SYN", to_web(SYN), v4, 0),
        ("data", to_web(ACK).payload(b"some data"), v4, 0),
        ("an IPv6 SYN", to_web6(SYN), v6, 0),
        ("a SYN with a tag", to_web(SYN).vlan(7), v4 + TAG, 0),
        ("an IPv6 SYN with a tag", to_web6(SYN).vlan(7), v6 + TAG, 0),
        ("a SYN with two tags", to_web(SYN).vlan(7).provider_vlan(8), v4 + 2 * TAG, 0),
        ("an IPv6 SYN with options", to_web6(SYN).extensions(&[HOP_BY_HOP, DESTINATION_OPTIONS]), v6, BEHIND),
        ("a datagram", question(client(), Web::Dns), v4, 0),
        ("an IPv6 datagram", question(client6(), Web::Dns6), v6, 0),
    ];
    let mut frames: Vec<_> =
        packets.iter().map(|(name, packet, ip, options)| (*name, packet.frame(), *ip, *options)).collect();
    frames.push(("a ping", Icmp::ping(client().ip(), Web::V4.vip().ip()).frame(), v4, 0));
    frames.push(("an IPv6 ping", Icmp::ping(client6().ip(), Web::V6.vip().ip()).frame(), v6, 0));
    let mut cases = Vec::new();
    for (name, frame, ip, options) in frames {
        for length in 0..frame.len() {
            let cut = frame[..length].to_vec();
            let case = match length {
                _ if length < ip => Case::passed("", cut),
                _ if length < ip + options => Case::new("", cut, Counter::Options),
                _ => Case::new("", cut, Counter::Malformed),
            };
            cases.push(named(&format!("{name}, cut to {length} bytes"), case));
        }
    }
    let frame = elsewhere(&to_web(SYN));
    cases.extend((0..frame.len()).map(|length| {
        let name = format!("a SYN for somebody else, cut to {length} bytes");
        named(&name, Case::passed("", frame[..length].to_vec()))
    }));
    cases
}

/// Every length that an IPv4 header can claim, and every one that it can have.
fn ipv4_lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for words in 0..=15_u8 {
        let claims = |mut frame: Vec<u8>| {
            frame[L3] = 0x40 | words;
            frame
        };
        let name = |what: &str| format!("{what} whose IPv4 header claims {words} words");
        cases
            .push(named(&name("a SYN for somebody else"), Case::passed("", claims(elsewhere(&to_web(SYN))))));
        if words < 5 {
            let case = Case::new("", claims(to_web(SYN).frame()), Counter::Malformed);
            cases.push(named(&name("a SYN"), case));
        }
        if words > 5 {
            let mut packet = to_web(SYN);
            packet.ip_options = vec![1; 4 * (usize::from(words) - 5)];
            let name = format!("a SYN with {words} words of IPv4 header");
            cases.push(named(&name, Case::new("", packet.frame(), Counter::Options)));
            let name = format!("a SYN for somebody else with {words} words of IPv4 header");
            cases.push(named(&name, Case::passed("", elsewhere(&packet))));
        }
    }
    cases
}

/// Every length that a TCP header can claim in a packet that has room for 5 words.
fn tcp_lengths() -> Vec<Case> {
    let (web, id) = (Web::V4, chosen(Web::V4, client()));
    let at = L3 + IPV4 + 12;
    let claims = |words: u8| {
        let mut frame = to_web(SYN).frame();
        frame[at] = words << 4;
        let case = if words == 5 {
            Case::forwarded("", &to_web(SYN), web, id)
        } else {
            Case::new("", frame, Counter::Malformed)
        };
        named(&format!("a SYN whose TCP header claims {words} words"), case)
    };
    (0..=15).map(claims).collect()
}

/// Every set of flags.
fn flags() -> Vec<Case> {
    let (web, id) = (Web::V4, chosen(Web::V4, client()));
    let case = |flags: u8| {
        let has = |flag: u8| flags & flag != 0;
        let makes_sense = if has(SYN) { !has(FIN) && !has(RST) } else { has(ACK) || has(RST) };
        let case = if makes_sense {
            Case::forwarded("", &to_web(flags), web, id)
        } else {
            Case::new("", to_web(flags).frame(), Counter::TcpFlags)
        };
        named(&format!("flags {flags:#04x}"), case)
    };
    (0..64).map(case).collect()
}
