//! Adaptive weights over backends that are queues: seeded, on injected time.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_userspace::controller::weights::{Carried, Followers, Taking};
use lb_userspace::maglev;
use lb_userspace::model::Pool;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const TABLE: u32 = 4099;

fn pool(slots_per_second: u32) -> Pool {
    let text = format!(
        "[[service]]\nname = \"s\"\nlisten = \"192.0.2.1:80\"\npool = \"p\"\n[[pool]]\nname = \"p\"\n\
         table_size = {TABLE}\nweights = \"adaptive\"\nadaptive = {{ slots_per_second = {slots_per_second} }}\n\
         [[pool.backend]]\naddress = \"10.0.0.1:80\"\n"
    );
    let config = lb_userspace::config::Config::parse("test", &text, &[].into()).unwrap();
    config.pools.into_iter().next().unwrap()
}

/// A backend that serves so many requests a second, each after a service time and after all before it.
struct Queue {
    address: SocketAddr,
    capacity: f64,
    waiting: f64,
    carried: Carried,
}

impl Queue {
    fn new(number: u8, capacity: f64) -> Self {
        let address = SocketAddr::from(([10, 0, 0, number], 80));
        Self { address, capacity, waiting: 0.0, carried: Carried::default() }
    }

    fn serve(&mut self, arrivals: f64) {
        self.waiting = (self.waiting + arrivals - self.capacity).max(0.0);
        self.carried.new_flows += arrivals as u64;
        self.carried.packets += 5 * arrivals as u64;
    }

    /// Seconds to the answer, with so many arrivals a second: what waits already, and what an M/M/1 queue
    /// has on average.
    fn latency(&self, arrivals: f64) -> f64 {
        let load = (arrivals / self.capacity).min(0.95);
        (1.0 / (1.0 - load) + self.waiting) / self.capacity
    }
}

struct World {
    pool: Pool,
    followers: Followers,
    queues: Vec<Queue>,
    factors: Vec<f64>,
    now: Instant,
    random: StdRng,
    slots: Vec<u32>,
    /// Slots that moved, by second.
    moved: Vec<usize>,
}

impl World {
    fn new(seed: u64, capacities: &[f64], slots_per_second: u32) -> Self {
        let mut world = Self {
            pool: pool(slots_per_second),
            followers: Followers::default(),
            queues: (1..).zip(capacities).map(|(number, capacity)| Queue::new(number, *capacity)).collect(),
            factors: vec![1.0; capacities.len()],
            now: Instant::now(),
            random: StdRng::seed_from_u64(seed),
            slots: Vec::new(),
            moved: Vec::new(),
        };
        world.slots = world.table();
        world
    }

    fn table(&self) -> Vec<u32> {
        let weights: Vec<_> =
            self.queues.iter().zip(&self.factors).map(|(q, f)| (q.address, (f * 1000.0) as u32)).collect();
        maglev::build(&weights, TABLE).unwrap()
    }

    fn share(&self, index: usize) -> f64 {
        self.factors[index] / self.factors.iter().sum::<f64>()
    }

    /// One second of so many arrivals, with one noisy check of each backend.
    fn second(&mut self, arrivals: f64) {
        self.now += Duration::from_secs(1);
        for index in 0..self.queues.len() {
            let arrivals = arrivals * self.share(index);
            self.queues[index].serve(arrivals);
            let queue = &self.queues[index];
            // Times in a queue are distributed exponentially.
            let noise = -(1.0 - self.random.random::<f64>()).ln();
            let took = Duration::from_secs_f64(queue.latency(arrivals) * noise.clamp(0.05, 5.0));
            self.followers.answered("p", queue.address, took, self.now);
        }
        let taking: Vec<_> = self
            .queues
            .iter()
            .map(|queue| Taking { address: queue.address, weight: 100, carried: queue.carried })
            .collect();
        let factors = self.followers.step(&self.pool, &taking, self.now);
        self.factors = factors.into_iter().map(|(_, factor)| factor).collect();
        let slots = self.table();
        self.moved.push(slots.iter().zip(&self.slots).filter(|(new, old)| new != old).count());
        self.slots = slots;
    }

    fn worst_latency(&self, arrivals: f64) -> f64 {
        let latencies = (0..).zip(&self.queues).map(|(i, queue)| queue.latency(arrivals * self.share(i)));
        latencies.fold(0.0, f64::max)
    }
}

