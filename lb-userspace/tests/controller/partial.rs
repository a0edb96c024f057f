//! Plans that leave out what did not change: whatever has happened before, they are those of the whole state. Debug builds
//! compare every plan with that; this makes histories in which pools change by themselves, share backends and hand them
//! over, while the planes refuse and forget.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use lb_userspace::controller::Progress;
use lb_userspace::controller::request::BackendChange;
use lb_userspace::data_plane::recorder::KernelRecorder;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::harness::{World, hop};

const SEEDS: u64 = 12;
const STEPS: u32 = 80;
const POOLS: u8 = 4;

/// Few enough that pools meet at some of them.
fn backend(random: &mut StdRng) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, random.random_range(1..12)], 80))
}

fn config(random: &mut StdRng) -> String {
    let mut config = "[daemon]\ndrain_timeout = \"20s\"\ndrain_spread = \"5s\"\n".to_owned();
    for pool in 0..POOLS {
        let (protocol, established) =
            (["tcp", "tcp", "udp"].choose(random).unwrap(), ["1h", "30s"].choose(random).unwrap());
        if random.random_ratio(5, 6) {
            let _ = write!(
                config,
                "[[service]]\nname = \"s{pool}\"\nlisten = \"192.0.2.{}:80\"\npool = \"p{pool}\"\ndown_grace = \"3s\"\n\
                 protocol = \"{protocol}\"\ntimeouts = {{ established = \"{established}\" }}\n",
                pool / 2 * 2 + u8::from(protocol == &"udp") + 10 * (pool % 2)
            );
        }
        let _ =
            write!(config, "[[pool]]\nname = \"p{pool}\"\ntable_size = 31\nhealth = {{ check = \"tcp\" }}\n");
        let first = 1 + 3 * pool;
        for last in first..first + 3 {
            if random.random_ratio(1, 5) {
                continue;
            }
            let weight = [100, 50].choose(random).unwrap();
            let _ = write!(config, "[[pool.backend]]\naddress = \"10.1.0.{last}:80\"\nweight = {weight}\n");
        }
    }
    config
}

/// A backend that is checked, with its pool.
fn present(world: &World, random: &mut StdRng) -> Option<(String, SocketAddr)> {
    let targets = world.targets.borrow();
    let all: Vec<_> = targets.iter().collect();
    all.choose(random).map(|target| (target.pool.clone(), target.address))
}

async fn step(world: &World, random: &mut StdRng) {
    let (pool, address) = (format!("p{}", random.random_range(0..POOLS)), backend(random));
    match random.random_range(0..16) {
        0..4 => world.observe(&pool, address, random.random_ratio(2, 3)).await,
        4 => {
            // Handed over: while it leaves the one pool, the other has it.
            let Some((old, address)) = present(world, random) else { return };
            let _ = world.handle.backend(old, address, BackendChange::Remove { now: false }).await;
            let _ = world.handle.backend(pool.clone(), address, BackendChange::Put { weight: 100 }).await;
            world.observe(&pool, address, true).await;
        }
        5..10 => {
            let weight = random.random_range(0..3) * 50;
            let now = random.random();
            let change = *[
                BackendChange::Put { weight },
                BackendChange::Weight { weight },
                BackendChange::Drain,
                BackendChange::Undrain,
                BackendChange::Remove { now },
            ]
            .choose(random)
            .unwrap();
            // Not everybody is there, and not everything goes through.
            let _ = world.handle.backend(pool, address, change).await;
        }
        10 => {
            world.set_config(&config(random));
            let _ = world.handle.reload().await;
        }
        11 => world.facts.send_modify(|facts| {
            facts.hops.insert(address.ip(), hop(random.random_range(2..4)));
        }),
        12 => world.facts.send_modify(|facts| {
            facts.hops.remove(&address.ip());
        }),
        13 => {
            let (mut left, often) = (random.random_range(1..6), random.random_range(1..4));
            let mut count = 0;
            world.kernel.fail(move |_| {
                count += 1;
                let fails = left > 0 && count % often == 0;
                left -= i32::from(fails);
                fails
            });
        }
        14 => world.kernel.damage(|state| {
            state.backends.pop_first();
            state.endpoints.pop_last();
        }),
        _ => world.all_up().await,
    }
    world.pass(Duration::from_millis(*[0, 10, 600, 7_000, 40_000].choose(random).unwrap())).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_has_happened_a_plan_leaves_out_only_what_is_as_it_was() {
    for seed in 0..SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let mut first = config(&mut random);
        while super::harness::parse(&first).is_err() {
            first = config(&mut random);
        }
        let world = World::with(&first, KernelRecorder::new(Default::default())).unwrap();
        world.facts.send_modify(|facts| {
            facts.hops.extend((1..12).map(|last| ([10, 1, 0, last].into(), hop(2))));
        });
        world.all_up().await;
        for number in 0..STEPS {
            step(&world, &mut random).await;
            assert!(world.handle.status().await.is_ok(), "seed {seed}, step {number}");
        }
        // Nothing is forgotten: with everything applied another look finds nothing to do.
        world.kernel.fail(|_| false);
        world.eventually("everything is applied", || *world.progress.borrow() == Progress::Done).await;
        world.kernel.take_actions();
        world.stop().await;
    }
}
