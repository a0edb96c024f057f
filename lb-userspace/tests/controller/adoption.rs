//! A new daemon takes over what the old one left.

use std::sync::Arc;
use std::time::Duration;

use lb_common::Slot;
use lb_userspace::controller::StartError;
use lb_userspace::controller::request::BackendChange;
use lb_userspace::controller::table_sizes::TableSize;
use lb_userspace::data_plane::kernel::{KernelState, Sweep};
use lb_userspace::data_plane::recorder::KernelRecorder;

use super::harness::{A, B, C, WEB, World, address, named, tc};

/// Maps of a daemon that died while A had just failed.
async fn mid_change() -> (KernelRecorder, KernelState) {
    let world = World::start(WEB).await;
    world.down(A).await;
    let kernel = world.stop().await;
    kernel.take_actions();
    let state = kernel.state();
    (kernel, state)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_touched_before_the_first_verdicts() {
    let (kernel, state) = mid_change().await;
    let world = World::with(WEB, kernel).unwrap();
    world.observe("web", address(A), false).await;
    world.observe("web", address(B), true).await;
    tokio::time::sleep(Duration::from_millis(1900)).await;
    assert_eq!(world.kernel.take_actions(), []);
    world.observe("web", address(C), true).await;
    world.done().await;
    assert_eq!(world.kernel.take_actions(), [], "the last daemon knew it all");
    assert_eq!(world.kernel.state(), state);
}

#[tokio::test(start_paused = true)]
async fn one_failed_check_after_adoption_does_not_decide_over_a_backend_that_was_up() {
    let (kernel, _) = mid_change().await;
    let world = World::with(WEB, kernel).unwrap();
    let was_up = |backend| {
        let targets = world.targets.borrow();
        targets.iter().find(|target| target.address == address(backend)).unwrap().was_up
    };
    assert_eq!([A, B, C].map(was_up), [false, true, true], "A had failed");
    world.all_up().await;
    world.done().await;
    world.handle.backend("web".into(), address(B), BackendChange::Remove { now: true }).await.unwrap();
    world.pass(Duration::from_secs(1)).await;
    world.handle.backend("web".into(), address(B), BackendChange::Put { weight: 1 }).await.unwrap();
    assert!(!was_up(B), "whoever comes back is a newcomer");

    let fresh = World::with(WEB, KernelRecorder::new(KernelState::default())).unwrap();
    assert!(fresh.targets.borrow().iter().all(|target| !target.was_up));
}

#[tokio::test(start_paused = true)]
async fn a_change_goes_on_where_it_was_and_its_times_start_again() {
    let (kernel, state) = mid_change().await;
    let world = World::with(WEB, kernel).unwrap();
    world.observe("web", address(A), false).await;
    world.observe("web", address(B), true).await;
    world.observe("web", address(C), true).await;
    world.done().await;
    let id = world.id(A);
    world.pass(Duration::from_secs(9)).await;
    assert_eq!(world.kernel.state(), state, "the grace starts again");
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(named(&world.web(), id), 0);
}

#[tokio::test(start_paused = true)]
async fn back_within_the_grace_nothing_has_moved() {
    let (kernel, _) = mid_change().await;
    let world = World::with(WEB, kernel).unwrap();
    let id = world.id(A);
    world.all_up().await;
    world.done().await;
    for slot in world.web().iter().filter(|slot| slot.fallback() == id) {
        assert_eq!(*slot, Slot::tracked(id, id, false));
    }
    world.pass(Duration::from_secs(2)).await;
    assert!(world.web().iter().all(|slot| !slot.is_tracked()));
}

#[tokio::test(start_paused = true)]
async fn unknown_health_counts_as_it_was() {
    let (kernel, state) = mid_change().await;
    let world = World::with(WEB, kernel).unwrap();
    world.pass(Duration::from_secs(3)).await;
    world.done().await;
    assert_eq!(world.kernel.state(), state);
    assert_eq!(world.backend(A).await.state, "starting", "no new flow went there");
    assert_eq!(world.backend(B).await.state, "up");
    world.up(A).await;
    assert_eq!(world.backend(A).await.state, "up");
}

#[tokio::test(start_paused = true)]
async fn without_a_predecessor_unknown_health_counts_as_up() {
    let world = World::with(WEB, KernelRecorder::new(KernelState::default())).unwrap();
    tokio::time::sleep(Duration::from_millis(1900)).await;
    assert_eq!(world.kernel.state(), KernelState::default());
    world.done().await;
    for backend in [A, B, C] {
        assert!(named(&world.web(), world.id(backend)) > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_the_config_lost_meanwhile_leaves() {
    let world = World::start(WEB).await;
    let id = world.id(C);
    let kernel = world.stop().await;
    let world = World::with(&WEB.replace("    { address = \"10.0.0.3:80\" },\n", ""), kernel).unwrap();
    world.all_up().await;
    world.done().await;
    assert_eq!(world.pool("web").await.leaving.len(), 1);
    assert!(world.web().iter().any(|slot| slot.fallback() == id && slot.current() != id));
    world.pass(Duration::from_secs(31)).await;
    assert_eq!(named(&world.web(), id), 0);
    assert_eq!(world.kernel.id_of(address(C)), None);
}

#[tokio::test(start_paused = true)]
async fn ids_that_entries_name_are_not_given_out() {
    let world = World::start(WEB).await;
    let id = world.id(C);
    let service = world.kernel.state().services.values().map(|service| service.id.index()).max().unwrap();
    let kernel = world.stop().await;
    // The last daemon cut C and died; an entry of its flow table still names it, and one a service that is gone.
    kernel.damage(|state| {
        state.backends.remove(&id.index());
        state.endpoints.retain(|_, endpoint| endpoint.backend != id);
        let slots = Arc::make_mut(state.tables.values_mut().next().unwrap());
        let heir = slots.iter().map(|slot| slot.current()).find(|current| *current != id).unwrap();
        slots.iter_mut().filter(|slot| slot.current() == id).for_each(|slot| *slot = Slot::stable(heir));
        state.services.clear();
    });
    let sweep = Sweep {
        by_backend: [(id, 1)].into(),
        by_service: [(service, 1)].into(),
        flows: 1,
        ..Sweep::default()
    };
    kernel.set_sweep(sweep);
    let world = World::with(WEB, kernel).unwrap();
    world.all_up().await;
    world.done().await;
    assert_ne!(world.id(C), id);
    assert!(named(&world.web(), world.id(C)) > 0);
    let indexes: Vec<_> = world.kernel.state().services.values().map(|service| service.id.index()).collect();
    assert!(!indexes.contains(&service));
}

#[tokio::test(start_paused = true)]
async fn another_table_size_is_refused_by_name() {
    let (kernel, state) = mid_change().await;
    let Err(error) = World::with(&WEB.replace("table_size = 13", "table_size = 17"), kernel.clone()) else {
        panic!("a table of another size was taken over")
    };
    assert!(matches!(error, StartError::TableSize(TableSize { pinned: 13, configured: 17, .. })));
    assert!(error.to_string().contains("pool \"web\""), "{error}");
    assert_eq!(kernel.state(), state);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_may_not_be_proxied_is_refused_where_no_plane_is() {
    let config =
        WEB.replace("pool = \"web\"\ndown", "pool = \"web\"\nforward = \"nat\"\nfallback = \"refuse\"\ndown");
    let kernel = KernelRecorder::new(KernelState::default());
    let mut planes = tc();
    planes[0].plane = None;
    let Err(error) = World::build(&config, kernel.clone(), planes) else { panic!("started without a plane") };
    assert!(error.to_string().contains("eth0: veth"), "{error}");
    World::build(&config, kernel, tc()).unwrap();
}
