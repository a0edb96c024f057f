//! Backends fail and return.

use std::time::Duration;

use lb_common::{BackendId, Slot};

use super::harness::{A, B, C, WEB, World, address, named};

#[tokio::test(start_paused = true)]
async fn a_start_fills_the_maps() {
    let world = World::start(WEB).await;
    let state = world.kernel.state();
    assert_eq!(state.backends.len(), 3);
    assert_eq!(state.endpoints.len(), 3);
    assert_eq!(state.services.len(), 2, "the service and its VIP's marker");
    assert!(state.local.contains(&"172.16.0.1".parse::<std::net::IpAddr>().unwrap().into()));
    assert!(state.backends.values().all(|backend| backend.hop.ifindex == 2));
    let slots = world.web();
    assert_eq!(slots.len(), 13);
    assert!(slots.iter().all(|slot| !slot.is_tracked() && slot.current().is_some()));
    for backend in [A, B, C] {
        assert!(named(&slots, world.id(backend)) >= 4);
        assert_eq!(world.backend(backend).await.state, "up");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hiccup_leaves_the_old_flows_where_they_are() {
    let world = World::start(WEB).await;
    let (before, id) = (world.web(), world.id(A));
    world.down(A).await;
    for (old, new) in before.iter().zip(world.web()) {
        assert_ne!(new.current(), id, "no new flow");
        assert_eq!(new.fallback(), old.current(), "old flows stay");
        assert_eq!(new.is_tracked(), new.current() != old.current());
    }
    let status = world.backend(A).await;
    assert_eq!((status.state.as_str(), status.effective_weight, status.slots), ("down", 0, 0));
    assert!(status.reason.contains("connection refused"), "{}", status.reason);

    world.pass(Duration::from_secs(9)).await;
    world.up(A).await;
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.web(), before, "untracked again, nothing moved");
    assert_eq!(world.id(A), id);
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_old_flows_are_cut_and_the_backend_returns_as_another() {
    let world = World::start(WEB).await;
    let id = world.id(A);
    world.down(A).await;
    world.pass(Duration::from_millis(9900)).await;
    assert!(named(&world.web(), id) > 0);
    world.pass(Duration::from_millis(200)).await;
    assert_eq!(named(&world.web(), id), 0);
    assert_eq!(world.kernel.id_of(address(A)), None, "retired");
    assert!(!world.kernel.state().endpoints.values().any(|endpoint| endpoint.backend == id));
    assert!(world.backend(A).await.reason.contains("were moved"));

    world.up(A).await;
    assert_eq!(world.id(A), id.next_generation());
    assert!(named(&world.web(), id.next_generation()) > 0);
}

#[tokio::test(start_paused = true)]
async fn without_grace_slots_stay_untracked() {
    let world = World::start(&WEB.replace("down_grace = \"10s\"", "down_grace = \"0s\"")).await;
    let (before, id) = (world.web(), world.id(A));
    world.down(A).await;
    let after = world.web();
    assert_eq!(named(&after, id), 0);
    for (old, new) in before.iter().zip(&after).filter(|(old, _)| old.current() == id) {
        assert!(!new.is_tracked(), "{old:?} -> {new:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_grace_forever_old_flows_stay() {
    let world = World::start(&WEB.replace("down_grace = \"10s\"", "down_grace = \"forever\"")).await;
    let id = world.id(A);
    world.down(A).await;
    world.pass(Duration::from_secs(600)).await;
    assert!(world.web().iter().any(|slot| slot.fallback() == id));
}

#[tokio::test(start_paused = true)]
async fn when_all_are_down_new_flows_find_none_and_old_ones_stay_for_the_grace() {
    let world = World::start(WEB).await;
    let before = world.web();
    for backend in [A, B, C] {
        world.down(backend).await;
    }
    for (old, new) in before.iter().zip(world.web()) {
        assert_eq!(new, Slot::tracked(BackendId::NONE, old.current(), false));
    }
    world.pass(Duration::from_secs(11)).await;
    world.pass(Duration::from_secs(2)).await;
    assert!(world.web().iter().all(|slot| *slot == Slot::stable(BackendId::NONE)));
    world.up(B).await;
    assert!(world.web().iter().all(|slot| *slot == Slot::stable(world.id(B))));
}

#[tokio::test(start_paused = true)]
async fn a_backup_serves_only_while_no_other_is_up() {
    let config = WEB.replace("{ address = \"10.0.0.3:80\" }", "{ address = \"10.0.0.3:80\", backup = true }");
    let world = World::start(&config).await;
    assert_eq!(world.backend(C).await.effective_weight, 0);
    assert_eq!(world.backend(C).await.state, "up");
    world.down(A).await;
    assert_eq!(world.backend(C).await.effective_weight, 0);
    world.down(B).await;
    assert!(world.web().iter().all(|slot| slot.current() == world.id(C)));
    world.up(A).await;
    assert_eq!(world.backend(C).await.effective_weight, 0);
    assert!(world.web().iter().all(|slot| slot.current() == world.id(A)));
}

#[tokio::test(start_paused = true)]
async fn a_slot_settles_when_its_old_flows_are_silent() {
    let world = World::start(&WEB.replace("established = \"1h\"", "established = \"20s\"")).await;
    let id = world.id(A);
    world.handle.backend("web".into(), address(A), weight(0)).await.unwrap();
    let (table, _) = world.kernel.state().tables.into_iter().next().unwrap();
    let in_change: Vec<_> = (0..13).filter(|index| world.web()[*index].fallback() == id).collect();
    let (speaking, silent) = (in_change[0], in_change[1]);
    for _ in 0..3 {
        world.pass(Duration::from_secs(10)).await;
        world.kernel.stamp(table, speaking);
    }
    assert_eq!(world.web()[speaking].fallback(), id, "an old flow spoke");
    assert_ne!(world.web()[silent].fallback(), id, "silent for 30 s");
    assert!(!world.web()[silent].is_tracked());
    world.pass(Duration::from_secs(25)).await;
    assert!(world.web().iter().all(|slot| !slot.is_tracked() && slot.current() != id));
    assert_eq!(world.id(A), id, "in maintenance it keeps its id");
}

fn weight(weight: u16) -> lb_userspace::controller::request::BackendChange {
    lb_userspace::controller::request::BackendChange::Weight { weight }
}
