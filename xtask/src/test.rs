//! `cargo xtask test`: every test ring that this host can run.

mod cargo_test;
mod ring;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::{build_ebpf, setup};
use cargo_test::Outcome;
use ring::Ring;

/// How much of the tests to run.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Only this ring; all without it
    #[arg(long)]
    ring: Option<Ring>,
    /// Only tests whose name holds this text
    #[arg(long)]
    filter: Option<String>,
}

/// A ring and what became of it; `Err`: why it was skipped.
struct Report {
    ring: Ring,
    result: Result<Outcome, String>,
    took: Duration,
}

/// The verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    ring::refuse_strays()?;
    let rings: Vec<Ring> = options.ring.map_or_else(|| Ring::ALL.to_vec(), |ring| vec![ring]);
    // The privileged rings test what is shipped: the object, and the daemon that embeds it.
    if rings.iter().any(|ring| *ring != Ring::Host) {
        let toolbox = setup::ready()?;
        build_ebpf::build(&toolbox)?;
        if rings.contains(&Ring::Kernel) {
            build_ebpf::build_clock(&toolbox)?;
        }
        if rings.contains(&Ring::Net) {
            build_ebpf::build_control(&toolbox)?;
        }
    }
    let mut reports: Vec<Report> = Vec::new();
    for ring in rings {
        let start = Instant::now();
        let result = match ring.runnable() {
            Ok(()) => {
                reports.iter_mut().filter_map(|report| report.result.as_mut().ok()).for_each(Outcome::close);
                Ok(ring.run(options.filter.as_deref())?)
            }
            Err(reason) => Err(reason),
        };
        reports.push(Report { ring, result, took: start.elapsed() });
    }
    print(&reports);
    // Those of the last ring, held back so that they close the whole run.
    reports.iter_mut().filter_map(|report| report.result.as_mut().ok()).for_each(Outcome::close);
    verdict(&reports, options.filter.is_some())
}

fn print(reports: &[Report]) {
    println!("\n{:<8} {:>7} {:>7} {:>9}  remark", "ring", "passed", "failed", "seconds");
    for Report { ring, result, took } in reports {
        let name = ring.to_string();
        match result {
            Ok(run) => println!("{name:<8} {:>7} {:>7} {:>9.1}", run.passed, run.failed, took.as_secs_f64()),
            Err(reason) => println!("{name:<8} {:>7} {:>7} {:>9}  skipped: {reason}", "-", "-", "-"),
        }
    }
    println!();
}

/// A ring that ran no test proves nothing, so it fails; a filter may leave a ring empty, but not all of them.
fn verdict(reports: &[Report], filtered: bool) -> Result<()> {
    let ran: Vec<(Ring, &Outcome)> =
        reports.iter().filter_map(|report| Some((report.ring, report.result.as_ref().ok()?))).collect();
    if let Some((ring, _)) = ran.iter().find(|(_, run)| run.broken) {
        bail!("the {ring} ring failed; its tests are named above");
    }
    if let Some((ring, _)) = ran.iter().find(|(_, run)| run.passed == 0 && !filtered) {
        bail!("the {ring} ring could run, yet it ran no test");
    }
    if ran.iter().all(|(_, run)| run.passed == 0) {
        bail!(
            "no test ran: {}",
            if filtered { "no name holds the filter's text" } else { "every ring was skipped" }
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(ring: Ring, passed: u64, broken: bool) -> Report {
        let outcome = Outcome { passed, failed: u64::from(broken), broken, closing: Vec::new() };
        Report { ring, result: Ok(outcome), took: Duration::ZERO }
    }

    fn skipped(ring: Ring) -> Report {
        Report { ring, result: Err("no root".into()), took: Duration::ZERO }
    }

    #[test]
    fn a_ring_that_ran_nothing_fails_unless_filtered() {
        let reports = [ran(Ring::Host, 3, false), ran(Ring::Kernel, 0, false)];
        assert!(verdict(&reports, false).is_err_and(|error| error.to_string().contains("kernel")));
        assert!(verdict(&reports, true).is_ok());
    }

    #[test]
    fn skipped_rings_do_not_fail_unless_all_are() {
        assert!(verdict(&[ran(Ring::Host, 3, false), skipped(Ring::Net)], false).is_ok());
        assert!(verdict(&[skipped(Ring::Net)], false).is_err());
    }

    #[test]
    fn a_failed_test_fails_the_run() {
        assert!(verdict(&[ran(Ring::Host, 3, true)], false).is_err());
    }
}
