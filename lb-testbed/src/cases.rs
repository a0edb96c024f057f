//! The packet table: name, maps, frame in, verdict, frame out.
//!
//! The host's walk, the loaded programs (`BPF_PROG_TEST_RUN`) and the benchmark all run it. Expected frames
//! are built from scratch, never by translating, so a wrong translation cannot agree with itself.

mod broken;
mod datagrams;
mod errors;
mod headers;
mod neighbours;
mod options;
mod pings;
mod plain;
mod tracked;
mod trouble;

use std::net::SocketAddr;

use lb_common::hash::{self, Tuple};
use lb_common::{BackendId, Counter, Port};

use crate::segment::Tcp;
use crate::world::{BACKEND_SIDE, CLIENT_SIDE, GATEWAY, SEED, SLOTS, Web, World, mac};

/// One row.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it, as a sentence.
    pub name: &'static str,
    /// The maps before.
    pub world: World,
    /// The frame that arrives.
    pub frame: Vec<u8>,
    /// The verdict.
    pub verdict: Counter,
    /// The frame that leaves; `None`: unchanged (passed) or not looked at (dropped).
    pub out: Option<Vec<u8>>,
    /// The packet's flow has an entry in the flow table afterwards, with this backend and `closing`.
    pub flow: Option<(BackendId, u32)>,
    /// The packet's flow has an entry in the half-open table afterwards, with this backend and `proven`.
    pub half_open: Option<(BackendId, u32)>,
    /// The flow that `flow` and `half_open` are about.
    pub key: Option<lb_common::FlowKey>,
}

/// Every row.
pub fn all() -> Vec<Case> {
    [
        plain::cases(),
        datagrams::cases(),
        datagrams::tracked(),
        headers::cases(),
        broken::cases(),
        tracked::cases(),
        pings::cases(),
        neighbours::cases(),
        options::cases(),
        errors::cases(),
        trouble::cases(),
    ]
    .concat()
}

/// The usual IPv4 client.
pub fn client() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 7], 40000))
}

/// The usual IPv6 client.
pub fn client6() -> SocketAddr {
    "[2001:db8:c::7]:40000".parse().expect("an address")
}

impl Case {
    fn new(name: &'static str, frame: Vec<u8>, verdict: Counter) -> Self {
        Self { name, world: World::new(), frame, verdict, out: None, flow: None, half_open: None, key: None }
    }

    /// A frame that is not ours.
    fn passed(name: &'static str, frame: Vec<u8>) -> Self {
        Self::new(name, frame, Counter::Passed)
    }

    /// A client's packet that goes to backend `id`.
    fn forwarded(name: &'static str, packet: &Tcp, web: Web, id: BackendId) -> Self {
        let mut out = packet.clone();
        out.destination = web.endpoint(id);
        out.ttl -= 1;
        let mut case = Self::new(name, packet.frame(), Counter::Forwarded);
        case.out = Some(out.frame_between(mac(0xff00 + BACKEND_SIDE), mac(id.index())));
        case.key = Some(web.flow_key(packet.source));
        case
    }

    /// A backend's packet that goes to the client as the VIP's.
    fn replied(name: &'static str, packet: &Tcp, web: Web) -> Self {
        let mut out = packet.clone();
        out.source = web.vip();
        out.ttl -= 1;
        let mut case = Self::new(name, packet.frame(), Counter::Replied);
        case.out = Some(out.frame_between(mac(0xff00 + CLIENT_SIDE), mac(GATEWAY)));
        case.key = Some(web.flow_key(packet.destination));
        case
    }

    /// A frame that goes back the way it came, changed into `out`.
    fn answered(name: &'static str, frame: Vec<u8>, verdict: Counter, out: Vec<u8>) -> Self {
        let mut case = Self::new(name, frame, verdict);
        case.out = Some(out);
        case
    }

    fn in_world(mut self, world: &World) -> Self {
        self.world = world.clone();
        self
    }

    fn remembers_flow(mut self, backend: BackendId, closing: u32) -> Self {
        self.flow = Some((backend, closing));
        self
    }

    fn remembers_half_open(mut self, backend: BackendId, proven: u32) -> Self {
        self.half_open = Some((backend, proven));
        self
    }
}

/// The backend that a stable service's table gives a client.
pub fn chosen(web: Web, client: SocketAddr) -> BackendId {
    let vip = web.vip();
    let tuple = Tuple {
        source: client.ip().into(),
        destination: vip.ip().into(),
        source_port: Port::new(if web == Web::Affinity { 0 } else { client.port() }),
        destination_port: Port::new(vip.port()),
        protocol: web.protocol(),
    };
    let ids = web.backends();
    ids[hash::slot(tuple.hash(SEED), SLOTS) as usize % ids.len()]
}
