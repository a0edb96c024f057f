//! Under a flood of SYNs and one of bare ACKs no flow that waits is lost, and new ones are served; while the control, a
//! usual balancer on the same wires, loses flows.

use anyhow::ensure;
use lb_testbed::siege::{Plan, Report, Variant, lay};
use lb_userspace::model::Plane;

/// Small, so that a flood of ten times as many flows takes seconds. `cargo xtask bench flood` has the full size.
const FLOWS: u32 = 16_384;
const IDLE: u64 = 2000;

#[test]
fn tc_stable_slots() -> anyhow::Result<()> {
    holds(Plane::Tc, Variant::Stable)
}

#[test]
fn tc_a_backend_added_just_before() -> anyhow::Result<()> {
    holds(Plane::Tc, Variant::Change)
}

#[test]
fn tc_tracking_always() -> anyhow::Result<()> {
    holds(Plane::Tc, Variant::Always)
}

#[test]
fn xdp_a_backend_added_just_before() -> anyhow::Result<()> {
    holds(Plane::Xdp, Variant::Change)
}

#[test]
fn tc_one_table_for_all_flows_loses_those_that_wait() -> anyhow::Result<()> {
    let report = besieged(Plane::Tc, Variant::Control)?;
    // What waits in the slots that have gone to the new backend, a quarter, is known by its entry alone.
    ensure!(
        report.idle.broken > IDLE / 10,
        "the control has lost too little, so nothing is proven: {report}"
    );
    Ok(())
}

fn holds(plane: Plane, variant: Variant) -> anyhow::Result<()> {
    let report = besieged(plane, variant)?;
    ensure!(report.idle.broken == 0 && report.idle.flows == IDLE, "{report}");
    ensure!(report.served() >= 0.99, "{report}");
    ensure!((variant == Variant::Stable) == (report.missed == 0), "nothing looked into the tables: {report}");
    Ok(())
}

fn besieged(plane: Plane, variant: Variant) -> anyhow::Result<Report> {
    let plan = Plan { plane, variant, flows: FLOWS, idle: IDLE, rate: 50_000, honest: 100 };
    let report = lay(plan)?;
    println!("{report}");
    Ok(report)
}
