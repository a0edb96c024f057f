//! Backends that do not answer their clients are ejected, and what holds where nobody is left.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_common::Handshakes;
use lb_userspace::data_plane::kernel::KernelCounters;
use lb_userspace::data_plane::proxy::ProxyTraffic;
use lb_userspace::model::{Cut, Listen, Protocol};

use super::harness::{A, B, C, WEB, World, address, named, tc};

const SECOND: Duration = Duration::from_secs(1);

fn ejecting(outlier: &str) -> String {
    WEB.replace("table_size = 13\n", &format!("table_size = 13\noutlier = {{ {outlier} }}\n"))
}

/// What the kernel has counted so far.
async fn meet(world: &World, handshakes: &[(&str, [u64; 3])]) {
    let handshakes = handshakes.iter().map(|(backend, [syns, accepted, refused])| {
        let (syns, accepted, refused) = (*syns, *accepted, *refused);
        (world.id(backend).index(), Handshakes { syns, accepted, refused })
    });
    let handshakes = handshakes.collect();
    world.kernel.set_counters(KernelCounters { handshakes, ..KernelCounters::default() });
    world.pass(SECOND + SECOND / 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_refuses_clients_is_ejected_and_returns() {
    let world = World::start(&ejecting("consecutive = 5, ejection = \"30s\"")).await;
    let (before, id) = (world.web(), world.id(A));
    meet(&world, &[(A, [10, 10, 0]), (B, [10, 10, 0])]).await;
    meet(&world, &[(A, [15, 10, 5]), (B, [20, 20, 0])]).await;
    let status = world.backend(A).await;
    assert_eq!((status.state.as_str(), status.effective_weight, status.slots), ("down", 0, 0));
    assert!(status.reason.contains("ejected for 30s: 5 connections in a row failed"), "{}", status.reason);
    assert_eq!(status.handshakes.map(|seen| (seen.syns, seen.accepted, seen.refused)), Some((15, 10, 5)));
    for (old, new) in before.iter().zip(world.web()) {
        assert_ne!(new.current(), id, "no new flow");
        assert_eq!(new.fallback(), old.current(), "old flows stay");
    }
    // Longer than the grace of a failed check.
    world.pass(20 * SECOND).await;
    assert!(named(&world.web(), id) > 0, "old flows stay");
    world.pass(12 * SECOND).await;
    assert_eq!(world.backend(A).await.state, "up");
    assert_eq!(world.web().iter().map(|slot| slot.current()).collect::<Vec<_>>(), {
        before.iter().map(|slot| slot.current()).collect::<Vec<_>>()
    });
}

#[tokio::test(start_paused = true)]
async fn an_ejection_outlives_its_daemon_and_not_its_section() {
    let config = ejecting("consecutive = 5, ejection = \"30s\"");
    let world = World::start(&config).await;
    meet(&world, &[(A, [10, 10, 0]), (B, [10, 10, 0])]).await;
    meet(&world, &[(A, [15, 10, 5]), (B, [20, 20, 0])]).await;
    assert_eq!(world.backend(A).await.state, "down");
    let kept = world.overrides.borrow().overrides.to_vec();
    assert_eq!(kept.iter().map(|kept| (kept.address, kept.ejections)).collect::<Vec<_>>(), [(address(A), 1)]);

    let world = World::restore(&config, world.stop().await, tc(), kept.clone()).unwrap();
    world.all_up().await;
    world.done().await;
    let status = world.backend(A).await;
    assert_eq!((status.state.as_str(), status.effective_weight, status.slots), ("down", 0, 0));
    assert!(status.reason.contains("ejected for 30s: by the daemon before this one"), "{}", status.reason);
    assert_eq!(status.overrides, Vec::<String>::new());
    assert_eq!(world.overrides.borrow().overrides[0].ejections, 1);
    world.pass(32 * SECOND).await;
    assert_eq!(world.backend(A).await.state, "up");
    assert!(world.overrides.borrow().overrides.is_empty(), "it is over");
    // It has not forgotten how often that was.
    meet(&world, &[(A, [15, 10, 5]), (B, [20, 20, 0])]).await;
    meet(&world, &[(A, [20, 10, 10]), (B, [30, 30, 0])]).await;
    let reason = world.backend(A).await.reason;
    assert!(reason.contains("ejected for 1m: 5 connections"), "{reason}");

    let world = World::restore(WEB, world.stop().await, tc(), kept).unwrap();
    world.all_up().await;
    world.done().await;
    assert_eq!(world.backend(A).await.state, "up");
    assert!(world.overrides.borrow().overrides.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_proxy_meets_counts_as_well() {
    let config =
        ejecting("consecutive = 5").replace("pool = \"web\"\n", "pool = \"web\"\nforward = \"proxy\"\n");
    let world = World::start(&config).await;
    let listen = Listen { address: address("192.0.2.10:80"), protocol: Protocol::Tcp };
    let meet = |new_connections, failures| {
        let traffic = ProxyTraffic { new_connections, failures, timeouts: 1, ..ProxyTraffic::default() };
        let backends = BTreeMap::from([(address(A), traffic)]);
        world.proxy.set_traffic(listen, ProxyTraffic::default(), backends);
    };
    meet(7, 0);
    world.pass(2 * SECOND).await;
    assert_eq!(world.backend(A).await.state, "up");
    meet(7, 5);
    world.pass(3 * SECOND).await;
    let status = world.backend(A).await;
    assert_eq!((status.state.as_str(), status.failures, status.timeouts), ("down", Some(5), Some(1)));
    assert!(status.reason.contains("5 connections in a row failed, 4 were refused"), "{}", status.reason);
    let state = world.proxy.state();
    let member = state.services[&listen].members.iter().find(|member| member.address == address(A)).unwrap();
    assert_eq!((member.weight, member.cut), (0, Cut::NONE));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_are_ejected_and_none_where_too_few_are_left() {
    let refused = [(A, [9, 0, 9]), (B, [8, 0, 8]), (C, [9, 9, 0])];
    let states = async |outlier: &str| {
        let world = World::start(&ejecting(outlier)).await;
        meet(&world, &[(A, [0, 0, 0]), (B, [0, 0, 0])]).await;
        meet(&world, &refused).await;
        let pool = world.pool("web").await;
        let seen = pool.backends.into_iter().map(|backend| (backend.effective_weight, backend.reason));
        seen.collect::<Vec<_>>()
    };
    let half = states("most = 50").await;
    assert_eq!(half.iter().map(|(weight, _)| *weight).collect::<Vec<_>>(), [0, 100, 100]);
    let both = states("most = 67").await;
    assert_eq!(both.iter().map(|(weight, _)| *weight).collect::<Vec<_>>(), [0, 0, 100]);
    let panic = states("most = 67, panic = 50").await;
    assert_eq!(panic.iter().map(|(weight, _)| *weight).collect::<Vec<_>>(), [100, 100, 100]);
    assert!(panic[0].1.contains("not ejected, since too few others are left"), "{}", panic[0].1);
}

#[tokio::test(start_paused = true)]
async fn while_all_are_down_new_flows_are_refused_or_served_by_all() {
    for (word, serves) in [("refuse", false), ("serve_all", true)] {
        let config = WEB.replace("pool = \"web\"\n", &format!("pool = \"web\"\nall_down = \"{word}\"\n"));
        let world = World::start(&config).await;
        let before = world.web();
        world.down(A).await;
        world.down(B).await;
        assert_eq!(world.backend(A).await.effective_weight, 0, "one is left");
        world.down(C).await;
        let status = world.backend(A).await;
        assert_eq!((status.state.as_str(), status.effective_weight > 0), ("down", serves));
        assert_eq!(status.reason.contains("all the same, since all are down"), serves, "{}", status.reason);
        if serves {
            // Also when the grace of a failure is over: there is nowhere better to go.
            world.pass(30 * SECOND).await;
            let current =
                |slots: Vec<lb_common::Slot>| slots.iter().map(|slot| slot.current()).collect::<Vec<_>>();
            assert_eq!(current(world.web()), current(before));
        } else {
            assert!(world.web().iter().all(|slot| !slot.current().is_some()));
        }
        world.up(B).await;
        assert!(world.web().iter().all(|slot| slot.current() == world.id(B)));
        assert_eq!(world.backend(A).await.effective_weight, 0);
    }
}
