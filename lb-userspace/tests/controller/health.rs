//! Backends fail and return.

use std::time::Duration;

use lb_common::{BackendId, Slot};

use lb_userspace::health::{Observation, Role};
use lb_userspace::model::status::LastCheck;
use lb_userspace::model::{Condition, Order, Report};

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

fn with_agent() -> String {
    WEB.replace("timeout = \"1s\" }", "timeout = \"1s\", agent = { port = 9777 } }")
}

/// What an agent says of A, beside a check that has passed.
async fn say(world: &World, report: Report) {
    let check = LastCheck { ok: true, at: String::new(), took_ms: 1.0, detail: "said".into() };
    let (pool, address, role) = ("web".to_owned(), address(A), Role::Agent);
    world.observed(Observation { pool, address, role, up: true, check, report }).await;
    world.done().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_changes_the_weight_and_the_state() {
    let world = World::start(&with_agent()).await;
    let nothing = Report::default;
    let down = |why: &str| Some(Condition::Down(why.to_owned()));
    let steps = [
        (Report { percent: Some(50), load: Some(80), ..nothing() }, "up", 50, "gives it 50 %"),
        (Report { order: Some(Order::Drain), ..nothing() }, "draining", 0, "says drain"),
        // Only `ready` ends it.
        (Report { percent: Some(75), ..nothing() }, "draining", 0, "says drain"),
        (Report { order: Some(Order::Maintenance), ..nothing() }, "maintenance", 0, "says maint"),
        (Report { order: Some(Order::Ready), ..nothing() }, "up", 75, "gives it 75 %"),
        (Report { condition: down("down: disk full"), ..nothing() }, "down", 0, "says down: disk full"),
        // Only `up` ends it.
        (Report { percent: Some(1), order: Some(Order::Ready), ..nothing() }, "down", 0, "disk full"),
        (Report { condition: Some(Condition::Up), ..nothing() }, "up", 1, "gives it 1 %"),
        (Report { percent: Some(0), connections: Some(9), ..nothing() }, "draining", 0, "gives it 0 %"),
        (Report { percent: Some(300), ..nothing() }, "up", 300, "gives it 300 %"),
        (Report { percent: Some(100), ..nothing() }, "up", 100, "the health check passes"),
    ];
    for (number, (report, state, weight, reason)) in steps.into_iter().enumerate() {
        say(&world, report).await;
        let status = world.backend(A).await;
        assert_eq!((status.state.as_str(), status.effective_weight, status.weight), (state, weight, 100));
        assert!(status.reason.contains(reason), "{number}: {}", status.reason);
        let current = world.web().iter().filter(|slot| slot.current() == world.id(A)).count();
        assert_eq!(current > 0, weight > 0, "{number}");
    }
    let agent = world.backend(A).await.agent.unwrap();
    assert_eq!((agent.percent, agent.load, agent.connections), (Some(100), Some(80), Some(9)));
    assert_eq!(agent.last_check.detail, "said");

    // A check that fails is told first, and an agent that is no longer asked has no say.
    say(&world, Report { order: Some(Order::Drain), ..nothing() }).await;
    world.down(A).await;
    assert!(world.backend(A).await.reason.contains("connection refused"));
    world.up(A).await;
    assert_eq!(world.backend(A).await.state, "draining");
    world.set_config(WEB);
    world.handle.reload().await.unwrap();
    let status = world.backend(A).await;
    assert_eq!((status.state.as_str(), status.agent), ("up", None));
    say(&world, Report { order: Some(Order::Drain), ..nothing() }).await;
    assert_eq!(world.backend(A).await.state, "up", "what was on its way");
}

#[tokio::test(start_paused = true)]
async fn a_backend_whose_agent_says_down_loses_its_old_flows_after_the_grace() {
    let world = World::start(&with_agent()).await;
    let id = world.id(A);
    say(&world, Report { condition: Some(Condition::Down("down".into())), ..Report::default() }).await;
    assert!(named(&world.web(), id) > 0);
    world.pass(Duration::from_millis(10_100)).await;
    assert_eq!(named(&world.web(), id), 0);
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
