//! A UDP service beside a TCP service of the same pool.

use std::time::Duration;

use lb_common::Slot;

use super::harness::{A, B, C, World, address, named, web_and_dns};
use lb_userspace::controller::request::BackendChange;

#[tokio::test(start_paused = true)]
async fn each_protocol_has_a_table_and_ids_of_its_own() {
    let world = World::start(&web_and_dns()).await;
    let state = world.kernel.state();
    assert_eq!((state.tables.len(), state.backends.len(), state.endpoints.len()), (2, 6, 6));
    for backend in [A, B, C] {
        let (tcp, udp) = (world.id(backend), world.udp_id(backend).unwrap());
        assert!(named(&world.web(), tcp) > 0 && named(&world.dns(), tcp) == 0);
        assert!(named(&world.dns(), udp) > 0 && named(&world.web(), udp) == 0);
        let slots = named(&world.web(), tcp) + named(&world.dns(), udp);
        assert_eq!(world.backend(backend).await.slots, slots as u64, "status counts both");
    }
}

#[tokio::test(start_paused = true)]
async fn new_udp_flows_are_counted_only_where_every_flow_is_remembered() {
    for (tracking, shown) in [("auto", None), ("always", Some(0))] {
        let text = web_and_dns()
            .replace("protocol = \"udp\"", &format!("protocol = \"udp\"\ntracking = \"{tracking}\""));
        let status = World::start(&text).await.handle.status().await.unwrap();
        let of = |name: &str| status.services.iter().find(|service| service.name == name).unwrap().new_flows;
        assert_eq!((of("web"), of("dns")), (Some(0), shown), "{tracking}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_backend_loses_its_udp_flows_at_once_and_its_tcp_flows_after_the_grace() {
    let world = World::start(&web_and_dns()).await;
    let (tcp, udp) = (world.id(A), world.udp_id(A).unwrap());
    let before = world.dns();
    world.down(A).await;
    assert!(world.web().iter().any(|slot| slot.fallback() == tcp), "a hiccup breaks no connection");
    assert_eq!(world.udp_id(A), None, "retired");
    assert_eq!(named(&world.dns(), udp), 0);
    for (old, new) in before.iter().zip(world.dns()).filter(|(old, _)| old.current() == udp) {
        assert!(!new.is_tracked(), "{old:?} -> {new:?}");
    }
    world.up(A).await;
    assert_eq!(world.id(A), tcp);
    let returned = world.udp_id(A).unwrap();
    assert_eq!(returned, udp.next_generation());
    let back = world.dns().iter().filter(|slot| slot.current() == returned && slot.is_tracked()).count();
    assert!(back >= 4, "flows that moved to the others stay there for their idle time");
}

#[tokio::test(start_paused = true)]
async fn a_drain_settles_after_the_udp_idle_time() {
    let world = World::start(&web_and_dns()).await;
    let udp = world.udp_id(A).unwrap();
    world.handle.backend("web".into(), address(A), BackendChange::Weight { weight: 0 }).await.unwrap();
    let is_old = |slot: &Slot| slot.fallback() == udp;
    world.pass(Duration::from_secs(18)).await;
    assert!(world.dns().iter().any(is_old) && world.dns().iter().all(|slot| slot.current() != udp));
    world.pass(Duration::from_secs(6)).await;
    assert!(world.dns().iter().all(|slot| !slot.is_tracked() && !is_old(slot)));
    assert!(world.web().iter().any(|slot| slot.is_tracked()), "TCP flows may be silent for an hour");
}
