//! Planes that refuse, and maps that somebody else has changed.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use lb_common::{BackendId, Port, Slot, Station};
use lb_userspace::controller::apply::Confirmed;
use lb_userspace::controller::request::{BackendChange, RequestError};
use lb_userspace::controller::{Progress, maintain};
use lb_userspace::data_plane::kernel::{KernelAction, KernelState, KernelTables as _, Prefix};
use lb_userspace::data_plane::recorder::{Fate, KernelRecorder};

use super::harness::{A, B, WEB, World, address, hop, named};

#[tokio::test(start_paused = true)]
async fn what_failed_is_told_and_tried_again() {
    let world = World::start(WEB).await;
    let (before, id) = (world.web(), world.id(A));
    let fails = Arc::new(AtomicBool::new(true));
    let tries = Arc::new(AtomicU32::new(0));
    let (flag, count) = (fails.clone(), tries.clone());
    world.kernel.fail(move |action| {
        let swap = matches!(action, KernelAction::SwapTable { .. });
        count.fetch_add(u32::from(swap), Ordering::Relaxed);
        swap && flag.load(Ordering::Relaxed)
    });
    let refused = world.handle.backend("web".into(), address(A), BackendChange::Remove { now: true }).await;
    assert!(matches!(refused, Err(RequestError::Plane(_))));
    assert!(matches!(&*world.progress.borrow(), Progress::Behind(why) if why.contains("on demand")));
    assert_eq!(world.web(), before);
    assert_eq!(world.id(A), id, "not retired while slots name it");

    world.pass(Duration::from_secs(30)).await;
    let tried = tries.load(Ordering::Relaxed);
    assert!((5..=12).contains(&tried), "{tried} tries in 30 s");
    fails.store(false, Ordering::Relaxed);
    world.done().await;
    assert_eq!(named(&world.web(), id), 0);
    assert_eq!(world.kernel.id_of(address(A)), None);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_cannot_be_written_is_in_no_slot() {
    let world = World::start(WEB).await;
    let before = world.web();
    world
        .kernel
        .fail(|action| matches!(action, KernelAction::PutBackend { backend, .. } if backend.id.is_some()));
    let put = BackendChange::Put { weight: 100 };
    let added = address("10.0.0.4:80");
    world.handle.backend("web".into(), added, put).await.unwrap();
    world.observe("web", added, true).await;
    world.pass(Duration::from_secs(5)).await;
    assert!(matches!(*world.progress.borrow(), Progress::Behind(_)));
    assert_eq!(world.web(), before);
    world.kernel.fail(|_| false);
    world.done().await;
    assert!(named(&world.web(), world.id("10.0.0.4:80")) > 0);
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_was_done_though_it_failed_is_believed() {
    let world = World::start(WEB).await;
    let id = world.id(A);
    // The swap takes effect, but the wait after it is interrupted.
    let kernel = world.kernel.clone();
    let (sender, mut done) = tokio::sync::mpsc::unbounded_channel();
    world.kernel.fail(move |action| {
        let swap = matches!(action, KernelAction::SwapTable { .. });
        if swap {
            let _ = sender.send(action.clone());
        }
        swap
    });
    assert!(world.handle.backend("web".into(), address(A), BackendChange::Drain).await.is_err());
    let action = done.recv().await.unwrap();
    kernel.damage(|state| state.record(&action));
    world.kernel.fail(|_| false);
    world.handle.backend("web".into(), address(A), BackendChange::Undrain).await.unwrap();
    world.done().await;
    assert!(world.web().iter().filter(|slot| slot.fallback() == id).all(|slot| slot.current() == id));
    assert!(world.web().iter().any(|slot| slot.is_tracked()), "flows since the drain have entries");
}

#[tokio::test(start_paused = true)]
async fn an_audit_repairs_what_was_lost() {
    let world = World::start(WEB).await;
    let state = world.kernel.state();
    world.kernel.damage(|state| {
        state.services.clear();
        state.endpoints.clear();
        state.local.clear();
        state.backends.remove(&1);
    });
    world.pass(Duration::from_secs(31)).await;
    assert_eq!(world.kernel.state(), state);
}

/// Each kind of entry, taken away and altered: it is as before within the period of the audit, and counted.
#[tokio::test(start_paused = true)]
async fn drift_of_every_kind_is_repaired_and_counted() {
    type Damage = fn(&mut KernelState);
    let cases: [(&str, u64, Damage); 13] = [
        ("nothing", 0, |_| {}),
        ("a service", 1, |state| {
            state.services.pop_last();
        }),
        ("a VIP's marker", 1, |state| {
            state.services.pop_first();
        }),
        ("another service", 1, |state| state.services.values_mut().last().unwrap().established += 1),
        ("an endpoint", 1, |state| {
            state.endpoints.pop_first();
        }),
        ("another endpoint", 1, |state| state.endpoints.values_mut().next().unwrap().vip.port = Port::new(9)),
        ("a backend's next hop", 1, |state| state.backends.values_mut().next().unwrap().hop = hop(77)),
        ("an own address", 1, |state| state.local.clear()),
        ("a foreign address", 1, |state| {
            state.local.insert(IpAddr::from([1, 2, 3, 4]).into());
        }),
        ("a route", 1, |state| state.routes.clear()),
        ("a foreign route", 1, |state| {
            let prefix = Prefix { address: [203, 0, 113, 0].into(), length: 24 };
            state.routes.insert(prefix, hop(3));
        }),
        ("a station", 1, |state| {
            let station = Station { vip: IpAddr::from([192, 0, 2, 10]).into(), ifindex: 9 };
            state.stations.insert(station, hop(9));
        }),
        ("a whole table", 1, |state| state.tables.clear()),
    ];
    let world = World::start(WEB).await;
    world.facts.send_modify(|facts| {
        let prefix = Prefix { address: [198, 51, 100, 0].into(), length: 24 };
        facts.routes.insert(prefix, hop(2));
    });
    world.pass(Duration::from_secs(1)).await;
    let state = world.kernel.state();
    let mut counted = 0;
    for (case, entries, damage) in cases {
        world.kernel.damage(damage);
        assert_eq!(world.kernel.state() == state, entries == 0, "{case}");
        world.pass(Duration::from_secs(31)).await;
        assert_eq!(world.kernel.state(), state, "{case}");
        counted += entries;
        assert_eq!(world.handle.status().await.unwrap().drift_repaired, counted, "{case}");
    }
}

/// A backend that flaps for minutes, and neighbours that come and go: failures are seen at once, and tables are
/// rebuilt a few times a second at most.
#[tokio::test(start_paused = true)]
async fn flapping_is_damped_and_a_failure_is_not() {
    let world = World::start(WEB).await;
    let id = world.id(B);
    let swaps = |world: &World| {
        let is_swap = |action: &KernelAction| matches!(action, KernelAction::SwapTable { .. });
        world.kernel.take_actions().iter().filter(|action| is_swap(action)).count()
    };
    for round in 0..1000 {
        world.observe("web", address(B), false).await;
        world.pass(Duration::from_millis(1)).await;
        assert!(world.web().iter().all(|slot| slot.current() != id), "failed in round {round}");
        world.observe("web", address(B), true).await;
        world.pass(Duration::from_millis(19)).await;
    }
    // Twenty seconds: four recoveries a second, a failure after each, and the first ones at once.
    let made = swaps(&world);
    assert!((100..=2 * (20 * 4 + 17)).contains(&made), "{made}");
    world.pass(Duration::from_millis(300)).await;
    assert!(world.web().iter().any(|slot| slot.current() == id), "the last recovery is not forgotten");

    world.kernel.take_actions();
    for round in 0..1000 {
        world.facts.send_modify(|facts| {
            facts.hops.insert(address(A).ip(), hop(round % 2 + 2));
        });
        world.pass(Duration::from_millis(10)).await;
    }
    let made = world.kernel.take_actions().len();
    assert!((5..=2 * (10 * 4 + 17)).contains(&made), "{made} writes");
}

/// While one pool flaps, a recovery in another does not wait.
#[tokio::test(start_paused = true)]
async fn a_pool_that_flaps_does_not_hold_up_another() {
    let quiet = "[[service]]\nname = \"quiet\"\nlisten = \"192.0.2.11:80\"\npool = \"quiet\"\n[[pool]]\nname = \"quiet\"\n\
                 table_size = 13\nhealth = { check = \"tcp\", interval = \"1s\", timeout = \"1s\" }\n\
                 backend = [{ address = \"10.0.1.1:80\" }, { address = \"10.0.1.2:80\" }]\n";
    let lost = "10.0.1.2:80";
    let world = World::start(&format!("{WEB}{quiet}")).await;
    let id = world.id(lost);
    world.observe("quiet", address(lost), false).await;
    world.pass(Duration::from_secs(1)).await;
    for _ in 0..40 {
        world.observe("web", address(B), false).await;
        world.pass(Duration::from_millis(1)).await;
        world.observe("web", address(B), true).await;
        world.pass(Duration::from_millis(1)).await;
    }
    world.observe("web", address(A), false).await;
    world.pass(Duration::from_millis(1)).await;
    world.observe("web", address(A), true).await;
    world.pass(Duration::from_millis(1)).await;
    let serves = |listen: &str, id| world.slots(listen).iter().any(|slot| slot.current() == id);
    assert!(!serves("192.0.2.10:80", world.id(A)), "what flaps waits");
    world.observe("quiet", address(lost), true).await;
    world.pass(Duration::from_millis(1)).await;
    assert!(serves("192.0.2.11:80", id), "what has been quiet does not");
}

#[tokio::test(start_paused = true)]
async fn an_audit_changes_foreign_slots_as_a_change_and_drops_unknown_ids() {
    let world = World::start(WEB).await;
    let before = world.web();
    let (b, stranger) = (world.id(B), BackendId::new(77, 3));
    let victim = before.iter().position(|slot| slot.current() != b).unwrap();
    let other = before.iter().position(|slot| slot.current() == b).unwrap();
    world.kernel.damage(|state| {
        let slots = Arc::make_mut(state.tables.values_mut().next().unwrap());
        slots[victim] = Slot::stable(b);
        slots[other] = Slot::stable(stranger);
    });
    world.pass(Duration::from_secs(31)).await;
    let after = world.web();
    assert_eq!(after[victim], Slot::tracked(before[victim].current(), b, false));
    assert_eq!(after[other], Slot::stable(b));
}

#[tokio::test(start_paused = true)]
async fn a_missing_neighbour_keeps_its_last_place() {
    let world = World::start(WEB).await;
    world.kernel.take_actions();
    world.facts.send_modify(|facts| facts.hops.clear());
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(world.kernel.take_actions(), []);
    world.facts.send_modify(|facts| {
        facts.hops.insert("10.0.0.1".parse().unwrap(), hop(9));
    });
    world.pass(Duration::from_secs(1)).await;
    let index = world.id(A).index();
    assert_eq!(world.kernel.state().backends[&index].hop.ifindex, 9);
    assert_eq!(world.kernel.take_actions().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_built_on_a_table_whose_swap_may_have_been_done() {
    let [a, b, c] = [1, 2, 3].map(|index| BackendId::new(index, 0));
    let (settled, before) = (Slot::tracked(a, a, false), Slot::stable(b));
    let state = KernelState { tables: [(7, vec![settled, before].into())].into(), ..KernelState::default() };
    let mut kernel = KernelRecorder::new(state.clone());
    let mut confirmed = Confirmed::adopt(state, kernel.now());
    kernel.decide(|_| Fate::Unsure("Interrupted system call (EINTR)"));
    let changed = Slot::tracked(c, b, false);
    let change = KernelAction::SwapTable { table: 7, slots: vec![settled, changed].into() };
    confirmed.apply(&mut kernel, &change).unwrap_err();

    kernel.decide(|_| Fate::Done);
    maintain::sweep(&mut kernel, &mut confirmed).unwrap();
    maintain::settle(&mut kernel, &mut confirmed, &[(7, 0)].into()).unwrap();
    assert_eq!(*kernel.state().tables[&7], [settled, changed], "untracked by what was known before");
    confirmed.audit(&mut kernel).unwrap();
    maintain::sweep(&mut kernel, &mut confirmed).unwrap();
    assert_eq!(*kernel.state().tables[&7], [Slot::stable(a), changed]);
}
