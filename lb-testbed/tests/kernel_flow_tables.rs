//! The flow tables under programs on two CPUs and a sweep, all in the same few buckets at once.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use lb_common::flow_table::{self, Bucket, Place, WAYS};
use lb_common::{limits, names};
use lb_testbed::bpffs::Bpffs;
use lb_testbed::object;
use lb_testbed::segment::{RST, SYN, Tcp};
use lb_testbed::world::{SEED, Web, World};
use lb_userspace::controller::plan::plan;
use lb_userspace::controller::table_sizes::TableSizes;
use lb_userspace::data_plane::kernel::{KernelState, KernelTables};
use lb_userspace::kernel::{KernelPlane, Settings};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Packets of each CPU at least: it goes on until the sweep has met enough.
const PACKETS: u32 = 120_000;
/// Entries that expire under the sweep's eyes.
const EXPIRED: u64 = 200;
/// When the sweep gives up.
const DEADLINE: Duration = Duration::from_secs(60);
/// Flows that have the same first bucket: four times its lanes.
const FLOWS: usize = 4 * WAYS as usize;
/// What a handshake lives, in ticks: the one in which it began. The sweep meets expired ones all the time.
const HALF_OPEN: u32 = 0;

/// Clients whose flows begin their search in the same bucket.
fn neighbours() -> Vec<SocketAddr> {
    let (secret, count) = (flow_table::secret(SEED), flow_table::buckets(limits::HALF_OPEN));
    let clients = (0..u32::MAX).map(|number| {
        let address = Ipv4Addr::from(0xcb00_7100 | number >> 16 & 0xff);
        SocketAddr::from((address, (number & 0xffff) as u16))
    });
    let first = |client: &SocketAddr| Place::of(&Web::Tracked.flow_key(*client), &secret, count).first;
    clients.filter(|client| client.port() > 1024 && first(client) == 4711).take(FLOWS).collect()
}

#[test]
fn two_cpus_and_a_sweep_leave_every_flow_once_or_not_at_all() -> Result<()> {
    let bpffs = Bpffs::mount()?;
    let dir = bpffs.join("sluice");
    let object = object::bytes()?;
    let settings = Settings {
        bpf_dir: &dir,
        flows: 1024,
        backends: limits::BACKENDS,
        hash_seed: Some(SEED),
        tables: TableSizes::default(),
        object: &object,
    };
    let (mut plane, _) = KernelPlane::open(&settings)?;
    let mut world = World::new();
    world.state.services.values_mut().for_each(|service| service.half_open = HALF_OPEN);
    for action in plan(&KernelState::default(), &world.state) {
        plane.tables.apply(&action)?;
    }
    let clients = neighbours();
    ensure!(clients.len() == FLOWS, "{} flows", clients.len());
    let frames: Vec<_> = clients
        .iter()
        .map(|client| {
            let syn = Tcp::new(*client, Web::Tracked.vip(), SYN);
            let seq = syn.seq.wrapping_add(1);
            [syn.frame(), Tcp { seq, ..Tcp::new(*client, Web::Tracked.vip(), RST) }.frame()]
        })
        .collect();

    let (barrier, is_over) = (Barrier::new(2), AtomicBool::new(false));
    let (mut swept, mut most) = (0, 0);
    thread::scope(|scope| -> Result<()> {
        let cpus = [0, 1].map(|cpu| {
            let (barrier, is_over, frames, dir) = (&barrier, &is_over, &frames, &dir);
            scope.spawn(move || -> Result<()> {
                let mut cpus = rustix::thread::CpuSet::new();
                cpus.set(cpu % thread::available_parallelism()?);
                rustix::thread::sched_setaffinity(None, &cpus)?;
                let path = dir.join("programs").join(names::PROGRAM_XDP);
                let program = Xdp::from_pin(path, XdpAttachType::Interface)?;
                let mut random = StdRng::seed_from_u64(cpu as u64);
                barrier.wait();
                let mut sent = 0;
                while sent < PACKETS || !is_over.load(Ordering::Relaxed) {
                    sent += 1;
                    let frame =
                        &frames[random.random_range(0..FLOWS)][usize::from(random.random_ratio(1, 3))];
                    program.test_run(TestRunOptions {
                        data_in: Some(frame),
                        repeat: 1,
                        ..Default::default()
                    })?;
                }
                Ok(())
            })
        });
        let (tables, is_over, swept, most) = (&mut plane.tables, &is_over, &mut swept, &mut most);
        let sweeper = scope.spawn(move || -> Result<()> {
            let start = Instant::now();
            let mut result = Ok(());
            while *swept < EXPIRED && start.elapsed() < DEADLINE && result.is_ok() {
                result = tables.sweep(tables.now()).map(|sweep| {
                    *swept += sweep.deleted;
                    *most = sweep.half_open.max(*most);
                });
            }
            is_over.store(true, Ordering::Relaxed);
            Ok(result?)
        });
        let results = cpus.map(|cpu| cpu.join().expect("a CPU's packets"));
        sweeper.join().expect("the sweep")?;
        results.into_iter().collect()
    })?;
    ensure!(swept >= EXPIRED && most > WAYS.into(), "{swept} entries expired, {most} at most in the table");

    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    plane.tables.flow_tables().scan(&mut |key, _| {
        if !seen.insert(*key) {
            twice.insert(*key);
        }
    })?;
    ensure!(twice.is_empty(), "twice in the table: {twice:?}");
    for key in &seen {
        ensure!(plane.tables.flow(key)?.is_some(), "{key:?} is in the table and not found");
    }
    plane.tables.sweep(plane.tables.now().wrapping_add(HALF_OPEN + 2))?;
    let map =
        MapData::from_pin(dir.join("maps").join(names::MAP_HALF_OPEN_BUCKETS)).context("the buckets")?;
    let buckets: Array<_, Bucket> = Array::try_from(Map::Array(map))?;
    for number in 0..buckets.len() {
        assert_eq!(buckets.get(&number, 0)?, Bucket::default(), "bucket {number}");
    }
    Ok(())
}
