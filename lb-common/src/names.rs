//! Names of programs, maps and pins: as declared in lb-ebpf's binary, as files under `bpf_dir`.

/// The XDP program.
pub const PROGRAM_XDP: &str = "sluice_xdp";
/// The tc program.
pub const PROGRAM_TC: &str = "sluice_tc";
/// What the XDP program leaves to it by a tail call: ICMP, and packets that cannot go on.
pub const PROGRAM_XDP_RARE: &str = "sluice_xdp_rare";
/// The same for the tc program.
pub const PROGRAM_TC_RARE: &str = "sluice_tc_rare";
/// An XDP program that passes everything: a veth that receives redirected frames needs one on its peer.
pub const PROGRAM_PASS: &str = "sluice_pass";
/// The programs for sockets of this host, in the order in which they are attached: those that give a backend's
/// answers the VIP's name come first.
pub const PROGRAMS_LOCAL: [&str; 8] = [
    "sluice_getpeername4",
    "sluice_getpeername6",
    "sluice_recvmsg4",
    "sluice_recvmsg6",
    "sluice_sendmsg4",
    "sluice_sendmsg6",
    "sluice_connect4",
    "sluice_connect6",
];
/// The read-only global that holds the cookie of the network namespace whose sockets are led to backends; 0: none.
pub const GLOBAL_NETNS: &str = "NETNS_COOKIE";
/// The read-only global that holds the flow hash's key, made of the seed: `hash::Key`.
pub const GLOBAL_HASH_KEY: &str = "HASH_KEY";
/// What flows are hashed with, made of the seed: `flow_table::Secret`.
pub const GLOBAL_FLOW_SECRET: &str = "FLOW_SECRET";
/// Buckets of the flow table: `u32`.
pub const GLOBAL_FLOW_COUNT: &str = "FLOW_COUNT";

