//! Hosts that look for a VIP on their link: ARP and neighbour discovery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::Counter;

use super::{Case, chosen, client, client6};
use crate::icmp::Icmp;
use crate::segment::{ACK, RECEIVER, SENDER, SYN, Tcp};
use crate::world::{CLIENT_SIDE, GATEWAY, STRANGER, Web, World, hop};

const EVERYBODY: [u8; 6] = [0xff; 6];
/// The stations that all nodes are.
const ALL_STATIONS: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const NOBODY: [u8; 6] = [0; 6];

pub(super) fn cases() -> Vec<Case> {
    [arp(), solicitations(), askers()].concat()
}

/// Replies to clients that have said where they are when they asked for the VIP.
fn askers() -> Vec<Case> {
    let web = Web::V4;
    let knows = |client: SocketAddr, hop| World { askers: vec![(client.ip().into(), hop)], ..World::new() };
    let reply = |to| Tcp::new(web.endpoint(chosen(web, to)), to, SYN | ACK);
    let stranger = STRANGER.parse().expect("an address");
    vec![
        Case::new("a reply to a client that nobody knows", reply(stranger).frame(), Counter::NoNeighbour),
        Case::replied("a reply to a client that has asked for the VIP", &reply(stranger), web)
            .in_world(&knows(stranger, hop(GATEWAY, CLIENT_SIDE))),
        Case::replied("a route goes before what a client has said", &reply(client()), web)
            .in_world(&knows(client(), hop(GATEWAY + 1, CLIENT_SIDE))),
    ]
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy)]
struct Arp {
    to: [u8; 6],
    operation: u8,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
}

impl Arp {
    fn request(from: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self { to: EVERYBODY, operation: 1, sender: (SENDER, from), target: (NOBODY, target) }
    }

    /// What the one answers who is asked for.
    fn reply(self) -> Vec<u8> {
        let (sender, target) = ((RECEIVER, self.target.1), self.sender);
        Self { to: self.sender.0, operation: 2, sender, target }.frame_from(RECEIVER)
    }

    fn frame(self) -> Vec<u8> {
        self.frame_from(SENDER)
    }

    fn frame_from(self, source: [u8; 6]) -> Vec<u8> {
        let head = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, self.operation];
        let mut frame = [&self.to[..], &source, &head].concat();
        for (mac, ip) in [self.sender, self.target] {
            frame.extend(mac);
            frame.extend(ip.octets());
        }
        // As short as Ethernet allows for.
        frame.resize(60, 0);
        frame
    }
}

fn v4(web: Web) -> Ipv4Addr {
    web.vip().ip().to_string().parse().expect("an IPv4 address")
}

fn v6(web: Web) -> Ipv6Addr {
    web.vip().ip().to_string().parse().expect("an IPv6 address")
}

fn arp() -> Vec<Case> {
    let vip = v4(Web::V4);
    let from = Ipv4Addr::new(192, 0, 2, 200);
    let request = Arp::request(from, vip);
    let answered =
        |name, request: Arp| Case::answered(name, request.frame(), Counter::ArpAnswered, request.reply());
    let passed = |name, request: Arp| Case::passed(name, request.frame());
    let changed = |name, at: usize, byte: u8| {
        let mut frame = request.frame();
        frame[at] = byte;
        Case::passed(name, frame)
    };
    vec![
        answered("an ARP request for a VIP", request),
        answered("an ARP request for a VIP, sent to this host alone", Arp { to: RECEIVER, ..request }),
        answered(
            "an ARP probe for a VIP by who wants it for itself",
            Arp::request(Ipv4Addr::UNSPECIFIED, vip),
        ),
        answered("an ARP request of one sender in the frame of another", {
            Arp { sender: ([2, 0, 0, 0, 0, 9], from), ..request }
        }),
        passed("an ARP request for another address", Arp::request(from, Ipv4Addr::new(192, 0, 2, 222))),
        passed("an ARP request for a VIP of another link", Arp::request(from, v4(Web::Dns))),
        passed("an ARP request for a VIP that a router brings", Arp::request(from, v4(Web::Affinity))),
        passed("an ARP reply", Arp { operation: 2, ..request }),
        passed("an ARP announcement of a VIP by somebody else", Arp::request(vip, vip)),
        passed("an ARP request to another station", Arp { to: [2, 0, 0, 0, 0, 9], ..request }),
        passed("an ARP request from a group of stations", Arp { sender: (EVERYBODY, from), ..request }),
        passed("an ARP request from loopback", Arp::request(Ipv4Addr::LOCALHOST, vip)),
        changed("an ARP request over other hardware", 15, 6),
        changed("an ARP request for another protocol", 16, 0x86),
        changed("an ARP request with long hardware addresses", 18, 8),
        changed("an ARP request with short protocol addresses", 19, 3),
        Case::passed("an ARP request that is cut", request.frame()[..14 + 27].to_vec()),
        {
            let mut frame = request.frame();
            frame.splice(12..12, [0x81, 0, 0, 42]);
            Case::passed("an ARP request on a VLAN", frame)
        },
    ]
}

