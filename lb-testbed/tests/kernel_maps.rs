//! The kernel planes' maps: what is written is what is read back, by this daemon and by the next.
#![expect(clippy::expect_used, reason = "constants that do not parse should stop the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues};
use lb_common::address::TCP;
use lb_common::{
    Address, Backend, BackendId, Counter, Endpoint, Flow, FlowKey, HalfOpen, NextHop, Port, Service,
    ServiceId, Slot, SocketKey, Station, Traffic, limits,
};
use lb_testbed::bpffs::Bpffs;
use lb_testbed::flow_map::FlowMap;
use lb_userspace::controller::table_sizes::TableSizes;
use lb_userspace::data_plane::kernel::{
    FlowCut, KernelAction, KernelState, KernelTables, Prefix, Slots, TrackedFlow,
};
use lb_userspace::kernel::{KernelPlane, Refusals, Settings, Tables};

const FLOWS: u32 = 8192;
const SEED: [u64; 2] = [1, 2];

struct Fixture {
    bpffs: Bpffs,
    object: Vec<u8>,
}

impl Fixture {
    fn new() -> Result<Self> {
        Ok(Self { bpffs: Bpffs::mount()?, object: lb_testbed::object::bytes()? })
    }

    fn dir(&self) -> PathBuf {
        self.bpffs.join("sluice")
    }

    fn open(&self) -> Result<Tables> {
        let settings = Settings {
            bpf_dir: &self.dir(),
            flows: FLOWS,
            backends: limits::BACKENDS,
            hash_seed: Some(SEED),
            tables: TableSizes::default(),
            object: &self.object,
        };
        Ok(KernelPlane::open(&settings)?.0.tables)
    }

    /// A pinned map as the programs see it.
    fn pinned(&self, name: &str) -> Result<MapData> {
        let path = self.dir().join("maps").join(name);
        MapData::from_pin(&path).with_context(|| path.display().to_string())
    }

    fn half_open(&self) -> Result<FlowMap<HalfOpen, 60>> {
        FlowMap::open(&self.dir().join("maps"), "HALF_OPEN", "HALF_OPEN_BUCKETS", SEED)
    }

