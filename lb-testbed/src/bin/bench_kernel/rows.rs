//! What is measured: the cases, and the maps that they meet.

use std::net::{Ipv4Addr, SocketAddr};

use lb_common::address::UDP;
use lb_common::{Flow, HalfOpen, Slot};
use lb_testbed::cases::{client, client6};
use lb_testbed::loaded::Hook;
use lb_testbed::segment::{ACK, SYN, Tcp};
use lb_testbed::world::{ESTABLISHED, Web, World};
use serde::Serialize;

/// Slots of the benchmark's tables, as by default.
const SLOTS: u32 = 65537;
/// Flows that no cache of the CPU holds.
const MANY: u32 = 1 << 17;
/// Flows of a flood: four times the capacity of the half-open table.
const FLOOD: u32 = 1 << 20;
/// Longer than any run, in ticks.
const A_DAY: u32 = 24 * ESTABLISHED;

/// One thing to measure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    case: &'static str,
    #[serde(rename = "plane")]
    pub(crate) hook: Plane,
    forward: &'static str,
    family: &'static str,
    protocol: &'static str,
    pub(crate) flows: u32,
    slots: &'static str,
    /// Net of the runner.
    pub(crate) ns: f64,
    /// `ns` over the floor's.
    pub(crate) f: f64,
    /// Least and greatest of the rounds, in nanoseconds.
    pub(crate) spread: (f64, f64),
    /// Of the program, as the verifier left them.
    pub(crate) instructions: u32,
    #[serde(skip)]
    pub(crate) frame: Vec<u8>,
    #[serde(skip)]
    pub(crate) rounds: Vec<f64>,
    /// The host's build of the same walk, in nanoseconds.
    #[serde(skip)]
    pub(crate) host: Option<f64>,
}

/// A hook as the report names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Plane {
    Xdp,
    Tc,
}

impl From<Plane> for Hook {
    fn from(plane: Plane) -> Self {
        match plane {
            Plane::Xdp => Self::Xdp,
            Plane::Tc => Self::Tc,
        }
    }
}

impl Row {
    /// What `--only` looks at, and what the table shows.
    pub(crate) fn words(&self) -> [&'static str; 5] {
        let plane = if self.hook == Plane::Xdp { "xdp" } else { "tc" };
        [self.case, plane, self.family, self.protocol, self.slots]
    }

    /// What the program must return: XDP_PASS or XDP_TX, TCX_NEXT or TC_ACT_REDIRECT.
    pub(crate) fn action(&self) -> u32 {
        match (self.hook, self.forward) {
            (Plane::Xdp, "pass") => 2,
            (Plane::Xdp, _) => 3,
            (Plane::Tc, "pass") => u32::MAX,
            (Plane::Tc, _) => 7,
        }
    }

    /// Where the half-word of the client's address and its port lie that make a frame another flow's.
    pub(crate) fn varying(&self) -> (u32, u32) {
        match (self.flows, self.family, self.case) {
            (1, ..) => (0, 0),
            (_, "ipv4", "reply") => (32, 36),
            (_, "ipv4", _) => (28, 34),
            (_, _, "reply") => (52, 56),
            _ => (36, 54),
        }
    }
}

/// The packet table's world with one backend a service, one interface, and tables of the usual size.
pub(crate) fn world() -> World {
    let mut world = World::new();
    let stable = [Web::V4, Web::V6, Web::Dns, Web::Dns6];
    for web in stable {
        world.state.tables.insert(web as u32, vec![Slot::stable(web.backends()[0]); SLOTS as usize].into());
    }
    let web = Web::Tracked;
    let slot = Slot::tracked(web.new_backend(), web.old_backend(), false);
    world.state.tables.insert(web as u32, vec![slot; SLOTS as usize].into());
    let is_large = |table: u32| stable.iter().chain([&web]).any(|web| *web as u32 == table);
    for service in world.state.services.values_mut().filter(|service| is_large(service.table)) {
        service.slots = SLOTS;
    }
    for endpoint in world.state.endpoints.values_mut().filter(|endpoint| is_large(endpoint.service.table)) {
        endpoint.service.slots = SLOTS;
    }
    for backend in world.state.backends.values_mut() {
        backend.hop.ifindex = 1;
    }
    for hop in world.state.routes.values_mut() {
        hop.ifindex = 1;
    }
    remember(&mut world);
    world
}

