//! Operators and reloads.

use std::time::Duration;

use lb_userspace::controller::request::{BackendChange, RequestError};
use lb_userspace::data_plane::kernel::KernelAction;
use tokio::time::{Instant, sleep};

use super::harness::{A, B, C, WEB, World, address, hop, named};

async fn change(world: &World, backend: &str, change: BackendChange) -> Result<(), RequestError> {
    world.handle.backend("web".into(), address(backend), change).await.map(drop)
}

/// The numbers of the tables that were swapped.
fn swapped(actions: &[KernelAction]) -> Vec<u32> {
    let table = |action: &KernelAction| match action {
        KernelAction::SwapTable { table, .. } => Some(*table),
        _ => None,
    };
    actions.iter().filter_map(table).collect()
}

const TWO: &str = r#"
[[service]]
name = "web"
listen = "192.0.2.10:80"
pool = "web"

[[service]]
name = "api"
listen = "192.0.2.11:80"
pool = "api"

[[pool]]
name = "web"
table_size = 13
health = { check = "none" }
backend = [{ address = "10.0.0.1:80" }, { address = "10.0.0.2:80" }]

[[pool]]
name = "api"
table_size = 13
health = { check = "none" }
backend = [{ address = "10.0.0.3:80" }]
"#;

#[tokio::test(start_paused = true)]
async fn a_new_backend_gets_no_flow_before_its_neighbour_is_resolved_unless_that_takes_too_long() {
    let world = World::start(TWO).await;
    let new = "10.0.0.5:80";
    let put = || change(&world, new, BackendChange::Put { weight: 100 });
    let resolve = async {
        world.eventually("its neighbour is asked for", || world.neighbours.borrow().len() == 4).await;
        sleep(Duration::from_millis(20)).await;
        assert_eq!(world.kernel.take_actions(), [], "nothing is done before");
        world.facts.send_modify(|facts| facts.hops.extend([(address(new).ip(), hop(2))]));
    };
    let (answer, ()) = tokio::join!(put(), resolve);
    answer.unwrap();
    let written = |action: &KernelAction| match action {
        KernelAction::PutBackend { backend, .. } => Some(backend.hop.ifindex),
        _ => None,
    };
    assert_eq!(world.kernel.take_actions().iter().find_map(written), Some(2));

    let start = Instant::now();
    let late = "10.0.0.6:80";
    change(&world, late, BackendChange::Put { weight: 100 }).await.unwrap();
    let waited = start.elapsed();
    assert!((Duration::from_millis(100)..Duration::from_secs(1)).contains(&waited), "{waited:?}");
    assert_eq!(world.kernel.take_actions(), [], "others have the flows meanwhile");
    let shown = world.backend(late).await;
    assert_eq!((shown.state.as_str(), shown.effective_weight), ("starting", 0));
    assert!(shown.reason.contains("no way"), "{}", shown.reason);
    world.eventually("it serves in the end", || world.kernel.id_of(address(late)).is_some()).await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let start = Instant::now();
    change(&world, new, BackendChange::Weight { weight: 50 }).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody waits for it again");
}

#[tokio::test(start_paused = true)]
async fn a_drain_keeps_old_flows_until_its_deadline() {
    let world = World::start(WEB).await;
    let id = world.id(A);
    change(&world, A, BackendChange::Drain).await.unwrap();
    assert!(world.web().iter().all(|slot| slot.current() != id), "answered after the planes have confirmed");
    assert!(world.web().iter().any(|slot| slot.fallback() == id));
    assert_eq!(world.backend(A).await.state, "draining");

    world.pass(Duration::from_secs(20)).await;
    change(&world, A, BackendChange::Drain).await.unwrap();
    assert_eq!(named(&world.web(), id), world.web().iter().filter(|slot| slot.fallback() == id).count());
    world.pass(Duration::from_millis(9900)).await;
    assert!(named(&world.web(), id) > 0);
    world.pass(Duration::from_millis(200)).await;
    assert_eq!(named(&world.web(), id), 0, "a second drain does not move the deadline");
    assert_eq!(world.backend(A).await.state, "draining");

    change(&world, A, BackendChange::Undrain).await.unwrap();
    assert_eq!(world.id(A), id.next_generation());
    assert_eq!(world.backend(A).await.state, "up");
}

#[tokio::test(start_paused = true)]
async fn an_undrain_before_the_deadline_is_a_change_back() {
    let world = World::start(WEB).await;
    let (before, id) = (world.web(), world.id(A));
    change(&world, A, BackendChange::Drain).await.unwrap();
    change(&world, A, BackendChange::Undrain).await.unwrap();
    world.pass(Duration::from_secs(40)).await;
    assert_eq!(world.web(), before);
    assert_eq!(world.id(A), id);
}

