//! Weights that move by themselves: slow start, and what follows the load.

use std::time::Duration;

use super::harness::{A, B, C, WEB, World, address};

fn web(more: &str) -> String {
    WEB.replace("table_size = 13\n", &format!("table_size = 1021\n{more}\n"))
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_returns_gets_its_weight_step_by_step() {
    let world = World::start(&web("slow_start = { time = \"20s\", least = 10 }")).await;
    assert_eq!(world.backend(A).await.effective_weight, 100, "a pool that comes up as a whole is up at once");
    world.down(A).await;
    world.up(A).await;
    let mut weights = Vec::new();
    for _ in 0..22 {
        let backend = world.backend(A).await;
        weights.push((backend.effective_weight, backend.state, backend.slots));
        world.pass(Duration::from_secs(1)).await;
    }
    assert_eq!((weights[0].0, weights[0].1.as_str()), (10, "starting"));
    assert_eq!((weights[21].0, weights[21].1.as_str()), (100, "up"));
    assert!(weights.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{weights:?}");
    assert!((45..=60).contains(&weights[10].0), "half of the way: {weights:?}");
    assert!((30..=60).contains(&weights[0].2), "a tenth of its share of the slots: {weights:?}");
    assert!((330..=350).contains(&weights[21].2), "{weights:?}");
    assert!(world.backend(B).await.effective_weight == 100);
}

#[tokio::test(start_paused = true)]
async fn a_failure_ends_a_slow_start_and_the_next_one_begins_anew() {
    let world = World::start(&web("slow_start = { time = \"20s\" }")).await;
    world.down(A).await;
    world.up(A).await;
    world.pass(Duration::from_secs(10)).await;
    world.down(A).await;
    assert_eq!(world.backend(A).await.effective_weight, 0);
    world.up(A).await;
    assert_eq!(world.backend(A).await.effective_weight, 10);
}

/// Checks of all three, one of them late, for so many seconds.
async fn late(world: &World, seconds: u32, took_ms: f64) {
    for _ in 0..seconds {
        for (backend, took) in [(A, took_ms), (B, 2.0), (C, 2.0)] {
            world.took("web", address(backend), true, took).await;
        }
        world.pass(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_answers_late_loses_slots_and_gets_them_back_when_it_is_well() {
    let world = World::start(&web("weights = \"adaptive\"\nadaptive = { slots_per_second = 20 }")).await;
    let before = world.pool("web").await;
    assert_eq!(before.moved_slots, 0);
    late(&world, 10, 40.0).await;
    let soon = world.pool("web").await.moved_slots;
    assert!((50..=10 * 20).contains(&soon), "{soon}");
    late(&world, 50, 40.0).await;
    let (ill, backend) = (world.pool("web").await, world.backend(A).await);
    assert!(backend.effective_weight < 30, "{backend:?}");
    assert!(backend.reason.contains("% of its weight"), "{}", backend.reason);
    assert!((150..=60 * 20).contains(&ill.moved_slots), "{}", ill.moved_slots);
    assert_eq!(world.backend(B).await.effective_weight, 100);

    late(&world, 120, 2.0).await;
    assert!(world.backend(A).await.effective_weight > 75, "{:?}", world.backend(A).await);
}

#[tokio::test(start_paused = true)]
async fn a_reload_to_static_weights_gives_them_back_at_once() {
    let world = World::start(&web("weights = \"adaptive\"\nadaptive = { slots_per_second = 200 }")).await;
    late(&world, 60, 40.0).await;
    assert!(world.backend(A).await.effective_weight < 30);
    world.set_config(&web(""));
    world.handle.reload().await.unwrap();
    assert_eq!(world.backend(A).await.effective_weight, 100);
}
