//! A simulator: the real controller on a paused clock over maps in memory, clients whose packets take the data path's own
//! walk over the same maps, and everything that can go wrong, drawn from a seed.
//!
//! After every single write the maps are valid; between writes no live flow moves; with everything applied the maps say what
//! they should. What packets do while the controller is between reading and writing is not simulated: that is what the schedules
//! of `lb-ebpf` are for. `SLUICE_SEED=n` runs one seed alone, `SLUICE_SEEDS` and `SLUICE_STEPS` set how many there are.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "../controller/harness.rs"]
#[expect(dead_code, reason = "the controller's tests use the rest of it")]
mod harness;

mod driver;
mod network;
mod watcher;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS: u64 = 256;
const STEPS: u64 = 3000;
/// What has to happen in a run, on average: what never does is not tested.
const HAPPENS: [&str; 15] = [
    "as desired",
    "asked",
    "between writes",
    "checked",
    "died",
    "ended",
    "facts moved",
    "forged",
    "let off",
    "lull",
    "opened",
    "refused",
    "reloaded",
    "spoke",
    "spoke within a change",
];

#[test]
fn whatever_happens_the_maps_are_valid_and_no_live_flow_moves() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let steps = number("SLUICE_STEPS").unwrap_or(STEPS);
    let seeds = match number("SLUICE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SLUICE_SEEDS").unwrap_or(SEEDS),
    };
    let next = AtomicU64::new(seeds.start);
    let (sums, failed) = (Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    let live = || {
        while let seed = next.fetch_add(1, Ordering::Relaxed)
            && seed < seeds.end
            && failed.lock().unwrap().is_empty()
        {
            match catch_unwind(AssertUnwindSafe(|| run(seed, steps))) {
                Ok(tally) => add(&mut sums.lock().unwrap(), tally),
                Err(_) => failed.lock().unwrap().push(seed),
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(live)));
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "what stands above happened with the seeds {failed:?}: SLUICE_SEED={} replays it",
        failed[0]
    );
    let (sums, count) = (sums.into_inner().unwrap(), seeds.end - seeds.start);
    println!("{count} seeds, {steps} steps: {sums:?}");
    let rare = HAPPENS.iter().find(|what| sums.get(*what).is_none_or(|times| *times < count));
    assert!(rare.is_none() || steps < STEPS || count < 16, "too rare: {rare:?} in {sums:?}");
}

fn run(seed: u64, steps: u64) -> BTreeMap<&'static str, u64> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(driver::run(seed, steps))
}

fn add(sums: &mut BTreeMap<&'static str, u64>, tally: BTreeMap<&'static str, u64>) {
    for (what, times) in tally {
        *sums.entry(what).or_default() += times;
    }
}