/// What the tracked service's slots know: the flows of the cases with one and with many, and an open handshake.
fn remember(world: &mut World) {
    let web = Web::Tracked;
    let (backend, table) = (web.new_backend(), web as u32);
    let seq = Tcp::new(client(), web.vip(), ACK).seq;
    let flow = Flow { backend, slot: 0, table, seq, expires: A_DAY, closing: 0 };
    let clients = (0..MANY).map(nth_client).chain([client()]);
    world.flows.extend(clients.map(|client| (web.flow_key(client), flow)));
    let half = HalfOpen { backend, table, isn: seq, expires: A_DAY, ..HalfOpen::default() };
    world.half_open.push((web.flow_key(stranger()), half));
}

/// A client without a flow.
fn stranger() -> SocketAddr {
    (Ipv4Addr::new(198, 18, 0, 7), 40000).into()
}

/// The client that the runner makes of [`client`] for a flow.
fn nth_client(flow: u32) -> SocketAddr {
    let [low, high] = (flow as u16).to_ne_bytes();
    (Ipv4Addr::new(203, 0, low, high), (flow >> 16) as u16 + 1024).into()
}

/// Every case on either hook.
pub(crate) fn rows() -> Vec<Row> {
    [Plane::Xdp, Plane::Tc].into_iter().flat_map(rows_of).collect()
}

fn rows_of(hook: Plane) -> Vec<Row> {
    let other: SocketAddr = (Ipv4Addr::new(192, 0, 2, 199), 80).into();
    let to =
        |web: Web, flags| Tcp::new(if web.vip().is_ipv4() { client() } else { client6() }, web.vip(), flags);
    let reply = |web: Web, client| Tcp::new(web.endpoint(web.backends()[0]), client, ACK);
    let mut rows = Vec::new();
    let mut add = |case, slots, flows, segment: Tcp| {
        let is_udp = segment.transport.protocol() == UDP;
        rows.push(Row {
            case,
            hook,
            forward: if case == "not a service" { "pass" } else { "nat" },
            family: if segment.source.is_ipv4() { "ipv4" } else { "ipv6" },
            protocol: if is_udp { "udp" } else { "tcp" },
            flows,
            slots,
            ns: 0.0,
            f: 0.0,
            spread: (0.0, 0.0),
            instructions: 0,
            frame: segment.frame(),
            rounds: Vec::new(),
            host: None,
        });
    };
    let datagram = |web: Web| Tcp::datagram(to(web, 0).source, web.vip(), b"question");
    let answer = |web: Web, client| Tcp::datagram(web.endpoint(web.backends()[0]), client, b"answer");

    add("not a service", "-", 1, Tcp::new(client(), other, ACK));
    add("not a service", "-", 1, Tcp::new(client6(), "[2001:db8::199]:80".parse().unwrap_or(other), ACK));
    for flows in [1, MANY] {
        for web in [Web::V4, Web::V6] {
            add("established", "stable", flows, to(web, ACK));
            add("SYN", "stable", flows, to(web, SYN));
            add("reply", "stable", flows, reply(web, to(web, ACK).source));
        }
        for web in [Web::Dns, Web::Dns6] {
            add("established", "stable", flows, datagram(web));
            add("reply", "stable", flows, answer(web, to(web, 0).source));
        }
        add("established", "tracked", flows, to(Web::Tracked, ACK));
    }
    add("SYN flood", "stable", FLOOD, to(Web::V4, SYN));
    add("SYN", "tracked", 1, Tcp { source: stranger(), ..to(Web::Tracked, SYN) });
    add("SYN flood", "tracked", FLOOD, Tcp { source: stranger(), ..to(Web::Tracked, SYN) });
    rows
}
