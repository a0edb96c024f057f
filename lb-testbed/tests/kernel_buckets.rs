//! Tables with buckets, under the programs that read them: crowded buckets, and changes on one CPU while
//! another looks up.
#![expect(clippy::expect_used, reason = "constants that do not parse should stop the test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use lb_common::address::TCP;
use lb_common::buckets::{Key, WAYS};
use lb_common::service::SOURCE_AFFINITY;
use lb_common::{Counter, Service, Slot, SocketKey, limits};
use lb_testbed::cases::client;
use lb_testbed::loaded::{Hook, Loaded};
use lb_testbed::segment::{ACK, Tcp};
use lb_testbed::world::{Web, World};
use lb_userspace::data_plane::kernel::KernelAction;

fn key(socket: SocketAddr) -> SocketKey {
    SocketKey::new(socket, TCP)
}

/// Listen addresses whose search begins in a bucket.
fn residents(bucket: u32) -> impl Iterator<Item = SocketAddr> {
    let hosts = u32::from(Ipv4Addr::new(203, 0, 113, 0))..;
    let sockets = hosts.map(|host| SocketAddr::from((Ipv4Addr::from(host), 80)));
    sockets.filter(move |socket| key(*socket).hash().first(limits::SERVICE_BUCKETS) == bucket)
}

fn service(loaded: &World, web: Web) -> Service {
    loaded.state.services.get(&key(web.vip())).copied().expect("a service of the world")
}

fn put(loaded: &mut Loaded, socket: SocketAddr, service: Service) -> Result<()> {
    Ok(loaded.apply(&KernelAction::PutService { key: key(socket), service })?)
}

fn remove(loaded: &mut Loaded, socket: SocketAddr) -> Result<()> {
    Ok(loaded.apply(&KernelAction::RemoveService { key: key(socket) })?)
}

#[test]
fn a_full_bucket_overflows_into_the_second_and_then_refuses() -> Result<()> {
    let mut loaded = Loaded::new()?;
    let world = World::new();
    let now = loaded.now();
    loaded.become_world(&world, now)?;
    let service = service(&world, Web::V4);
    let verdict = |loaded: &mut Loaded, to: SocketAddr| -> Result<Option<Counter>> {
        Ok(loaded.run(Hook::Xdp, &Tcp::new(client(), to, ACK).frame())?.verdict)
    };

    // Fill both buckets of an address with others, which begin there.
    let newcomer: SocketAddr = ([198, 18, 0, 1], 80).into();
    let hash = key(newcomer).hash();
    let first: Vec<_> = residents(hash.first(limits::SERVICE_BUCKETS)).take(WAYS).collect();
    let second: Vec<_> = residents(hash.second(limits::SERVICE_BUCKETS)).take(WAYS).collect();
    for vip in first.iter().chain(&second) {
        put(&mut loaded, *vip, service)?;
    }
    let error = put(&mut loaded, newcomer, service).expect_err("no place is left").to_string();
    assert!(error.contains("SERVICES, key 198.18.0.1:80") && error.contains("cure"), "{error}");
    assert_eq!(verdict(&mut loaded, newcomer)?, Some(Counter::Passed));

    remove(&mut loaded, second[3])?;
    put(&mut loaded, newcomer, service)?;
    // One after the other goes, the newcomer's first bucket last to first: the rest stays reachable.
    let mut present: Vec<_> = [newcomer].into_iter().chain(second).chain(first).collect();
    present.remove(1 + 3);
    while let Some(vip) = present.pop() {
        remove(&mut loaded, vip)?;
        assert_eq!(verdict(&mut loaded, vip)?, Some(Counter::Passed), "{vip}");
        for vip in &present {
            assert_eq!(verdict(&mut loaded, *vip)?, Some(Counter::Forwarded), "{vip}");
        }
    }
    Ok(())
}

#[test]
fn a_key_is_found_whole_while_it_and_its_neighbours_change() -> Result<()> {
    let mut loaded = Loaded::new()?;
    let mut world = World::new();
    // Two values of one service that differ in two places, and tables in which a mix of them finds no backend:
    // a client is looked for whose flow is in an even slot by port, in an odd one by source alone.
    let by_port = Service { table: 2000, ..service(&world, Web::V4) };
    let by_source = Service { table: 2001, flags: by_port.flags | SOURCE_AFFINITY, ..by_port };
    for table in [by_port.table, by_source.table] {
        let slot =
            |slot| if slot % 2 == table % 2 { Slot::stable(Web::V4.backends()[0]) } else { Slot::default() };
        world.state.tables.insert(table, Arc::new((0..by_port.slots).map(slot).collect()));
    }
    let now = loaded.now();
    loaded.become_world(&world, now)?;
    let vip = Web::V4.vip();
    let mixed =
        [Service { flags: by_source.flags, ..by_port }, Service { flags: by_port.flags, ..by_source }];
    let mut fits = |frame: &[u8]| -> Result<Option<u32>> {
        for (service, expected) in [by_port, by_source]
            .map(|service| (service, Counter::Forwarded))
            .into_iter()
            .chain(mixed.map(|service| (service, Counter::NoBackend)))
        {
            put(&mut loaded, vip, service)?;
            if loaded.run(Hook::Xdp, frame)?.verdict != Some(expected) {
                return Ok(None);
            }
        }
        put(&mut loaded, vip, by_port)?;
        Ok(Some(loaded.run(Hook::Xdp, frame)?.action))
    };
    let mut found = None;
    for host in 1..=250 {
        let client = SocketAddr::from(([198, 51, 100, host], 40000));
        let frame = Tcp::new(client, vip, ACK).frame();
        if let Some(action) = fits(&frame)? {
            found = Some((frame, action));
            break;
        }
    }
    let (frame, forwarded) = found.context("a quarter of all clients fits")?;

    let neighbours: Vec<_> =
        residents(key(vip).hash().first(limits::SERVICE_BUCKETS)).take(WAYS + 2).collect();
    let program = Xdp::from_pin(loaded.program(Hook::Xdp), XdpAttachType::Interface)?;
    let done = AtomicBool::new(false);
    // Every entry is used again, after a grace period, several times over.
    let changes = 8 * (limits::SERVICES + limits::SPARE_ENTRIES);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<u64> {
            let mut out = vec![0; frame.len() + 256];
            let mut runs = 0;
            while !done.load(Ordering::Relaxed) {
                let options = TestRunOptions {
                    data_in: Some(&frame),
                    data_out: Some(&mut out),
                    repeat: 1,
                    ..Default::default()
                };
                let ran = program.test_run(options)?;
                ensure!(ran.return_value == forwarded, "run {runs}: action {}", ran.return_value);
                runs += 1;
            }
            Ok(runs)
        });
        let written = (|| -> Result<()> {
            for change in 0..changes {
                if reader.is_finished() {
                    break;
                }
                put(&mut loaded, vip, if change % 2 == 0 { by_port } else { by_source })?;
                let neighbour = neighbours[change as usize % neighbours.len()];
                if (change / neighbours.len() as u32).is_multiple_of(2) {
                    put(&mut loaded, neighbour, by_port)?;
                } else {
                    remove(&mut loaded, neighbour)?;
                }
            }
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        let runs = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        written.context("the writer")?;
        ensure!(runs? > 1000, "the reader hardly ran");
        Ok(())
    })
}