/// Entry -> `SocketKey` (VIP) and `Service`. Written by the controller.
pub const MAP_SERVICES: &str = "SERVICES";
/// Bucket -> words that name entries of `SERVICES` ([`crate::buckets`]). Written by the controller.
pub const MAP_SERVICE_BUCKETS: &str = "SERVICE_BUCKETS";
/// Entry -> `SocketKey` (backend) and `Endpoint`. Written by the controller.
pub const MAP_ENDPOINTS: &str = "ENDPOINTS";
/// Bucket -> words that name entries of `ENDPOINTS`. Written by the controller.
pub const MAP_ENDPOINT_BUCKETS: &str = "ENDPOINT_BUCKETS";
/// Index -> `Backend`. Written by the controller.
pub const MAP_BACKENDS: &str = "BACKENDS";
/// Table -> array of `Slot`. Inner maps swapped by the controller.
pub const MAP_TABLES: &str = "TABLES";
/// Table -> array of `u32` ticks: when a packet of an old flow was last seen. Written by the programs.
pub const MAP_OLD_SEEN: &str = "OLD_SEEN";
/// Entry -> `FlowKey` and `HalfOpen`. Written by the programs.
pub const MAP_HALF_OPEN: &str = "HALF_OPEN";
/// Bucket -> lanes that name entries of `HALF_OPEN`. Written by the programs; the controller frees the lanes of
/// expired entries.
pub const MAP_HALF_OPEN_BUCKETS: &str = "HALF_OPEN_BUCKETS";
/// Entry -> `FlowKey` and `Flow`. Written by the programs.
pub const MAP_FLOWS: &str = "FLOWS";
/// Bucket -> lanes that name entries of `FLOWS`, likewise.
pub const MAP_FLOW_BUCKETS: &str = "FLOW_BUCKETS";
/// `ExactKey` -> `Exact`. Written by the programs; expired entries deleted by the controller.
pub const MAP_EXACT: &str = "EXACT";
/// Backend index -> 1: its endpoint may have exact entries. Set by the programs, taken back by the controller.
pub const MAP_EXACT_HINTS: &str = "EXACT_HINTS";
/// Service index -> `Vip`. Written by the controller.
pub const MAP_VIPS: &str = "VIPS";
/// Entry -> `Address` and `route::Host`: the host's own addresses, neighbours and routes to one address, for
/// replies. Written by the controller.
pub const MAP_HOSTS: &str = "HOSTS";
/// Bucket -> words that name entries of `HOSTS`. Written by the controller.
pub const MAP_HOST_BUCKETS: &str = "HOST_BUCKETS";
/// Prefix -> `NextHop`: mirrored routes to networks, for replies. Written by the controller.
pub const MAP_ROUTES: &str = "ROUTES";
/// Entry -> `Address` and `route::Routes`: the same routes as a list for each family. Written by the controller.
pub const MAP_LISTS: &str = "LISTS";
/// Bucket -> words that name entries of `LISTS`. Written by the controller.
pub const MAP_LIST_BUCKETS: &str = "LIST_BUCKETS";
/// `Address` -> interface index: neighbours that a reply waited for. Written by the programs, emptied by the controller.
pub const MAP_WANTED: &str = "WANTED";
/// `Station` -> `NextHop`: where the programs answer ARP and neighbour discovery. Written by the controller.
pub const MAP_STATIONS: &str = "STATIONS";
/// `Address` -> `NextHop`: hosts that have asked for a VIP. Written by the programs.
pub const MAP_ASKERS: &str = "ASKERS";
/// `PeerKey` -> `Peer`: whom sockets of this host were led to. Written by the programs.
pub const MAP_PEERS: &str = "PEERS";
/// 0 -> per-CPU count of the flows that were remembered in this tick. Written by the programs.
pub const MAP_GUARD: &str = "GUARD";
/// `Counter` -> per-CPU `u64`.
pub const MAP_COUNTERS: &str = "COUNTERS";
/// The index of both traffic maps that no service and no backend has: what those counted that are gone, so
/// that the sum over a map stays the sum of all packets.
pub const GONE: u32 = 0;
/// Service index -> per-CPU `Traffic`.
pub const MAP_SERVICE_TRAFFIC: &str = "SERVICE_TRAFFIC";
/// Backend index -> per-CPU `Traffic`.
pub const MAP_BACKEND_TRAFFIC: &str = "BACKEND_TRAFFIC";
/// Backend index -> per-CPU `Handshakes`.
pub const MAP_HANDSHAKES: &str = "HANDSHAKES";
/// Kind of answer -> per-CPU tokens. Written by the programs.
pub const MAP_ANSWERS: &str = "ANSWERS";
/// 0 -> [`PROGRAM_XDP_RARE`]. Written by the loader.
pub const MAP_RARE_XDP: &str = "RARE_XDP";
/// 0 -> [`PROGRAM_TC_RARE`]. Written by the loader.
pub const MAP_RARE_TC: &str = "RARE_TC";
/// 0 -> `[u64; 2]`: the hash seed in force, kept so that a new daemon adopts it.
pub const MAP_SEED: &str = "SEED";

/// 0 -> [`crate::layout::LAYOUT`] of the build that made the maps. No program knows it, so it is none of [`MAPS`]; it is
/// pinned before any of them.
pub const MAP_LAYOUT: &str = "LAYOUT";

/// Every map, in the order in which it is pinned.
pub const MAPS: &[&str] = &[
    MAP_SERVICES,
    MAP_SERVICE_BUCKETS,
    MAP_ENDPOINTS,
    MAP_ENDPOINT_BUCKETS,
    MAP_BACKENDS,
    MAP_TABLES,
    MAP_OLD_SEEN,
    MAP_HALF_OPEN,
    MAP_HALF_OPEN_BUCKETS,
    MAP_FLOWS,
    MAP_FLOW_BUCKETS,
    MAP_EXACT,
    MAP_EXACT_HINTS,
    MAP_VIPS,
    MAP_HOSTS,
    MAP_HOST_BUCKETS,
    MAP_ROUTES,
    MAP_LISTS,
    MAP_LIST_BUCKETS,
    MAP_WANTED,
    MAP_STATIONS,
    MAP_ASKERS,
    MAP_PEERS,
    MAP_GUARD,
    MAP_COUNTERS,
    MAP_SERVICE_TRAFFIC,
    MAP_BACKEND_TRAFFIC,
    MAP_HANDSHAKES,
    MAP_ANSWERS,
    MAP_RARE_XDP,
    MAP_RARE_TC,
    MAP_SEED,
];
