//! Backends come, go, drain and change their weight under load: nobody else's flows notice, and new flows follow.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lb_testbed::bed::{Bed, POOL, STALL, Setup};
use lb_testbed::client::Outcome;
use lb_testbed::client::long::{LongFlows, Report};
use lb_testbed::eventually::eventually;
use lb_testbed::process::succeeded;
use lb_testbed::topology::VIP4;
use lb_userspace::model::Plane;

const DEADLINE: Duration = Duration::from_secs(15);
const DRAIN: Duration = Duration::from_secs(3);
/// From the end of a drain on, flows are cut over this time.
const SPREAD: Duration = Duration::from_secs(2);
/// Of the moment at which old flows end.
const SLACK: Duration = Duration::from_millis(1500);
/// Flows that may find an answer cut off on its way: for some ten microseconds of each record, the backend has
/// acknowledged it and not answered yet. Such a client has nothing to send again and waits in vain.
const UNDER_WAY: usize = 2;
/// New flows a second.
const RATE: u32 = 200;
/// So many tell a share.
const SAMPLE: u64 = 100;

#[test]
fn backends_change_under_load_on_tc() -> anyhow::Result<()> {
    backends_change_under_load(Plane::Tc)
}

#[test]
fn backends_change_under_load_on_xdp() -> anyhow::Result<()> {
    backends_change_under_load(Plane::Xdp)
}

#[test]
fn backends_change_under_load_on_the_proxy() -> anyhow::Result<()> {
    backends_change_under_load(Plane::Proxy)
}

fn backends_change_under_load(plane: Plane) -> anyhow::Result<()> {
    let bed = Bed::start(Setup {
        vips: vec![VIP4],
        drain_timeout: "3s",
        drain_spread: Some("2s"),
        ..Setup::on(plane)
    })?;
    let [first, second, third] = bed.servers.as_slice() else { anyhow::bail!("three servers") };
    let old = old_flows(&bed)?;

    bed.backend("weight", first, &["300"])?;
    new_flows_are(&bed, [0.6, 0.2, 0.2])?;
    bed.backend("weight", first, &["0"])?;
    new_flows_are(&bed, [0.0, 0.5, 0.5])?;
    // The file again, with other weights: what was set at run time goes on, so it is set back first.
    bed.backend("weight", first, &["100"])?;
    reload(&bed, &[100, 300, 100])?;
    new_flows_are(&bed, [0.2, 0.6, 0.2])?;
    reload(&bed, &[100, 100, 100])?;
    new_flows_are(&bed, [1.0 / 3.0; 3])?;
    old.speak()?;
    unbroken(&old.report(), &[])?;

    let drained = Instant::now();
    bed.backend("drain", second, &[])?;
    let draining = bed.pool()?.backends.remove(1);
    ensure!(draining.state == "draining", "{draining:?}");
    let left = draining.drain.context("nothing is told of its end")?;
    let is_proxied = plane == Plane::Proxy;
    ensure!(left.exact == is_proxied && (left.slots > 1000) != is_proxied, "{left:?}");
    ensure!(
        !is_proxied || left.flows as usize == old.report().backends["b2"].values().sum::<u64>() as usize,
        "{left:?}"
    );
    new_flows_are(&bed, [0.5, 0.0, 0.5])?;
    ends_after_the_deadline(&old, "b2", drained)?;
    bed.backend("undrain", second, &[])?;
    new_flows_are(&bed, [1.0 / 3.0; 3])?;

    let removed = Instant::now();
    bed.backend("remove", third, &[])?;
    let pool = bed.pool()?;
    ensure!(pool.backends.len() == 2 && pool.leaving[0].address == third.address(), "{pool:?}");
    new_flows_are(&bed, [0.5, 0.5, 0.0])?;
    ends_after_the_deadline(&old, "b3", removed)?;
    bed.backend("add", third, &["--weight", "100"])?;
    new_flows_are(&bed, [1.0 / 3.0; 3])?;

    // At once: what it has is cut.
    let new = bed.long(90, None)?;
    ensure!(new.report().backends.len() == 3, "{}", new.report());
    bed.backend("remove", third, &["--now"])?;
    new.speak()?;
    eventually("its flows are cut", SLACK, || Ok(all_ended(&new.report(), "b3").then_some(())))
        .with_context(|| new.report().to_string())?;
    let report = new.finish()?;
    ensure!(report.ends.iter().all(|end| end.outcome == Outcome::Reset), "{report}");
    unbroken(&report, &["b3"])?;

    let refused = bed.sluice.ask(&["backend", "drain", POOL, "192.0.2.1:1"])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    unbroken(&old.finish()?, &["b2", "b3"])
}