    fn flows(&self) -> Result<FlowMap<Flow, 48>> {
        FlowMap::open(&self.dir().join("maps"), "FLOWS", "FLOW_BUCKETS", SEED)
    }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

fn hop(ifindex: u32) -> NextHop {
    NextHop { destination: [1, 2, 3], source: [4, 5, 6], ifindex, mtu: 1500 }
}

fn backend(address: &str, id: BackendId) -> Backend {
    let address = socket(address);
    Backend {
        address: address.ip().into(),
        port: Port::new(address.port()),
        protocol: u16::from(TCP),
        id,
        hop: hop(7),
        plain: ServiceId::default(),
    }
}

fn slots(count: u32, backends: u32) -> Slots {
    let slots = (0..count).map(|slot| {
        let id = BackendId::new(1 + slot % backends, slot % 5);
        if slot % 3 == 0 { Slot::tracked(id, id.next_generation(), slot % 2 == 0) } else { Slot::stable(id) }
    });
    Arc::new(slots.collect())
}

/// A state with something of everything in both families, the largest table size in common use among it.
fn state() -> KernelState {
    let service = |index, table, slots| Service {
        id: ServiceId::new(index, 9),
        table,
        slots,
        flags: 1,
        established: 1,
        closing: 2,
        half_open: 3,
        mss: 4,
    };
    let vip = |text| SocketKey::new(socket(text), TCP);
    let web = service(0, 3, 65537);
    KernelState {
        backends: [(1, "10.0.0.1:80"), (2, "[2001:db8::2]:80"), (limits::BACKENDS - 1, "10.0.0.3:80")]
            .map(|(index, address)| (index, backend(address, BackendId::new(index, 1))))
            .into(),
        tables: [(0, slots(251, 3)), (3, slots(65537, 100)), (limits::TABLES - 1, slots(251, 7))].into(),
        services: [(vip("192.0.2.1:80"), web), (vip("[2001:db8::1]:80"), service(1, 0, 251))].into(),
        endpoints: [
            (
                vip("10.0.0.1:80"),
                Endpoint { vip: vip("192.0.2.1:80"), backend: BackendId::new(1, 1), service: web },
            ),
            (
                vip("[2001:db8::2]:80"),
                Endpoint { vip: vip("[2001:db8::1]:80"), backend: BackendId::new(2, 1), service: web },
            ),
        ]
        .into(),
        local: ["192.0.2.254", "fe80::1"]
            .map(|ip| Address::from(ip.parse::<IpAddr>().expect("an address")))
            .into(),
        routes: [("0.0.0.0", 0), ("10.0.0.0", 8), ("10.0.0.1", 32), ("::", 0), ("2001:db8::", 32)]
            .map(|(ip, length)| {
                (Prefix { address: ip.parse().expect("an address"), length }, hop(length.into()))
            })
            .into(),
        stations: [("192.0.2.1", 2), ("192.0.2.1", 3), ("2001:db8::1", 2)]
            .map(|(ip, ifindex)| {
                let vip = ip.parse::<IpAddr>().expect("an address").into();
                (Station { vip, ifindex }, hop(ifindex))
            })
            .into(),
    }
}

fn writes(state: &KernelState) -> Vec<KernelAction> {
    let mut actions = Vec::new();
    actions.extend(
        state
            .backends
            .iter()
            .map(|(index, backend)| KernelAction::PutBackend { index: *index, backend: *backend }),
    );
    actions.extend(
        state
            .tables
            .iter()
            .map(|(table, slots)| KernelAction::SwapTable { table: *table, slots: slots.clone() }),
    );
    actions.extend(
        state.services.iter().map(|(key, service)| KernelAction::PutService { key: *key, service: *service }),
    );
    actions.extend(
        state
            .endpoints
            .iter()
            .map(|(key, endpoint)| KernelAction::PutEndpoint { key: *key, endpoint: *endpoint }),
    );
    actions.extend(state.local.iter().map(|address| KernelAction::PutLocal { address: *address }));
    actions.extend(
        state.routes.iter().map(|(prefix, hop)| KernelAction::PutRoute { prefix: *prefix, hop: *hop }),
    );
    actions.extend(
        state.stations.iter().map(|(station, hop)| KernelAction::PutStation { station: *station, hop: *hop }),
    );
    actions
}

fn removals(state: &KernelState) -> Vec<KernelAction> {
    let mut actions = Vec::new();
    actions.extend(state.stations.keys().map(|station| KernelAction::RemoveStation { station: *station }));
    actions.extend(state.routes.keys().map(|prefix| KernelAction::RemoveRoute { prefix: *prefix }));
    actions.extend(state.local.iter().map(|address| KernelAction::RemoveLocal { address: *address }));
    actions.extend(state.endpoints.keys().map(|key| KernelAction::RemoveEndpoint { key: *key }));
    actions.extend(state.services.keys().map(|key| KernelAction::RemoveService { key: *key }));
    actions.extend(state.tables.keys().map(|table| KernelAction::DropTable { table: *table }));
    let gone = Backend::default();
    actions
        .extend(state.backends.keys().map(|index| KernelAction::PutBackend { index: *index, backend: gone }));
    actions
}

fn names_in(directory: &Path) -> Result<BTreeSet<String>> {
    std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[test]
fn what_is_written_is_read_back_by_this_daemon_and_the_next() -> Result<()> {
    let fixture = Fixture::new()?;
    let wanted = state();
    let mut tables = fixture.open()?;
    assert_eq!(tables.read_back(&KernelState::default())?, KernelState::default());
    for action in writes(&wanted) {
        tables.apply(&action)?;
    }
    assert_eq!(tables.read_back(&KernelState::default())?, wanted);
    drop(tables);

    let mut tables = fixture.open()?;
    assert_eq!(tables.read_back(&KernelState::default())?, wanted);
    for action in removals(&wanted) {
        tables.apply(&action)?;
        // Once more: an action that was done but not confirmed is repeated.
        tables.apply(&action)?;
    }
    assert_eq!(tables.read_back(&KernelState::default())?, KernelState::default());
    assert_eq!(names_in(&fixture.dir().join("tables"))?, BTreeSet::new());
    assert_eq!(names_in(&fixture.dir().join("old_seen"))?, BTreeSet::new());
    Ok(())
}

#[test]
fn a_swap_replaces_the_slots_and_keeps_old_seen() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut tables = fixture.open()?;
    tables.apply(&KernelAction::SwapTable { table: 5, slots: slots(251, 2) })?;
    assert_eq!(tables.old_seen(5)?, vec![0; 251]);

    let pins = names_in(&fixture.dir().join("old_seen"))?;
    let pin = pins.first().context("old_seen of table 5 is pinned")?;
    let seen = MapData::from_pin(fixture.dir().join("old_seen").join(pin))?;
    let mut seen: Array<_, u32> = Array::try_from(Map::Array(seen))?;
    seen.set(250, u32::MAX, 0)?;
    seen.set(1, 77, 0)?;

    let next = slots(251, 3);
    tables.apply(&KernelAction::SwapTable { table: 5, slots: next.clone() })?;
    assert_eq!(tables.read_back(&KernelState::default())?.tables, [(5, next)].into());
    let mut expected = vec![0; 251];
    expected[250] = u32::MAX;
    expected[1] = 77;
    assert_eq!(tables.old_seen(5)?, expected);
    assert_eq!(names_in(&fixture.dir().join("old_seen"))?, pins, "the same array as before");
    assert_eq!(names_in(&fixture.dir().join("tables"))?.len(), 1, "the old table's pin is gone");

    // The place is given to a pool with another table size.
    tables.apply(&KernelAction::SwapTable { table: 5, slots: slots(1009, 3) })?;
    assert_eq!(tables.old_seen(5)?, vec![0; 1009]);
    assert_eq!(tables.old_seen(6)?, Vec::<u32>::new());
    Ok(())
}

#[test]
fn tables_that_are_made_at_once_are_all_there_or_leave_nothing() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut tables = fixture.open()?;
    let made: BTreeMap<_, _> = (0..40).map(|table| (table, slots(251 + 2 * table, 3))).collect();
    tables.make_tables(&made.iter().map(|(table, slots)| (*table, slots.clone())).collect::<Vec<_>>())?;
    let state = tables.read_back(&KernelState::default())?;
    assert_eq!(state.tables, made);
    let again = tables.read_back(&state)?;
    assert!(again.tables.iter().all(|(table, slots)| Arc::ptr_eq(slots, &state.tables[table])), "shared");
    assert_eq!(tables.old_seen(39)?, vec![0; 251 + 78]);
    // One word in a mapped table: what differs is read anew.
    let other = slots(251, 4);
    tables.apply(&KernelAction::SwapTable { table: 0, slots: other.clone() })?;
    assert_eq!(tables.read_back(&state)?.tables[&0], other);

