//! The daemon killed at some of its calls into the kernel; at all of them: `cargo xtask bench crash`.

use anyhow::ensure;
use lb_testbed::crash::{self, Plan, Scenario};
use lb_userspace::model::Plane;

/// Walks through every `step`th call.
fn walk(plane: Plane, scenario: Scenario, first: u64, step: u64) -> anyhow::Result<()> {
    let tracer = vec![env!("CARGO_BIN_EXE_crash_points").into(), "trace".into()];
    let report = crash::walk(&Plan { plane, scenario, first, step, tracer, flows: 50, rate: 50 })?;
    println!("{report}");
    // A stop leaves everything in the kernel as it is: unless a chore comes in between it has no call to die at.
    let least = if scenario == Scenario::Stop { 0 } else { 3 };
    ensure!(report.points >= least, "too few points for anything to be shown: {report}");
    ensure!(report.lost() == 0, "{report}");
    Ok(())
}

#[test]
fn a_first_start_may_die_anywhere() -> anyhow::Result<()> {
    walk(Plane::Tc, Scenario::FirstStart, 20, 60)
}

#[test]
fn an_adoption_may_die_anywhere() -> anyhow::Result<()> {
    walk(Plane::Xdp, Scenario::Adoption, 7, 13)
}

#[test]
fn a_reload_may_die_anywhere() -> anyhow::Result<()> {
    walk(Plane::Tc, Scenario::Reload, 1, 1)
}

#[test]
fn a_stop_may_die_anywhere() -> anyhow::Result<()> {
    walk(Plane::Xdp, Scenario::Stop, 1, 1)
}