/// Three backends of which one is four times as slow, more arrivals than a third of which it could bear.
#[test]
fn a_slow_backend_gets_what_it_can_bear() {
    for seed in 0..8 {
        let mut world = World::new(seed, &[400.0, 400.0, 100.0], 41);
        for _ in 0..120 {
            world.second(500.0);
        }
        assert!(world.queues.iter().all(|queue| queue.waiting < 200.0), "seed {seed}");
        for _ in 0..240 {
            world.second(500.0);
        }
        let (share, worst) = (world.share(2), world.worst_latency(500.0));
        assert!((0.03..0.19).contains(&share), "seed {seed}: {share}");
        // With equal weights it would have 67 requests more every second.
        assert!(world.queues.iter().all(|queue| queue.waiting < 50.0), "seed {seed}");
        assert!(worst < 0.5, "seed {seed}: {worst}");
    }
}

#[test]
fn equal_backends_keep_nearly_equal_weights_and_move_little() {
    for seed in 0..8 {
        let mut world = World::new(seed, &[400.0; 4], 41);
        for _ in 0..600 {
            world.second(800.0);
        }
        for index in 0..4 {
            let share = world.share(index);
            assert!((0.15..0.35).contains(&share), "seed {seed}: {share}");
        }
        let moved = world.moved.iter().sum::<usize>() as f64 / f64::from(TABLE);
        assert!(moved < 2.0, "seed {seed}: the whole table {moved} times in ten minutes");
    }
}

#[test]
fn a_backend_that_recovers_gets_its_weight_back() {
    let mut world = World::new(7, &[400.0, 400.0, 100.0], 41);
    for _ in 0..120 {
        world.second(500.0);
    }
    assert!(world.share(2) < 0.2);
    world.queues[2].capacity = 400.0;
    for _ in 0..180 {
        world.second(500.0);
    }
    assert!(world.share(2) > 0.25, "{}", world.share(2));
}

#[test]
fn an_agents_load_counts_and_so_does_traffic_alone() {
    let (a, b) = (SocketAddr::from(([10, 0, 0, 1], 80)), SocketAddr::from(([10, 0, 0, 2], 80)));
    let factors = |report: &dyn Fn(&mut Followers, Instant), packets: [u64; 2]| {
        let (mut followers, mut now, pool) = (Followers::default(), Instant::now(), pool(410));
        let mut carried = [Carried::default(); 2];
        let mut factors = Vec::new();
        for _ in 0..120 {
            now += Duration::from_secs(1);
            report(&mut followers, now);
            for (carried, packets) in carried.iter_mut().zip(packets) {
                carried.packets += packets;
            }
            let backends = [a, b].into_iter().zip(carried);
            let taking: Vec<_> =
                backends.map(|(address, carried)| Taking { address, weight: 100, carried }).collect();
            factors = followers.step(&pool, &taking, now);
        }
        factors.into_iter().map(|(_, factor)| factor).collect::<Vec<_>>()
    };
    let busy = factors(
        &|followers, now| {
            followers.reported("p", a, 20.0, now);
            followers.reported("p", b, 90.0, now);
        },
        [1000, 1000],
    );
    assert!(busy[0] > 0.99 && busy[1] < 0.5, "{busy:?}");
    let heavy = factors(&|_, _| {}, [1000, 4000]);
    assert!(heavy[0] > 0.99 && heavy[1] < 0.5, "{heavy:?}");
    let idle = factors(&|_, _| {}, [1, 4]);
    assert_eq!(idle, [1.0, 1.0], "so few packets say nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever the backends do, no second moves more than its slots and a little for nothing.
    #[test]
    fn no_second_moves_more_than_its_slots(
        seed in any::<u64>(),
        capacities in proptest::collection::vec(20.0..2000.0_f64, 2..8),
        arrivals in 10.0..3000.0_f64,
        budget in 5..200_u32,
    ) {
        let mut world = World::new(seed, &capacities, budget);
        for _ in 0..60 {
            world.second(arrivals);
        }
        let most = world.moved.iter().max().copied().unwrap_or(0);
        prop_assert!(most as f64 <= f64::from(budget) * 1.5 + f64::from(TABLE) / 50.0, "{most} of {budget}");
        prop_assert!(world.factors.iter().all(|factor| (0.0999..=1.0).contains(factor)));
    }
}