#[tokio::test(start_paused = true)]
async fn weight_0_has_no_deadline() {
    let world = World::start(WEB).await;
    let id = world.id(A);
    change(&world, A, BackendChange::Weight { weight: 0 }).await.unwrap();
    world.pass(Duration::from_secs(600)).await;
    assert!(world.web().iter().any(|slot| slot.fallback() == id));
    let status = world.backend(A).await;
    assert_eq!((status.state.as_str(), status.weight), ("maintenance", 0));
}

#[tokio::test(start_paused = true)]
async fn removed_and_added_again_it_is_the_same_backend() {
    let world = World::start(WEB).await;
    let (before, id) = (world.web(), world.id(A));
    change(&world, A, BackendChange::Remove { now: false }).await.unwrap();
    let pool = world.pool("web").await;
    assert_eq!(pool.backends.len(), 2);
    assert_eq!(pool.leaving.len(), 1);
    assert_eq!(pool.leaving[0].address, address(A));
    assert!(world.web().iter().any(|slot| slot.fallback() == id));
    assert!(matches!(change(&world, A, BackendChange::Drain).await, Err(RequestError::NoSuchBackend(..))));

    world.pass(Duration::from_secs(20)).await;
    change(&world, A, BackendChange::Put { weight: 1 }).await.unwrap();
    assert_eq!(world.id(A), id);
    world.pass(Duration::from_secs(40)).await;
    assert_eq!(world.web().iter().map(|slot| slot.current()).collect::<Vec<_>>().len(), before.len());
    assert!(world.pool("web").await.leaving.is_empty());
    assert!(named(&world.web(), id) > 0);
}

#[tokio::test(start_paused = true)]
async fn a_removed_backend_is_gone_after_the_drain_timeout_or_at_once() {
    let world = World::start(WEB).await;
    let (a, b) = (world.id(A), world.id(B));
    change(&world, A, BackendChange::Remove { now: false }).await.unwrap();
    world.pass(Duration::from_secs(31)).await;
    assert_eq!(named(&world.web(), a), 0);
    assert_eq!(world.kernel.id_of(address(A)), None);
    assert!(world.pool("web").await.leaving.is_empty());

    change(&world, B, BackendChange::Remove { now: true }).await.unwrap();
    assert_eq!(named(&world.web(), b), 0);
    assert_eq!(world.kernel.id_of(address(B)), None);
    assert!(matches!(change(&world, B, BackendChange::Drain).await, Err(RequestError::NoSuchBackend(..))));

    change(&world, A, BackendChange::Put { weight: 5 }).await.unwrap();
    assert_eq!(world.id(A).generation(), a.generation() + 1, "another incarnation");
    let indexes: Vec<_> = [A, C].map(|backend| world.id(backend).index()).into();
    assert_ne!(indexes[0], indexes[1]);
}

#[tokio::test(start_paused = true)]
async fn bad_changes_are_refused_and_change_nothing() {
    let world = World::start(TWO).await;
    let state = world.kernel.state();
    let put = BackendChange::Put { weight: 1 };
    for (backend, expected) in [
        ("10.0.0.9:0", "port 0"),
        ("0.0.0.0:80", "unspecified"),
        ("255.255.255.255:80", "broadcast"),
        ("[fe80::1]:80", "link-local"),
        ("[2001:db8::1%2]:80", "zone"),
        ("192.0.2.10:80", "would loop"),
        ("10.0.0.3:80", "could not stay on the kernel planes"),
    ] {
        let error = change(&world, backend, put).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{backend}: {error}");
    }
    for port in 1..=11 {
        change(&world, &format!("10.0.1.1:{port}"), put).await.unwrap();
    }
    let error = change(&world, "10.0.1.1:12", put).await.unwrap_err().to_string();
    assert!(error.contains("table_size = 13"), "{error}");
    let error = world.handle.backend("wbe".into(), address(A), put).await.unwrap_err().to_string();
    assert!(error.contains("api, web"), "{error}");
    let unknown = change(&world, "10.0.0.9:80", BackendChange::Remove { now: false }).await;
    assert!(matches!(unknown, Err(RequestError::NoSuchBackend(..))));
    let api = |state: &lb_userspace::data_plane::kernel::KernelState| {
        state.endpoints.iter().find(|(key, _)| key.socket() == address(C)).map(|(_, endpoint)| *endpoint)
    };
    assert_eq!(api(&world.kernel.state()), api(&state));
}

