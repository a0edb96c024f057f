//! Random schedules for UDP on the host. See `random_datagrams/run.rs`.

#[path = "random_datagrams/run.rs"]
mod run;

const SEEDS: u64 = 300;

/// On the host.
type Bed = lb_testbed::schedule::Bed<lb_ebpf::host::Model>;

#[test]
fn no_live_flow_ever_moves() {
    let sums = run::all(0..SEEDS);
    for name in [
        "judged",
        "to fallback",
        "to another",
        "refused",
        "dropped",
        "settled",
        "untracked",
        "failed",
        "interrupted",
    ] {
        assert!(sums.get(name).is_some_and(|count| *count > 50), "{name} is rare: {sums:?}");
    }
}