    let pins = names_in(&fixture.dir().join("tables"))?;
    let refused = tables.make_tables(&[(50, slots(251, 1)), (limits::TABLES, slots(251, 1))]);
    assert_eq!(refused.expect_err("beyond the end").object, "map OLD_SEEN");
    assert_eq!(names_in(&fixture.dir().join("tables"))?, pins);
    drop(tables);
    let mut tables = fixture.open()?;
    assert_eq!(tables.read_back(&KernelState::default())?.tables.len(), 40);
    Ok(())
}

#[test]
fn pins_of_tables_that_are_not_in_place_go_at_the_next_start() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut tables = fixture.open()?;
    let wanted = slots(251, 2);
    tables.apply(&KernelAction::SwapTable { table: 5, slots: wanted.clone() })?;
    drop(tables);
    // As if the process had died between pinning a new array and putting it in place.
    let directory = fixture.dir().join("tables");
    let in_place = names_in(&directory)?;
    let stray = MapData::create(aya_obj_array(251), "stray", None)?;
    stray.pin(directory.join(format!("5-{}", stray.info()?.id())))?;
    assert_eq!(names_in(&directory)?.len(), 2);

    let mut tables = fixture.open()?;
    assert_eq!(names_in(&directory)?, in_place);
    assert_eq!(tables.read_back(&KernelState::default())?.tables, [(5, wanted)].into());
    Ok(())
}