fn old_flows(bed: &Bed) -> anyhow::Result<LongFlows> {
    let old = bed.long(90, Some(Duration::from_millis(200)))?;
    ensure!(old.report().broken == 0 && old.report().backends.len() == 3, "{}", old.report());
    Ok(old)
}

fn reload(bed: &Bed, weights: &[u16]) -> anyhow::Result<()> {
    bed.sluice.write_config(&bed.config(weights))?;
    succeeded(bed.sluice.ask(&["reload"])?).map(drop)
}

/// Opens some flows and compares where they went; none is lost.
fn new_flows_are(bed: &Bed, shares: [f64; 3]) -> anyhow::Result<()> {
    let churn = bed.churn(RATE);
    eventually("new flows", DEADLINE, || Ok((churn.begun() >= SAMPLE).then_some(())))?;
    let report = churn.stop()?;
    ensure!(report.lost == 0, "{report}");
    for (server, share) in bed.servers.iter().zip(shares) {
        let had = *report.backends.get(server.id()).unwrap_or(&0) as f64 / report.flows as f64;
        // Five standard deviations of a binomial.
        let margin = 5.0 * (share * (1.0 - share) / report.flows as f64).sqrt();
        ensure!((had - share).abs() <= margin, "{}: {had:.2} instead of {share:.2}: {report}", server.id());
    }
    let pool = bed.pool()?;
    for backend in &pool.backends {
        let server = bed.servers.iter().position(|server| server.address() == backend.address);
        let share = shares[server.context("a stranger")?];
        let counts = pool.backends.iter().any(|backend| backend.slots > 0);
        ensure!(!counts || (backend.share - share).abs() < 0.01, "{backend:?} should have {share}");
    }
    Ok(())
}

/// The flows of `backend` live until then and end after it, one after another.
fn ends_after_the_deadline(flows: &LongFlows, backend: &str, since: Instant) -> anyhow::Result<()> {
    let of_flows = flows.now_ms() - since.elapsed().as_secs_f64() * 1000.0;
    eventually(&format!("the flows of {backend} have ended"), DRAIN + SPREAD + SLACK + STALL, || {
        Ok(all_ended(&flows.report(), backend).then_some(()))
    })
    .with_context(|| flows.report().to_string())?;
    let report = flows.report();
    let (mut stalled, mut times) = (0, Vec::new());
    for end in report.ends.iter().filter(|end| end.backend == backend) {
        let after = Duration::from_secs_f64((end.at_ms - of_flows).max(0.0) / 1000.0);
        let noticed = if end.outcome == Outcome::Stalled { STALL } else { Duration::ZERO };
        stalled += usize::from(end.outcome == Outcome::Stalled);
        times.push(after);
        ensure!(
            after >= DRAIN && after < DRAIN + SPREAD + SLACK + noticed,
            "a flow of {backend} ended after {after:?}: {report}"
        );
    }
    // Some thirty flows, evenly, each seen at its next record. By chance no more than three in four of them end within a
    // quarter of the time, or all within half of it, once in millions; without a spread they all do.
    times.sort_unstable();
    let herd = times
        .iter()
        .map(|first| times.iter().filter(|end| **end >= *first && **end < *first + SPREAD / 4).count());
    let herd = herd.max().unwrap_or_default();
    ensure!(times.len() > 15 && herd * 4 <= times.len() * 3, "{herd} of {} at once: {times:?}", times.len());
    let (first, last) = (times[0], times[times.len() - 1]);
    ensure!(last - first >= SPREAD / 2, "all within {:?}: {times:?}", last - first);
    ensure!(stalled <= UNDER_WAY, "{stalled} flows of {backend} stalled: {report}");
    Ok(())
}

fn all_ended(report: &Report, backend: &str) -> bool {
    let ended = |outcome: &Outcome| matches!(outcome, Outcome::Reset | Outcome::Stalled);
    report.backends.get(backend).is_some_and(|outcomes| outcomes.keys().all(ended))
}

/// Only flows of these backends have ended before their time.
fn unbroken(report: &Report, but: &[&str]) -> anyhow::Result<()> {
    let broken: BTreeSet<_> = report.ends.iter().map(|end| end.backend.as_str()).collect();
    ensure!(broken == but.iter().copied().collect(), "{report}");
    let ended = |outcome: &Outcome| matches!(outcome, Outcome::Reset | Outcome::Stalled);
    ensure!(report.ends.iter().all(|end| ended(&end.outcome)), "{report}");
    Ok(())
}
