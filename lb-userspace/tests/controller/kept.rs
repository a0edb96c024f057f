//! What was changed at run time, from one daemon to the next, and against what the file says then.

use std::time::{Duration, SystemTime};

use lb_userspace::controller::request::BackendChange;
use lb_userspace::data_plane::kernel::KernelState;
use lb_userspace::data_plane::recorder::KernelRecorder;
use lb_userspace::model::Override;
use lb_userspace::state::Saved;

use super::harness::{A, B, C, WEB, World, address, named, tc};

const D: &str = "10.0.0.4:80";

/// A weight in the file.
fn weighted(backend: &str, weight: u16) -> String {
    let entry = format!("{{ address = \"{backend}\" }}");
    assert!(WEB.contains(&entry));
    WEB.replace(&entry, &format!("{{ address = \"{backend}\", weight = {weight} }}"))
}

/// Without a backend in the file.
fn without(backend: &str) -> String {
    WEB.replace(&format!("    {{ address = \"{backend}\" }},\n"), "")
}

/// With one more.
fn with(backend: &str, weight: u16) -> String {
    let last = "    { address = \"10.0.0.3:80\" },\n";
    WEB.replace(last, &format!("{last}    {{ address = \"{backend}\", weight = {weight} }},\n"))
}

/// Stops the daemon and starts the next one, whose file is `config`.
async fn restart(world: World, config: &str) -> World {
    let kept = world.overrides.borrow().overrides.to_vec();
    let kernel = world.stop().await;
    begin(config, kernel, kept).await
}

async fn begin(config: &str, kernel: KernelRecorder, kept: Vec<Override>) -> World {
    let world = World::restore(config, kernel, tc(), kept).unwrap();
    world.all_up().await;
    world.done().await;
    world
}

/// The other way: the daemon goes on, and reads `config`.
async fn reload(world: World, config: &str) -> World {
    world.set_config(config);
    world.handle.reload().await.unwrap();
    world.all_up().await;
    world.done().await;
    world
}

async fn change(world: &World, backend: &str, change: BackendChange) {
    let changed = world.handle.backend("web".into(), address(backend), change).await.unwrap();
    assert_eq!(changed.warning, None);
}

/// Weight and state of the backends, what leaves, and what was removed.
async fn seen(world: &World) -> String {
    let pool = world.pool("web").await;
    let backends = pool.backends.iter().map(|b| format!("{} {} {}", b.address, b.weight, b.state));
    let leaving = pool.leaving.iter().map(|leaving| format!("{} leaving", leaving.address));
    let removed = pool.removed.iter().map(|removed| format!("{removed} removed"));
    let all: Vec<_> = backends.chain(leaving).chain(removed).collect();
    all.join(", ").replace("10.0.0.", ".").replace(":80", "")
}