fn aya_obj_array(entries: u32) -> aya_obj::Map {
    // linux/bpf.h: BPF_F_MMAPABLE | BPF_F_INNER_MAP.
    aya_obj::Map::new_from_params(aya::maps::MapType::Array as u32, 4, 8, entries, 1 << 10 | 1 << 12)
}

#[test]
fn errors_name_the_map_the_key_and_the_reason() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut tables = fixture.open()?;
    let capacity = limits::HOSTS + limits::SPARE_ENTRIES - 1;
    for host in 0..capacity {
        tables.apply(&KernelAction::PutLocal { address: std::net::Ipv4Addr::from(host).into() })?;
    }
    let address = "203.0.113.9".parse::<IpAddr>()?.into();
    let error = tables.apply(&KernelAction::PutLocal { address }).expect_err("the map is full");
    assert_eq!(error.object, "map HOSTS, key 203.0.113.9");
    assert!(
        error.reason.contains("full") && error.reason.contains(&capacity.to_string()),
        "{}",
        error.reason
    );

    let index = limits::backend_entries(limits::BACKENDS);
    let error = tables.apply(&KernelAction::PutBackend { index, backend: Backend::default() });
    assert_eq!(error.expect_err("beyond the end").object, format!("map BACKENDS, key {index}"));
    let error = tables.apply(&KernelAction::SwapTable { table: limits::TABLES, slots: slots(251, 1) });
    assert_eq!(error.expect_err("beyond the end").object, format!("map OLD_SEEN, key {}", limits::TABLES));
    for directory in ["tables", "old_seen"] {
        assert_eq!(
            names_in(&fixture.dir().join(directory))?,
            BTreeSet::new(),
            "the array that was made is gone"
        );
    }
    Ok(())
}

fn key(port: u16, service: ServiceId) -> FlowKey {
    FlowKey { client: socket("198.51.100.1:1").ip().into(), service, port: Port::new(port), padding: 0 }
}

#[test]
fn a_sweep_deletes_what_has_expired_and_counts_the_rest() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut tables = fixture.open()?;
    let (a, b) = (BackendId::new(1, 0), BackendId::new(2, 3));
    let (web, api) = (ServiceId::new(1, 0), ServiceId::new(2, 5));
    // Near the wrap of the clock: expiry is by signed difference.
    let now = 5;
    let (alive, expired, at_now) = (now + 10, u32::MAX - 3, now);

    let mut half_open = fixture.half_open()?;
    let entry = |backend, slot, expires, proven| HalfOpen {
        backend,
        slot,
        table: 1,
        expires,
        proven,
        ..HalfOpen::default()
    };
    half_open.insert(&key(1, web), &entry(a, 10, alive, 0))?;
    half_open.insert(&key(2, web), &entry(a, 11, alive, 1))?;
    half_open.insert(&key(3, web), &entry(b, 12, expired, 1))?;

    let mut flows = fixture.flows()?;
    let entry = |backend, slot, expires| Flow { backend, slot, table: 2, expires, ..Flow::default() };
    for port in 0..6000 {
        let expires = if port % 2 == 0 { alive } else { expired };
        flows.insert(&key(10_000 + port, api), &entry(b, u32::from(port % 2), expires))?;
    }
    flows.insert(&key(1, api), &entry(a, 0, at_now))?;

    let sweep = tables.sweep(now)?;
    assert_eq!((sweep.half_open, sweep.flows, sweep.deleted), (2, 3001, 3001));
    assert_eq!(sweep.by_backend, [(a, 2), (b, 3000)].into());
    assert_eq!(sweep.by_service, [(1, 1), (2, 3001)].into());
    assert_eq!(sweep.slots, [((1, 10), [a].into()), ((1, 11), [a].into()), ((2, 0), [a, b].into())].into());
    assert_eq!(tables.flow(&key(10_001, api))?, None, "it had expired");
    assert!(tables.flow(&key(10_002, api))?.is_some());

    // The tick in which they end is still theirs.
    assert_eq!(tables.sweep(now + 11)?.deleted, 1);
    let sweep = tables.sweep(now + 12)?;
    assert_eq!((sweep.half_open, sweep.flows, sweep.deleted), (0, 0, 3002));
    assert_eq!(sweep.slots, std::collections::HashMap::new());
    Ok(())
}

