#[path = "../../../lb-ebpf/tests/schedules/all.rs"]
mod all;
#[path = "../../../lb-ebpf/tests/random_datagrams/run.rs"]
mod random_datagrams;
#[path = "../../../lb-ebpf/tests/random_schedules/run.rs"]
mod random_schedules;

use lb_testbed::schedule::{Programs, Tc};

type Bed = lb_testbed::schedule::Bed<Programs<Tc>>;

#[test]
fn random_schedules_move_no_live_flow() {
    super::judge(&random_schedules::all(super::seeds()), "a packet to neither current nor fallback");
}

#[test]
fn random_schedules_for_udp_move_no_live_flow() {
    super::judge(&random_datagrams::all(super::seeds()), "judged");
}
