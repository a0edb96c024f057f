//! Random schedules on the host. See `random_schedules/run.rs`.

#[path = "random_schedules/run.rs"]
mod run;

const SEEDS: u64 = 80;

/// On the host.
type Bed = lb_testbed::schedule::Bed<lb_ebpf::host::Model>;

#[test]
fn no_live_flow_ever_moves() {
    let sums = run::all(0..SEEDS);
    for (name, count) in &sums {
        assert!(*count > 20, "{name} happened only {count} times: {sums:?}");
    }
}