#[tokio::test(start_paused = true)]
async fn a_reload_writes_only_what_changed() {
    let world = World::start(TWO).await;
    let (web, id) = (world.web(), world.id(A));
    let api = world.kernel.state().services[&lb_common::SocketKey::new(address("192.0.2.11:80"), 6)].table;
    world.set_config(&TWO.replace("{ address = \"10.0.0.3:80\" }", "{ address = \"10.0.0.4:80\" }"));
    let reloaded = world.handle.reload().await.unwrap();
    assert_eq!(reloaded.changes.len(), 2, "{:?}", reloaded.changes);
    let actions = world.kernel.take_actions();
    assert_eq!(swapped(&actions), [api]);
    assert_eq!(actions.len(), 3, "backend, endpoint, table: {actions:?}");
    assert_eq!((world.web(), world.id(A)), (web, id));
    assert_eq!(world.pool("api").await.leaving.len(), 1);

    assert!(world.handle.reload().await.unwrap().changes.is_empty());
    assert_eq!(world.kernel.take_actions(), []);
}

#[tokio::test(start_paused = true)]
async fn a_bad_reload_changes_nothing() {
    let world = World::start(TWO).await;
    let state = world.kernel.state();
    let frozen = format!("[kernel]\nflows = 4096\n{TWO}");
    for bad in ["", "[[service]]\nname = 7", &frozen, &TWO.replace("table_size = 13", "table_size = 17")] {
        world.set_config(bad);
        let error = world.handle.reload().await.unwrap_err();
        assert!(matches!(&error, RequestError::ConfigInvalid(problems) if !problems.is_empty()), "{error}");
    }
    assert_eq!(world.kernel.take_actions(), []);
    assert_eq!(world.kernel.state(), state);
    world.set_config(TWO);
    assert!(world.handle.reload().await.unwrap().changes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn run_time_changes_survive_a_reload_until_the_file_drops_the_backend() {
    let world = World::start(TWO).await;
    change(&world, A, BackendChange::Weight { weight: 7 }).await.unwrap();
    change(&world, B, BackendChange::Remove { now: true }).await.unwrap();
    change(&world, "10.0.0.4:80", BackendChange::Put { weight: 9 }).await.unwrap();
    let weights = |pool: lb_userspace::model::status::PoolStatus| {
        pool.backends.iter().map(|b| (b.address.to_string(), b.weight)).collect::<Vec<_>>()
    };
    let expected = vec![(A.to_owned(), 7), ("10.0.0.4:80".to_owned(), 9)];
    assert_eq!(weights(world.pool("web").await), expected);
    world.set_config(&TWO.replace("\"10.0.0.3:80\"", "\"10.0.0.3:81\""));
    world.handle.reload().await.unwrap();
    assert_eq!(weights(world.pool("web").await), expected);

    let without = "backend = [{ address = \"10.0.0.9:80\" }]";
    let both = "backend = [{ address = \"10.0.0.1:80\" }, { address = \"10.0.0.2:80\" }]";
    world.set_config(&TWO.replace(both, without));
    world.handle.reload().await.unwrap();
    world.set_config(TWO);
    world.handle.reload().await.unwrap();
    let default = world.pool("api").await.backends[0].weight;
    let expected = vec![(A.into(), default), (B.into(), default), ("10.0.0.4:80".into(), 9)];
    assert_eq!(weights(world.pool("web").await), expected, "what the file took out is as the file says");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_removed_leaves_nothing_behind() {
    let world = World::start(TWO).await;
    let one = TWO.split("[[service]]\nname = \"api\"").next().unwrap().to_owned()
        + TWO.split_once("pool = \"api\"\n").unwrap().1;
    world.set_config(&one);
    world.handle.reload().await.unwrap();
    let state = world.kernel.state();
    assert_eq!((state.services.len(), state.tables.len(), state.backends.len()), (2, 1, 2));
    world.set_config(TWO);
    world.handle.reload().await.unwrap();
    let again = world.kernel.state();
    let key = lb_common::SocketKey::new(address("192.0.2.11:80"), 6);
    assert_eq!(again.services[&key].id.generation(), 1, "flows of the old one are not taken over");
    assert_eq!((again.services.len(), again.tables.len(), again.backends.len()), (4, 2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_moves_to_another_pool_leaves_the_first_at_once() {
    let world = World::start(TWO).await;
    let id = world.id(B);
    let moved = TWO.replace(", { address = \"10.0.0.2:80\" }", "").replace(
        "{ address = \"10.0.0.3:80\" }",
        "{ address = \"10.0.0.3:80\" }, { address = \"10.0.0.2:80\" }",
    );
    world.set_config(&moved);
    world.handle.reload().await.unwrap();
    assert_eq!(world.id(B), id.next_generation(), "entries of the first pool count as absent");
    assert_eq!(named(&world.web(), id), 0);
    assert!(named(&world.slots("192.0.2.11:80"), id.next_generation()) > 0);
}
