//! Pings to VIPs, and ICMP that nobody here is meant by.

use std::net::IpAddr;

use lb_common::Counter;

use super::{Case, client, client6};
use crate::icmp::Icmp;
use crate::segment::{RECEIVER, SENDER};
use crate::world::{HOST, Web, World};

pub(super) fn cases() -> Vec<Case> {
    let (vip, vip6) = (Web::V4.vip().ip(), Web::V6.vip().ip());
    let ping = Icmp::ping(client().ip(), vip);
    let ping6 = Icmp::ping(client6().ip(), vip6);
    let host = HOST.parse::<std::net::SocketAddr>().expect("an address").ip();
    let mut tagged = ping.clone();
    tagged.vlan = Some(42);
    let mut jumbo = ping.clone();
    jumbo.payload = vec![7; 1400];
    vec![
        ponged("a ping to a VIP", &ping),
        ponged("a ping to an IPv6 VIP", &ping6),
        ponged("a ping that keeps its VLAN tag", &tagged),
        ponged("a long ping", &jumbo),
        ponged(
            "a ping whose answer is all zeroes",
            &Icmp { rest: [0; 4], payload: vec![0; 8], ..ping.clone() },
        ),
        ponged("a ping at its last hop", &ping.clone().ttl(1)),
        ponged("a ping with a class", &ping6.clone().class(0x28)),
        dropped(
            "a ping that the config forbids",
            &Icmp::ping(client().ip(), World::SILENT.vip().ip()),
            Counter::Icmp,
        ),
        dropped("a ping from the VIP to itself", &Icmp::ping(vip, vip), Counter::ImpossibleSource),
        dropped(
            "a ping from a multicast group",
            &Icmp::ping(address("224.0.0.1"), vip),
            Counter::ImpossibleSource,
        ),
        dropped("somebody's pong to a VIP", &ping.pong().swapped(), Counter::Icmp),
        dropped("an ICMP redirect to a VIP", &Icmp::new(client().ip(), vip, (5, 1)), Counter::Icmp),
        dropped("a timestamp request to a VIP", &Icmp::new(client().ip(), vip, (13, 0)), Counter::Icmp),
        {
            let mut frame = ping.frame();
            frame[0] |= 1;
            Case::new("a ping that was sent to many stations", frame, Counter::Icmp)
        },
        Case::new("a ping that is cut", ping.frame()[..14 + 20 + 12].to_vec(), Counter::Malformed),
        Case::new("an ICMP header that is cut", ping.frame()[..14 + 20 + 4].to_vec(), Counter::Malformed),
        {
            let mut frame = ping.frame();
            frame[14 + 6] = 0x20;
            Case::new("a fragment of a ping", frame, Counter::Fragment)
        },
        Case::passed("a ping to the host", Icmp::ping(client().ip(), host).frame()),
        Case::passed("a ping to somebody else", Icmp::ping(client6().ip(), address("2001:db8::150")).frame()),
        Case::passed("a neighbour that asks for a VIP", Icmp::new(client6().ip(), vip6, (135, 0)).frame()),
        Case::passed("a router's advertisement", Icmp::new(client6().ip(), vip6, (134, 0)).frame()),
        {
            let mut world = World::new();
            world.state.local.insert(vip.into());
            Case::passed("a pong to the host's own ping from a VIP", ping.pong().swapped().frame())
                .in_world(&world)
        },
    ]
}

impl Icmp {
    /// The other way round.
    fn swapped(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ponged(name: &'static str, ping: &Icmp) -> Case {
    Case::answered(name, ping.frame(), Counter::Echoed, ping.pong().frame_between(RECEIVER, SENDER))
}

fn dropped(name: &'static str, message: &Icmp, reason: Counter) -> Case {
    Case::new(name, message.frame(), reason)
}