/// A cut lets flows of its backend and slots expire, and the sweep frees them; every other entry is left as it is.
#[test]
fn a_cut_ends_the_flows_that_it_means_and_no_others() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut tables = fixture.open()?;
    let mut flows = fixture.flows()?;
    let [a, b] = [BackendId::new(1, 0), BackendId::new(2, 3)];
    let now = tables.now();
    let flow =
        |table, backend, slot, expires, closing| Flow { backend, slot, table, seq: 7, expires, closing };
    let live = now.wrapping_add(1_000_000);
    let mut expected = Vec::new();
    for port in 0..600 {
        let (table, backend) = (u32::from(port % 2), if port % 3 == 0 { a } else { b });
        let entry = flow(table, backend, u32::from(port), live, u32::from(port % 5 == 0));
        flows.insert(&key(port, ServiceId::new(1, 0)), &entry)?;
        let is_cut = table == 1 && backend == a && port < 300;
        expected.extend((!is_cut).then_some((port, entry)));
    }
    let cut = FlowCut { table: 1, backend: a, below: 300 };
    ensure!(tables.cut(&[FlowCut { below: 0, ..cut }])? == 0);
    ensure!(tables.cut(&[cut])? == 50);
    ensure!(tables.cut(&[cut])? == 0, "they have expired");
    // One that is met by the last packet of its flow at this very moment goes a tick later.
    let sweep = tables.sweep(now.wrapping_add(100))?;
    ensure!((sweep.deleted, sweep.flows) == (50, 550), "{sweep:?}");
    for (port, entry) in expected {
        let found = tables.flow(&key(port, ServiceId::new(1, 0)))?;
        ensure!(found == Some(TrackedFlow::Flow(entry)), "{port}: {found:?} instead of {entry:?}");
    }
    Ok(())
}

#[test]
fn a_flow_is_found_in_either_table_and_the_proven_one_wins() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut tables = fixture.open()?;
    let key = key(4711, ServiceId::new(1, 1));
    assert_eq!(tables.flow(&key)?, None);
    let half_open = HalfOpen { backend: BackendId::new(1, 0), isn: 99, ..HalfOpen::default() };
    fixture.half_open()?.insert(&key, &half_open)?;
    assert_eq!(tables.flow(&key)?, Some(TrackedFlow::HalfOpen(half_open)));
    let flow = Flow { backend: BackendId::new(1, 0), seq: 100, ..Flow::default() };
    fixture.flows()?.insert(&key, &flow)?;
    assert_eq!(tables.flow(&key)?, Some(TrackedFlow::Flow(flow)));
    Ok(())
}