/// What is done at run time, the file after it, what is seen then.
type Case<'a> = (&'a [(&'a str, BackendChange)], String, &'a str);

/// The precedence: what was done at run time, what the file says afterwards, what then holds. It is the same
/// whether the file changes under a running daemon or between two.
#[tokio::test(start_paused = true)]
async fn the_newer_word_wins_after_a_reload_as_after_a_restart() {
    use BackendChange::{Drain, Put, Remove, Undrain, Weight};
    let table: &[Case] = &[
        (&[], WEB.into(), ".1 100 up, .2 100 up, .3 100 up"),
        // A weight stays until the file has another one.
        (&[(A, Weight { weight: 7 })], WEB.into(), ".1 7 up, .2 100 up, .3 100 up"),
        (&[(A, Weight { weight: 7 })], weighted(B, 9), ".1 7 up, .2 9 up, .3 100 up"),
        (&[(A, Weight { weight: 7 })], weighted(A, 9), ".1 9 up, .2 100 up, .3 100 up"),
        (&[(A, Weight { weight: 0 })], WEB.into(), ".1 0 maintenance, .2 100 up, .3 100 up"),
        (&[(A, Weight { weight: 0 })], weighted(A, 9), ".1 9 up, .2 100 up, .3 100 up"),
        // A drain is nothing that the file speaks of.
        (&[(A, Drain)], WEB.into(), ".1 100 draining, .2 100 up, .3 100 up"),
        (&[(A, Drain)], weighted(A, 9), ".1 9 draining, .2 100 up, .3 100 up"),
        (&[(A, Drain), (A, Undrain)], WEB.into(), ".1 100 up, .2 100 up, .3 100 up"),
        (&[(A, Drain)], without(A), ".2 100 up, .3 100 up, .1 leaving"),
        // One that was removed stays away as long as the file has it.
        (&[(A, Remove { now: false })], WEB.into(), ".2 100 up, .3 100 up, .1 leaving, .1 removed"),
        (&[(A, Remove { now: true })], WEB.into(), ".2 100 up, .3 100 up, .1 removed"),
        (&[(A, Remove { now: true })], weighted(A, 9), ".2 100 up, .3 100 up, .1 removed"),
        (&[(A, Remove { now: true })], without(A), ".2 100 up, .3 100 up"),
        // One that was added stays until somebody removes it; once the file has it, its weight is the file's.
        (&[(D, Put { weight: 7 })], WEB.into(), ".1 100 up, .2 100 up, .3 100 up, .4 7 up"),
        (&[(D, Put { weight: 7 })], with(D, 9), ".1 100 up, .2 100 up, .3 100 up, .4 9 up"),
        (&[(D, Put { weight: 7 }), (D, Drain)], with(D, 9), ".1 100 up, .2 100 up, .3 100 up, .4 9 draining"),
        (
            &[(D, Put { weight: 7 }), (D, Remove { now: false })],
            WEB.into(),
            ".1 100 up, .2 100 up, .3 100 up, .4 leaving",
        ),
        (
            &[(D, Put { weight: 7 }), (D, Remove { now: false })],
            with(D, 9),
            ".1 100 up, .2 100 up, .3 100 up, .4 9 up",
        ),
    ];
    for (changes, file, expected) in table {
        for is_restart in [false, true] {
            let world = World::start(WEB).await;
            for (backend, what) in *changes {
                change(&world, backend, *what).await;
                if matches!(what, Put { .. }) {
                    world.up(backend).await;
                }
            }
            let world = if is_restart { restart(world, file).await } else { reload(world, file).await };
            let case = format!("{changes:?}, restart: {is_restart}, then the file\n{file}");
            assert_eq!(&seen(&world).await, expected, "{case}");
            // And once more, with the same file.
            let world = restart(world, file).await;
            assert_eq!(&seen(&world).await, expected, "again: {case}");
            world.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_file_dropped_is_forgotten() {
    let world = World::start(WEB).await;
    change(&world, A, BackendChange::Weight { weight: 7 }).await;
    change(&world, B, BackendChange::Remove { now: true }).await;
    let world = restart(world, &without(A).replace("    { address = \"10.0.0.2:80\" },\n", "")).await;
    let world = restart(world, WEB).await;
    assert_eq!(seen(&world).await, ".1 100 up, .2 100 up, .3 100 up");
    change(&world, A, BackendChange::Weight { weight: 7 }).await;
    let world = restart(
        world,
        &WEB.replace("\"web\"\ntable", "\"other\"\ntable").replace("pool = \"web\"", "pool = \"other\""),
    )
    .await;
    assert!(world.overrides.borrow().overrides.iter().all(|kept| kept.weight.is_none()));
    world.stop().await;
}

/// A drain ends when it was to end, however many daemons there are meanwhile, and its id stays the same.
#[tokio::test(start_paused = true)]
async fn a_deadline_survives() {
    let world = World::start(WEB).await;
    let id = world.id(A);
    change(&world, A, BackendChange::Drain).await;
    world.pass(Duration::from_secs(10)).await;
    // The clock of the wall does not follow the paused one, so the pause before the start is told by hand.
    let mut kept = world.overrides.borrow().overrides.to_vec();
    let until = kept[0].drain.unwrap();
    kept[0].drain = Some(until - Duration::from_secs(10));
    let world = begin(WEB, world.stop().await, kept).await;
    assert!(named(&world.web(), id) > 0);
    world.pass(Duration::from_millis(19_000)).await;
    assert!(named(&world.web(), id) > 0);
    world.pass(Duration::from_millis(1_500)).await;
    assert_eq!(named(&world.web(), id), 0);
    assert_eq!(world.backend(A).await.state, "draining");
}

/// A clock that was set back must not keep old flows for years, nor one that was set ahead cut them in one herd.
#[tokio::test(start_paused = true)]
async fn no_deadline_lies_farther_ahead_than_the_drain_timeout() {
    let world = World::start(WEB).await;
    let id = world.id(A);
    change(&world, A, BackendChange::Drain).await;
    let mut kept = world.overrides.borrow().overrides.to_vec();
    kept[0].drain = Some(SystemTime::now() + Duration::from_secs(1 << 30));
    let world = begin(WEB, world.stop().await, kept).await;
    world.pass(Duration::from_millis(29_000)).await;
    assert!(named(&world.web(), id) > 0);
    world.pass(Duration::from_millis(1_500)).await;
    assert_eq!(named(&world.web(), id), 0);
}

/// What the config has no room for any more is left out and said; it never stops a start.
#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_left_out() {
    let kept = |text: &str| Override {
        pool: "web".into(),
        address: address(text),
        file: None,
        weight: Some(50),
        drain: None,
        removed: false,
        leaving: None,
        ejected: None,
        ejections: 0,
    };
    // The listen address, one of the other family is no harm, and eleven where there is room for ten.
    let mut all = vec![kept("192.0.2.10:80"), kept("0.0.0.0:80")];
    all.extend((1..=11).map(|port| kept(&format!("10.0.0.4:{port}"))));
    all.push(Override { pool: "gone".into(), ..kept("10.0.0.9:9") });
    let world = begin(WEB, KernelRecorder::new(KernelState::default()), all).await;
    let status = world.handle.status().await.unwrap();
    assert_eq!(status.pools[0].backends.len(), 13);
    let problems = &status.kept.problems;
    assert_eq!(problems.len(), 3, "{problems:?}");
    for (problem, part) in problems.iter().zip(["would loop", "unspecified", "table_size = 13"]) {
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(status.warnings[..3], problems[..]);
    assert_eq!(world.overrides.borrow().overrides.len(), 10, "and not kept any longer");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_kept_is_in_force_and_says_so() {
    let world = World::start(WEB).await;
    let failure = Some("the disk is full".to_owned());
    world.saved.send_replace(Saved { version: u64::MAX, failure });
    let weight = BackendChange::Weight { weight: 7 };
    let changed = world.handle.backend("web".into(), address(C), weight).await.unwrap();
    let warning = changed.warning.unwrap();
    assert!(warning.contains("would not survive") && warning.contains("the disk is full"), "{warning}");
    assert_eq!(world.backend(C).await.weight, 7);
    let status = world.handle.status().await.unwrap();
    assert!(
        status.warnings.iter().any(|warning| warning.contains("the disk is full")),
        "{:?}",
        status.warnings
    );

    // A disk that does not answer holds up nobody else.
    world.saved.send_replace(Saved { version: 0, failure: None });
    let change = world.handle.backend("web".into(), address(C), BackendChange::Weight { weight: 8 });
    let other = async {
        world.eventually("it is in force", || world.overrides.borrow().overrides[0].weight == Some(8)).await;
        world.handle.status().await.unwrap();
        world.saved.send_replace(Saved { version: u64::MAX, failure: None });
    };
    let (changed, ()) = tokio::join!(change, other);
    assert_eq!(changed.unwrap().warning, None);
    assert!(world.handle.status().await.unwrap().warnings.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_as_the_file_says_is_shown() {
    let world = World::start(WEB).await;
    change(&world, A, BackendChange::Weight { weight: 7 }).await;
    change(&world, A, BackendChange::Drain).await;
    change(&world, D, BackendChange::Put { weight: 9 }).await;
    let of = |backend: lb_userspace::model::status::BackendStatus| {
        (backend.configured_weight, backend.overrides.join(" "))
    };
    assert_eq!(of(world.backend(A).await), (Some(100), "weight drain".into()));
    assert_eq!(of(world.backend(B).await), (Some(100), String::new()));
    assert_eq!(of(world.backend(D).await), (None, "added".into()));
    assert_eq!(world.handle.status().await.unwrap().kept.changes, 2);
}
