//! Every map: who writes it, who reads it, what happens when it is full. Names as in `lb_common::names`.
#![expect(unsafe_code, reason = "map values are reached by pointer")]

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::LpmTrie;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use lb_common::buckets::{Bucket, FILTER};
use lb_common::flow_table::{self, Secret};
use lb_common::hash::{self, Seed};
use lb_common::route::{Host, Routes};
use lb_common::{
    Address, Backend, Counter, Endpoint, Exact, ExactKey, Flow, FlowKey, HalfOpen, Handshakes, NextHop, Peer,
    PeerKey, Service, Slot, SocketKey, Station, Traffic, Vip, limits,
};
use lb_ebpf::guard::Guard;
use lb_ebpf::rare::limiter::{self, Tokens};

use crate::buckets::Entry;
use crate::exact::Scratch;

/// The flow hash's key, a constant for the verifier; patched by the loader.
#[unsafe(no_mangle)]
pub static HASH_KEY: [Global<u64>; size_of::<hash::Key>() / 8] =
    [const { Global::new(0) }; size_of::<hash::Key>() / 8];

/// The network namespace whose sockets are led to backends, constant for the verifier; patched by the loader.
#[unsafe(no_mangle)]
pub static NETNS_COOKIE: Global<u64> = Global::new(0);

/// VIP -> service, through buckets. Written by the controller, read per packet.
#[map]
pub static SERVICES: Array<Entry<SocketKey, Service>> =
    Array::with_max_entries(limits::SERVICES + limits::SPARE_ENTRIES, 0);

/// Where the services are.
#[map]
pub static SERVICE_BUCKETS: Array<Bucket> =
    Array::with_max_entries(limits::SERVICE_BUCKETS + FILTER, BPF_F_MMAPABLE);

/// Backend's endpoint -> service of its replies, through buckets. Written by the controller, read per packet
/// that is for no VIP.
#[map]
pub static ENDPOINTS: Array<Entry<SocketKey, Endpoint>> =
    Array::with_max_entries(limits::BACKENDS + limits::SPARE_ENTRIES, 0);

/// Where the endpoints are.
#[map]
pub static ENDPOINT_BUCKETS: Array<Bucket> =
    Array::with_max_entries(limits::ENDPOINT_BUCKETS + FILTER, BPF_F_MMAPABLE);

/// Backend index -> backend. Written by the controller.
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(limits::backend_entries(limits::BACKENDS), 0);

/// `BPF_F_MMAPABLE | BPF_F_INNER_MAP` (linux/bpf.h): filled through memory; inner maps differ in size.
const INNER: usize = 1 << 10 | 1 << 12;

/// Table -> slots. Inner maps are built aside by the controller and swapped in one update.
#[btf_map]
pub static TABLES: btf_maps::ArrayOfMaps<btf_maps::Array<Slot, 65537, INNER>, { limits::TABLES as usize }> =
    btf_maps::ArrayOfMaps::new();

/// Table -> ticks by slot: when a packet of an old flow was last seen. Written per packet of such flows, read
/// by the controller. Survives table swaps.
#[btf_map]
pub static OLD_SEEN: btf_maps::ArrayOfMaps<btf_maps::Array<u32, 65537, INNER>, { limits::TABLES as usize }> =
    btf_maps::ArrayOfMaps::new();

/// What flows are hashed with; made of the seed and patched by the loader.
#[unsafe(no_mangle)]
pub static FLOW_SECRET: [Global<u64>; size_of::<Secret>() / 8] =
    [const { Global::new(0) }; size_of::<Secret>() / 8];

/// Buckets of [`FLOWS`]; patched by the loader.
#[unsafe(no_mangle)]
pub static FLOW_COUNT: Global<u32> = Global::new(flow_table::buckets(limits::FLOWS));

/// Flows whose handshake is not proven. Full: refused, never evicted. Expired ones are swept by the controller.
#[map]
pub static HALF_OPEN: Array<Entry<FlowKey, HalfOpen>> =
    Array::with_max_entries(flow_table::entries(flow_table::buckets(limits::HALF_OPEN)), BPF_F_MMAPABLE);

/// Where they are.
#[map]
pub static HALF_OPEN_BUCKETS: Array<flow_table::Bucket> =
    Array::with_max_entries(flow_table::buckets(limits::HALF_OPEN), BPF_F_MMAPABLE);

/// Flows of tracked slots. Full: refused, never evicted. Expired ones are swept by the controller.
#[map]
pub static FLOWS: Array<Entry<FlowKey, Flow>> =
    Array::with_max_entries(flow_table::entries(flow_table::buckets(limits::FLOWS)), BPF_F_MMAPABLE);

/// Where they are.
#[map]
pub static FLOW_BUCKETS: Array<flow_table::Bucket> =
    Array::with_max_entries(flow_table::buckets(limits::FLOWS), BPF_F_MMAPABLE);

/// Whose the flows of endpoints are where their packets alone do not tell. Full: refused, never evicted. Expired
/// ones are swept by the controller.
#[map]
pub static EXACT: HashMap<ExactKey, Exact> = HashMap::with_max_entries(limits::FLOWS, BPF_F_NO_PREALLOC);

