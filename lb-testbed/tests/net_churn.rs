//! The churn laboratory, each event once and shortened: whatever comes and goes, no flow is broken that it does not concern.
//! `cargo xtask bench churn` has the full size.

use std::path::Path;

use anyhow::ensure;
use clap::ValueEnum;
use lb_testbed::laboratory::event::Event;
use lb_testbed::laboratory::report::Group;
use lb_testbed::laboratory::{Laboratory, Scale};
use lb_userspace::model::Plane;

#[test]
fn tc_breaks_no_flow_whatever_happens() -> anyhow::Result<()> {
    breaks_no_flow(Plane::Tc, Event::value_variants())
}

/// What is not the same code as on tc.
#[test]
fn xdp_breaks_no_flow_whatever_happens() -> anyhow::Result<()> {
    let events = [
        Event::Shifted,
        Event::WipedInChange,
        Event::AddEight,
        Event::RemoveDrained,
        Event::Program,
        Event::Kill,
        Event::Unplugged,
    ];
    breaks_no_flow(Plane::Xdp, &events)
}

#[test]
fn the_proxy_breaks_no_flow_whatever_happens() -> anyhow::Result<()> {
    let events =
        [Event::Nothing, Event::AddEight, Event::RemoveDrained, Event::Weights, Event::Reload, Event::Killed];
    breaks_no_flow(Plane::Proxy, &events)
}

fn breaks_no_flow(plane: Plane, events: &[Event]) -> anyhow::Result<()> {
    let mut laboratory = Laboratory::open(plane, Scale::SHORT, Path::new(env!("CARGO_BIN_EXE_bench_churn")))?;
    for event in events {
        let report = laboratory.run(*event)?;
        println!("{report}");
        ensure!(report.is_as_it_should(), "{report}");
        match event {
            // Who forgets flows in the middle of a change breaks some, which shows that they are seen.
            Event::WipedInChange => ensure!(report.excused.contains_key(&Group::Young), "{report}"),
            // As many as the backend had.
            Event::Shifted => ensure!(report.broken > report.long / 6, "{report}"),
            Event::Killed => ensure!(report.excused.contains_key(&Group::Long), "{report}"),
            _ => {}
        }
    }
    Ok(())
}