/// Where an address is solicited.
fn group(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = ip.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

/// The stations that a group of nodes is.
fn stations(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The option with the sender's link-layer address.
fn source_option() -> Vec<u8> {
    [&[1, 1][..], &SENDER].concat()
}

fn nonce() -> Vec<u8> {
    vec![14, 1, 1, 2, 3, 4, 5, 6]
}

#[derive(Clone)]
struct Solicitation {
    message: Icmp,
    to: [u8; 6],
}

impl Solicitation {
    fn new(source: IpAddr, target: Ipv6Addr, options: &[u8]) -> Self {
        let destination = group(target);
        let message = Icmp {
            payload: [&target.octets()[..], options].concat(),
            ..Icmp::new(source, destination.into(), (135, 0)).ttl(255)
        };
        Self { message, to: stations(destination) }
    }

    /// To the VIP itself and to this host.
    fn unicast(mut self, vip: Ipv6Addr) -> Self {
        self.message.destination = vip.into();
        self.to = RECEIVER;
        self
    }

    fn frame(&self) -> Vec<u8> {
        self.message.frame_between(SENDER, self.to)
    }

    /// What the VIP answers.
    fn reply(&self, vip: Ipv6Addr) -> Vec<u8> {
        let is_probe = self.message.source.is_unspecified();
        let (to, station) =
            if is_probe { (ALL_NODES.into(), ALL_STATIONS) } else { (self.message.source, SENDER) };
        let message = Icmp {
            rest: [if is_probe { 0x20 } else { 0x60 }, 0, 0, 0],
            payload: [&vip.octets()[..], &[2, 1], &RECEIVER].concat(),
            ..Icmp::new(vip.into(), to, (136, 0)).ttl(255)
        };
        message.frame_between(RECEIVER, station)
    }
}

fn solicitations() -> Vec<Case> {
    let vip = v6(Web::V6);
    let from: IpAddr = "fe80::7".parse().expect("an address");
    let usual = Solicitation::new(from, vip, &source_option());
    let probe = |options: &[u8]| Solicitation::new(Ipv6Addr::UNSPECIFIED.into(), vip, options);
    let answered = |name, asked: &Solicitation| {
        Case::answered(name, asked.frame(), Counter::NdAnswered, asked.reply(vip))
    };
    let passed = |name, asked: &Solicitation| Case::passed(name, asked.frame());
    let with = |change: fn(&mut Solicitation)| {
        let mut asked = usual.clone();
        change(&mut asked);
        asked
    };
    vec![
        answered("a solicitation of a VIP", &usual),
        answered("a solicitation from an address that is no link's", &{
            Solicitation::new(client6().ip(), vip, &source_option())
        }),
        answered("a solicitation of a VIP by itself", &usual.clone().unicast(vip)),
        answered("a solicitation without the sender's address", &{
            Solicitation::new(from, vip, &[]).unicast(vip)
        }),
        answered("a solicitation with more options", &{
            Solicitation::new(from, vip, &[nonce(), source_option(), vec![99, 2], vec![0; 14]].concat())
        }),
        answered("a solicitation with a class", &with(|asked| asked.message.class = 0xe0)),
        answered("a probe for a VIP by who wants it for itself", &probe(&[])),
        answered("a probe with a nonce", &probe(&nonce())),
        passed("a solicitation of another address", &{
            Solicitation::new(from, "2001:db8::222".parse().expect("an address"), &source_option())
        }),
        passed("a solicitation of a VIP of another link", &{
            Solicitation::new(from, v6(Web::Dns6), &source_option())
        }),
        passed("a solicitation of a VIP that a router brings", &{
            Solicitation::new(from, v6(Web::TrackedV6), &source_option())
        }),
        passed(
            "a solicitation of an address that another address is for",
            &with(|asked| {
                asked.message.payload[15] = 0xee;
            }),
        ),
        passed(
            "a solicitation in the wrong group",
            &with(|asked| {
                asked.message.destination = group("2001:db8::222".parse().expect("an address")).into();
            }),
        ),
        passed(
            "a solicitation in the group of all nodes",
            &with(|asked| {
                asked.message.destination = ALL_NODES.into();
            }),
        ),
        passed("a solicitation from beyond a router", &with(|asked| asked.message.ttl = 254)),
        passed("a solicitation of another code", &with(|asked| asked.message.kind.1 = 1)),
        passed("a solicitation from a group", &Solicitation::new(ALL_NODES.into(), vip, &source_option())),
        passed("a solicitation of a VIP by the VIP", &Solicitation::new(vip.into(), vip, &source_option())),
        passed("a solicitation to another station", &with(|asked| asked.to = [2, 0, 0, 0, 0, 9])),
        passed("a probe that tells the sender's address", &probe(&source_option())),
        passed("a probe that is sent to the VIP itself", &probe(&[]).unicast(vip)),
        passed("a solicitation with an option of no length", &with(|asked| asked.message.payload[17] = 0)),
        passed("a solicitation with an option that is cut", &with(|asked| asked.message.payload[17] = 2)),
        passed("a solicitation that ends in the middle of an option", &{
            Solicitation::new(from, vip, &source_option()[..6])
        }),
        passed("a solicitation with more options than anybody sends", &{
            Solicitation::new(from, vip, &nonce().repeat(5))
        }),
        passed("a solicitation without a target", &with(|asked| asked.message.payload.truncate(12))),
        {
            let mut frame = usual.frame();
            let last = frame.len() - 1;
            frame[last] ^= 1;
            Case::passed("a solicitation with a wrong checksum", frame)
        },
        {
            let frame = usual.frame();
            Case::passed("a solicitation that is shorter than it says", frame[..frame.len() - 8].to_vec())
        },
        {
            let mut frame = usual.frame();
            frame.splice(12..12, [0x81, 0, 0, 42]);
            Case::passed("a solicitation on a VLAN", frame)
        },
        passed("an advertisement of a VIP by somebody else", &{
            let mut asked = with(|asked| asked.message.kind = (136, 0));
            asked.message.source = vip.into();
            asked
        }),
        {
            let mut world = World::new();
            world.state.stations.clear();
            passed("a solicitation where nothing is announced", &usual).in_world(&world)
        },
    ]
}
