//! The end of a drain: old flows are cut one after another.

use std::time::Duration;

use lb_common::{BackendId, Flow, FlowKey, Slot};
use lb_userspace::controller::request::BackendChange;
use lb_userspace::data_plane::kernel::{FlowTables, Sweep, TrackedFlow};

use super::harness::{A, B, WEB, World, address, named};

/// [`WEB`] with more slots, whose drains end within 8 s.
fn web() -> String {
    WEB.replace("drain_spread = \"0s\"", "drain_spread = \"8s\"")
        .replace("table_size = 13", "table_size = 1009")
}

async fn change(world: &World, backend: &str, change: BackendChange) {
    world.handle.backend("web".into(), address(backend), change).await.unwrap();
}

/// Slots whose flows without an entry belong to `id`.
fn kept(world: &World, id: BackendId) -> usize {
    world.web().iter().filter(|slot| slot.fallback() == id).count()
}

/// Enters a flow of `id` into every slot of its table.
fn enter_flows(world: &World, id: BackendId) {
    let count = world.web().len() as u32;
    let state = world.kernel.state();
    let table = *state.tables.keys().next().unwrap();
    for slot in 0..count {
        let key = FlowKey { port: lb_common::Port::new(slot as u16), ..FlowKey::default() };
        let flow = Flow { backend: id, slot, table, seq: 0, expires: u32::MAX / 2, closing: 0 };
        world.kernel.set_flow(key, TrackedFlow::Flow(flow));
    }
    world.kernel.set_sweep(Sweep { by_backend: [(id, u64::from(count))].into(), ..Sweep::default() });
}

/// The slots of which flows were left alone.
fn alive(world: &World) -> Vec<u32> {
    let mut alive = Vec::new();
    let mut see = |_: &FlowKey, entry: TrackedFlow| match entry {
        TrackedFlow::Flow(flow) if flow.expires == u32::MAX / 2 => alive.push(flow.slot),
        _ => {}
    };
    world.kernel.scan(&mut see).unwrap();
    alive
}

#[tokio::test(start_paused = true)]
async fn from_the_deadline_on_flows_are_cut_evenly_and_the_id_goes_with_the_last() {
    let world = World::start(&web()).await;
    let id = world.id(A);
    let all = named(&world.web(), id);
    change(&world, A, BackendChange::Drain).await;
    assert_eq!(kept(&world, id), all);
    enter_flows(&world, id);
    world.pass(Duration::from_millis(29_900)).await;
    assert_eq!((kept(&world, id), alive(&world).len()), (all, 1009), "nothing before the deadline");
    world.pass(Duration::from_millis(100)).await;
    let mut last = all;
    for second in 1..8_usize {
        world.pass(Duration::from_millis(1000)).await;
        let (slots, entries) = (kept(&world, id), alive(&world));
        let left = 8 - second;
        assert!(
            slots < last && slots.abs_diff(all * left / 8) <= all / 10,
            "{slots} of {all} after {second} s"
        );
        assert!(entries.len().abs_diff(1009 * left / 8) <= 40, "{} entries after {second} s", entries.len());
        // What was cut stays cut, and what is without an entry goes together with what has one.
        let first = entries[0] as usize;
        let web = world.web();
        assert!(web.iter().take(first).all(|slot| slot.fallback() != id));
        assert!(web.iter().all(|slot| slot.current() != id && (slot.fallback() != id || slot.is_tracked())));
        assert_eq!(world.kernel.id_of(address(A)), Some(id), "it lives as long as any of its flows");
        let status = world.backend(A).await;
        assert!(status.reason.contains("one after another"), "{}", status.reason);
        assert_eq!(status.drain.unwrap().slots, slots as u64);
        last = slots;
    }
    world.pass(Duration::from_millis(1100)).await;
    assert_eq!(kept(&world, id), 0);
    assert_eq!(world.kernel.id_of(address(A)), None);
    assert_eq!(world.backend(A).await.state, "draining");
    assert!(world.backend(A).await.reason.contains("were moved"));
    change(&world, A, BackendChange::Undrain).await;
    assert_eq!(world.id(A), id.next_generation());
}

#[tokio::test(start_paused = true)]
async fn who_is_not_cut_yet_when_the_drain_is_taken_back_stays() {
    let world = World::start(&web()).await;
    let (before, id) = (world.web(), world.id(A));
    change(&world, A, BackendChange::Drain).await;
    enter_flows(&world, id);
    world.pass(Duration::from_secs(34)).await;
    let (slots, entries) = (kept(&world, id), alive(&world));
    assert!(slots > 0 && entries.len() < 1009);
    change(&world, A, BackendChange::Undrain).await;
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.id(A), id);
    assert_eq!(alive(&world), entries);
    let currents = |slots: &[Slot]| slots.iter().map(|slot| slot.current()).collect::<Vec<_>>();
    assert_eq!(currents(&world.web()), currents(&before));
    for (old, new) in before.iter().zip(world.web()).filter(|(old, _)| old.current() == id) {
        // No sweep finds anything of its change.
        assert!(new == Slot::stable(id) || new.fallback() != id, "{old:?} -> {new:?}");
    }
    assert_eq!(kept(&world, id), slots);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_fails_on_the_way_is_cut_when_its_grace_ends() {
    let world = World::start(&web()).await;
    let id = world.id(A);
    change(&world, A, BackendChange::Drain).await;
    world.pass(Duration::from_secs(22)).await;
    world.down(A).await;
    world.pass(Duration::from_millis(9_900)).await;
    assert!(kept(&world, id) > 0);
    world.pass(Duration::from_millis(200)).await;
    assert_eq!(kept(&world, id), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_at_once_is_cut_at_once_and_what_leaves_is_not() {
    let world = World::start(&web()).await;
    let (a, b) = (world.id(A), world.id(B));
    change(&world, A, BackendChange::Remove { now: true }).await;
    assert_eq!(named(&world.web(), a), 0);
    change(&world, B, BackendChange::Remove { now: false }).await;
    let leaving = world.pool("web").await.leaving.remove(0);
    assert!(leaving.drain.slots > 300 && !leaving.drain.exact && leaving.drain.until < leaving.drain.ends);
    world.pass(Duration::from_secs(34)).await;
    let half = kept(&world, b);
    assert!(half > 100 && half < 300, "{half}");
    assert_eq!(world.pool("web").await.leaving.len(), 1);
    world.pass(Duration::from_secs(5)).await;
    assert_eq!(named(&world.web(), b), 0);
    assert!(world.pool("web").await.leaving.is_empty());
}

/// The remainder is a lower bound while flows may have no entries, and then it is exact.
#[tokio::test(start_paused = true)]
async fn what_is_left_is_told() {
    let config = web().replace("\"30s\"", "\"10m\"").replace("established = \"1h\"", "established = \"60s\"");
    let world = World::start(&config).await;
    let id = world.id(A);
    change(&world, A, BackendChange::Drain).await;
    world.kernel.set_sweep(Sweep { by_backend: [(id, 5)].into(), flows: 5, ..Sweep::default() });
    world.pass(Duration::from_secs(3)).await;
    let drain = world.backend(A).await.drain.unwrap();
    assert_eq!((drain.flows, drain.exact), (5, false));
    assert!(drain.slots > 300);
    world.pass(Duration::from_secs(70)).await;
    let drain = world.backend(A).await.drain.unwrap();
    assert_eq!((drain.flows, drain.exact, drain.slots), (5, true, 0));
    assert_eq!(world.backend(B).await.drain, None);
}