#[test]
fn counters_are_summed_over_cpus_and_what_is_cleared_is_not_lost() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut tables = fixture.open()?;
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
    let each = |base: u64| {
        (0..cpus).map(move |cpu| Traffic {
            packets: base + cpu as u64,
            bytes: 2 * base,
            new_flows: 1,
            drops: 3,
            reply_packets: 4,
            reply_bytes: 5,
        })
    };
    let sum = |base: u64| {
        each(base).fold(Traffic::default(), |sum, one| Traffic {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
            new_flows: sum.new_flows + one.new_flows,
            drops: sum.drops + one.drops,
            reply_packets: sum.reply_packets + one.reply_packets,
            reply_bytes: sum.reply_bytes + one.reply_bytes,
        })
    };
    let per_cpu = |name| -> Result<PerCpuArray<MapData, Traffic>> {
        Ok(PerCpuArray::try_from(Map::PerCpuArray(fixture.pinned(name)?))?)
    };
    let mut services = per_cpu("SERVICE_TRAFFIC")?;
    services.set(3, PerCpuValues::try_from(each(100).collect::<Vec<_>>())?, 0)?;
    services.set(4, PerCpuValues::try_from(each(7).collect::<Vec<_>>())?, 0)?;
    let mut backends = per_cpu("BACKEND_TRAFFIC")?;
    backends.set(5, PerCpuValues::try_from(each(200).collect::<Vec<_>>())?, 0)?;
    let mut counters: PerCpuArray<_, u64> =
        PerCpuArray::try_from(Map::PerCpuArray(fixture.pinned("COUNTERS")?))?;
    counters.set(Counter::NoBackend as u32, PerCpuValues::try_from(vec![21; cpus])?, 0)?;

    let sums = tables.counters(&[3, 9], &[5])?;
    assert_eq!(sums.counters.len(), Counter::ALL.len());
    assert_eq!(sums.counters[&Counter::NoBackend], 21 * cpus as u64);
    assert_eq!(sums.counters[&Counter::Received], 0);
    assert_eq!(sums.services, [(3, sum(100)), (9, Traffic::default())].into());
    assert_eq!(sums.backends, [(5, sum(200))].into());

    tables.clear_traffic(Some(3), None)?;
    tables.clear_traffic(None, Some(5))?;
    let sums = tables.counters(&[0, 3, 4], &[0, 5])?;
    assert_eq!(sums.services, [(0, sum(100)), (3, Traffic::default()), (4, sum(7))].into());
    assert_eq!(sums.backends, [(0, sum(200)), (5, Traffic::default())].into());
    tables.clear_traffic(Some(4), None)?;
    assert_eq!(tables.counters(&[0], &[])?.services[&0].bytes, sum(100).bytes + sum(7).bytes);
    Ok(())
}

#[test]
fn wanted_neighbours_are_taken_out_once() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut tables = fixture.open()?;
    let wanted: [(IpAddr, u32); 2] = [("192.0.2.9".parse()?, 4), ("2001:db8::9".parse()?, 5)];
    let mut map: HashMap<_, Address, u32> = HashMap::try_from(Map::HashMap(fixture.pinned("WANTED")?))?;
    for (ip, ifindex) in wanted {
        map.insert(Address::from(ip), ifindex, 0)?;
    }
    let mut taken = tables.take_wanted()?;
    taken.sort();
    assert_eq!(taken, wanted);
    assert_eq!(tables.take_wanted()?, []);
    Ok(())
}

#[test]
fn ticks_are_those_of_the_coarse_monotonic_clock() -> Result<()> {
    let fixture = Fixture::new()?;
    let tables = fixture.open()?;
    let clock = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        lb_common::ticks::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    };
    let (before, now, after) = (clock(), tables.now(), clock());
    assert!((before..=after).contains(&now), "{before} <= {now} <= {after}");
    Ok(())
}

#[test]
fn who_refuses_a_client_is_named_once() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut tables = fixture.open()?;
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
    let mut handshakes: PerCpuArray<_, [u64; 3]> =
        PerCpuArray::try_from(Map::PerCpuArray(fixture.pinned("HANDSHAKES")?))?;
    let mut count = |index, refused| -> Result<()> {
        // SYNs, answers, refusals.
        let mut values = vec![[9, 5, 0]; cpus];
        values[cpus - 1][2] = refused;
        Ok(handshakes.set(index, PerCpuValues::try_from(values)?, 0)?)
    };
    for (index, address) in [(1, "10.0.0.1:80"), (5000, "[2001:db8::2]:81")] {
        let backend = backend(address, BackendId::new(index, 0));
        tables.apply(&KernelAction::PutBackend { index, backend })?;
    }
    count(1, 3)?;
    let mut refusals = Refusals::open(&fixture.dir())?;
    assert_eq!(refusals.look()?, [], "what was before is no news");
    assert_eq!(refusals.look()?, []);
    count(1, 4)?;
    count(5000, 1)?;
    count(7, 1)?;
    assert_eq!(refusals.look()?, [socket("10.0.0.1:80"), socket("[2001:db8::2]:81")], "nobody lives at 7");
    assert_eq!(refusals.look()?, []);
    count(5000, 0)?;
    assert_eq!(refusals.look()?, [], "another backend counts from 0 on");
    Ok(())
}
