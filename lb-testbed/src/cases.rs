//! The packet table: name, maps, frame in, verdict, frame out.
//!
//! The host's walk, the loaded programs (`BPF_PROG_TEST_RUN`) and the benchmark all run it. Expected frames
//! are built from scratch, never by translating, so a wrong translation cannot agree with itself.
//!
//! What a balancer meets, and where the rows are that show it:
//!
//! | what | rows |
//! |---|---|
//! | frames cut anywhere: IPv4, IPv6, tags, TCP, UDP, ICMP | `sweeps`; behind quoted packets `errors` |
//! | IPv4 header lengths 0 to 15, with and without the options | `sweeps`, `broken`; in quoted packets `errors` |
//! | lengths in the IP header below, above and beside the frame's; padding | `broken` |
//! | TCP header lengths 0 to 15; options of length 0 and 1, beyond the header, after the end; 40 bytes of them | `sweeps`, `options` |
//! | IPv6 extension headers: each kind, as many as may be, one too many, cut, beyond the packet; ESP, nothing next | `headers`, `sweeps` |
//! | 802.1Q, 802.1ad, priority tags, ARP, LLDP, 802.3 lengths, PPPoE | `headers`, `plain`, `neighbours` |
//! | fragments: first, middle, last, tiny, IPv6, atomic; of others and of replies | `broken`, `headers`, `datagrams`, `pings`, `errors` |
//! | checksums: every field that changes, both zeroes, wrong ones that stay wrong | `broken`, `datagrams`; at random in `lb-ebpf/tests/checksum.rs` and the fuzz target `round_trip` |
//! | packets too long for the next link, ours and others' errors about them | `trouble`, `errors`; on wires `net_pmtu` |
//! | streams through every plane, MTU and offload | on wires `net_bulk` |
//! | all 64 sets of TCP flags; a SYN with data | `sweeps`, `plain` |
//! | ICMP errors that quote something cut, with options, or somebody else's; pings to a VIP and to the host | `errors`, `pings` |
//! | hosts that look for a VIP on their link | `neighbours`; on wires `net_announce` |

mod broken;
mod datagrams;
mod errors;
mod exact;
mod headers;
mod neighbours;
mod options;
mod pings;
mod plain;
mod sweeps;
mod tracked;
mod trouble;

use std::net::SocketAddr;

use lb_common::hash::{self, Tuple};
use lb_common::{BackendId, Counter, ExactKey, FlowKey, Handshake, Port, ServiceId};

use crate::segment::{ACK, RST, SYN, Tcp};
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
    pub key: Option<FlowKey>,
    /// The tuple that has an exact entry afterwards, whose it is by the confirmed part, and by the pending one.
    pub exact: Option<(ExactKey, ServiceId, ServiceId)>,
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
        exact::cases(),
        pings::cases(),
        neighbours::cases(),
        options::cases(),
        errors::cases(),
        trouble::cases(),
    ]
    .concat()
}

/// Rows of one frame in very many forms: too many for what only wants an example of everything.
pub fn sweeps() -> Vec<Case> {
    sweeps::cases()
}

/// What a frame is, the frame, and the step of a handshake that it is counted as.
pub type Step = (&'static str, Vec<u8>, Option<Handshake>);

/// Frames of one flow after another in the usual world; and the backend that all of them are for.
pub fn handshakes() -> (Vec<Step>, BackendId) {
    let web = Web::V4;
    let id = chosen(web, client());
    let to_web = |flags| Tcp::new(client(), web.vip(), flags);
    let from_backend = |flags| Tcp::new(web.endpoint(id), client(), flags);
    let frames = vec![
        ("a SYN", to_web(SYN), Some(Handshake::Syn)),
        ("a SYN with data", to_web(SYN).payload(b"early"), Some(Handshake::Syn)),
        ("a SYN-ACK", from_backend(SYN | ACK), Some(Handshake::Accepted)),
        ("the client's ACK", to_web(ACK), None),
        ("the client's RST", to_web(RST | ACK).numbers(0, 1), None),
        ("a RST that answers a SYN", from_backend(RST | ACK).numbers(0, 1001), Some(Handshake::Refused)),
        ("a RST of a connection", from_backend(RST | ACK).numbers(77, 1001), None),
        ("a RST that answers an ACK", from_backend(RST).numbers(0, 0), None),
        ("data whose number is 0", from_backend(ACK).numbers(0, 1001), None),
    ];
    (frames.into_iter().map(|(name, packet, step)| (name, packet.frame(), step)).collect(), id)
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
        Self {
            name,
            world: World::new(),
            frame,
            verdict,
            out: None,
            flow: None,
            half_open: None,
            key: None,
            exact: None,
        }
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

    /// `whose`: by the confirmed and by the pending part.
    fn remembers_exact(mut self, key: ExactKey, whose: [ServiceId; 2]) -> Self {
        self.exact = Some((key, whose[0], whose[1]));
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
    ids[hash::slot(tuple.hash_with(&hash::key(SEED)), SLOTS) as usize % ids.len()]
}