/// Where a program puts keys of exact entries, and new ones, together. Nobody else reads it.
#[map]
pub static EXACT_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Backend index -> 1: its endpoint may have exact entries. Set by programs, taken back by the controller.
#[map]
pub static EXACT_HINTS: Array<u32> = Array::with_max_entries(limits::backend_entries(limits::BACKENDS), 0);

/// Service index -> VIP, for replies that an exact entry claims. Written by the controller.
#[map]
pub static VIPS: Array<Vip> = Array::with_max_entries(limits::SERVICES, 0);

/// What is known of single addresses: the host's own, neighbours, routes to one address; through buckets.
/// Written by the controller.
#[map]
pub static HOSTS: Array<Entry<Address, Host>> =
    Array::with_max_entries(limits::HOSTS + limits::SPARE_ENTRIES, 0);

/// Where the hosts are.
#[map]
pub static HOST_BUCKETS: Array<Bucket> =
    Array::with_max_entries(limits::HOST_BUCKETS + FILTER, BPF_F_MMAPABLE);

/// Family -> its routes to networks, where they are few; through buckets. Written by the controller.
#[map]
pub static LISTS: Array<Entry<Address, Routes>> = Array::with_max_entries(limits::LISTS, 0);

/// Where the lists are.
#[map]
pub static LIST_BUCKETS: Array<Bucket> =
    Array::with_max_entries(limits::LIST_BUCKETS + FILTER, BPF_F_MMAPABLE);

/// Network -> next hop, where they are many. Written by the controller from the host's routes.
#[map]
pub static ROUTES: LpmTrie<Address, NextHop> = LpmTrie::with_max_entries(limits::ROUTES, BPF_F_NO_PREALLOC);

/// Neighbours that a reply waited for. Full: not noted. Emptied by the controller.
#[map]
pub static WANTED: HashMap<Address, u32> = HashMap::with_max_entries(limits::WANTED, BPF_F_NO_PREALLOC);

/// VIP and interface -> next hop of answers to ARP and neighbour discovery. Written by the controller.
#[map]
pub static STATIONS: HashMap<Station, NextHop> =
    HashMap::with_max_entries(limits::STATIONS, BPF_F_NO_PREALLOC);

/// Hosts that have asked for a VIP -> next hop to them. Written by the programs that answer; full: the oldest goes.
#[map]
pub static ASKERS: LruHashMap<Address, NextHop> = LruHashMap::with_max_entries(limits::ASKERS, 0);

/// Socket and address -> whom the socket was led to. Full: the least recently used is forgotten, which moves no
/// connection.
#[map]
pub static PEERS: LruHashMap<PeerKey, Peer> = LruHashMap::with_max_entries(limits::PEERS, 0);

/// 0 -> what this CPU has remembered in this tick.
#[map]
pub static GUARD: PerCpuArray<Guard> = PerCpuArray::with_max_entries(1, 0);

/// Counter -> packets.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

/// Service index -> traffic.
#[map]
pub static SERVICE_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(limits::SERVICES, 0);

/// Backend index -> traffic.
#[map]
pub static BACKEND_TRAFFIC: PerCpuArray<Traffic> =
    PerCpuArray::with_max_entries(limits::backend_entries(limits::BACKENDS), 0);

/// Backend index -> handshakes.
#[map]
pub static HANDSHAKES: PerCpuArray<Handshakes> =
    PerCpuArray::with_max_entries(limits::backend_entries(limits::BACKENDS), 0);

/// Kind of answer -> tokens for answers of the data path's own.
#[map]
pub static ANSWERS: PerCpuArray<Tokens> = PerCpuArray::with_max_entries(limiter::ANSWERS as u32, 0);

/// 0 -> the program for rare packets of the XDP program. Written by the loader.
#[map]
pub static RARE_XDP: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// 0 -> the program for rare packets of the tc program. Written by the loader.
#[map]
pub static RARE_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The seed as the controller reads it back; programs use [`HASH_KEY`].
#[map]
static SEED: Array<Seed> = Array::with_max_entries(1, 0);

/// One word through which [`forget`] passes a number.
#[map]
static FORGOTTEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The same number below 32768: what a map's element holds, the verifier does not know.
#[inline(always)]
pub fn forget(number: usize) -> usize {
    let Some(word) = FORGOTTEN.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, valid for the program's run.
    let number = unsafe {
        word.write_volatile(number as u64);
        word.read_volatile()
    };
    number as usize & 0x7fff
}

/// For inserts that must not replace.
pub const NOEXIST: u64 = BPF_NOEXIST as u64;

/// Counts one frame under its verdict.
#[inline(always)]
pub fn count(verdict: Counter) {
    note(Counter::Received);
    note(verdict);
}

/// Counts.
#[inline(always)]
pub fn note(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the pointer is this CPU's element, valid for the program's run; programs of one CPU do
        // not interleave within a softirq, and a lost count would be harmless.
        unsafe { *value += 1 }
    }
}
