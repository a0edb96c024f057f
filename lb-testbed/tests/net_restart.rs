//! The kernel planes without the daemon: killed, stopped, adopted by the next, cleaned up.
//!
//! Long runs: `SLUICE_TEST_FLOWS` (200), `SLUICE_TEST_RATE` (new flows a second, 100), `SLUICE_TEST_DOWN` (seconds
//! without a daemon, 3).

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lb_common::names;
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::client::Outcome;
use lb_testbed::client::churn::Churn;
use lb_testbed::client::long::{self, LongFlows};
use lb_testbed::eventually::eventually;
use lb_testbed::process::succeeded;
use lb_testbed::snapshot::{Objects, Snapshot};
use lb_userspace::model::Plane;

const DEADLINE: Duration = Duration::from_secs(10);
/// Between two records of a flow.
const INTERVAL: Duration = Duration::from_millis(500);

#[test]
fn tc_goes_on_through_kill_and_adoption() -> anyhow::Result<()> {
    survives(Plane::Tc, kill_and_adopt)
}

#[test]
fn xdp_goes_on_through_kill_and_adoption() -> anyhow::Result<()> {
    survives(Plane::Xdp, kill_and_adopt)
}

#[test]
fn tc_breaks_nothing_when_nothing_happens() -> anyhow::Result<()> {
    survives(Plane::Tc, without_event)
}

#[test]
fn xdp_breaks_nothing_when_nothing_happens() -> anyhow::Result<()> {
    survives(Plane::Xdp, without_event)
}

#[test]
fn tc_without_pins_breaks_every_flow() -> anyhow::Result<()> {
    breaks_without_pins(Plane::Tc)
}

#[test]
fn xdp_without_pins_breaks_every_flow() -> anyhow::Result<()> {
    breaks_without_pins(Plane::Xdp)
}

#[test]
fn tc_goes_on_after_a_stop_and_cleanup_leaves_nothing() -> anyhow::Result<()> {
    stops_and_cleans_up(Plane::Tc)
}

#[test]
fn xdp_goes_on_after_a_stop_and_cleanup_leaves_nothing() -> anyhow::Result<()> {
    stops_and_cleans_up(Plane::Xdp)
}

#[test]
fn the_proxy_leaves_nothing_after_a_stop() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup::on(Plane::Proxy))?;
    let before = Snapshot::of(&bed.topology.lb)?;
    bed.sluice.start()?;
    ensure!(before != Snapshot::of(&bed.topology.lb)?, "the VIPs are not on this host");
    bed.long(5, None)?.finish().and_then(unbroken)?;
    ensure!(bed.sluice.stop(DEADLINE)?.success(), "{}", bed.sluice.log());
    ensure!(!bed.sluice.socket().exists());
    nothing_is_left(&bed, &before)?;

    // After a kill the VIPs stay, marked, for `cleanup` to find.
    bed.sluice.start()?;
    bed.sluice.kill()?;
    ensure!(before != Snapshot::of(&bed.topology.lb)?, "the VIPs went with the daemon");
    succeeded(bed.sluice.with_config(&["cleanup"])?)?;
    nothing_is_left(&bed, &before)
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() -> anyhow::Result<()> {
    let bed = Bed::start(Setup::on(Plane::Tc))?;
    let churn = bed.churn(50);
    let elsewhere = bed.sluice.socket().with_extension("other");
    for (socket, reason) in [(bed.sluice.socket(), "another daemon"), (elsewhere, "another sluice")] {
        let output = bed.sluice.rival(&socket)?;
        let printed = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(1), "{}: {printed}", output.status);
        ensure!(printed.contains(reason), "{printed}");
    }
    ensure!(bed.sluice.status()?.phase == "ready");
    let report = churn.stop()?;
    ensure!(report.lost == 0, "{report}");
    Ok(())
}

/// Flows that live long and new ones.
struct Load {
    long: LongFlows,
    churn: Churn,
}

impl Load {
    fn start(bed: &Bed, stall: Duration) -> anyhow::Result<Self> {
        let plan = long::Plan { stall, ..bed.long_plan(variable("SLUICE_TEST_FLOWS", 200)?, Some(INTERVAL)) };
        let long = LongFlows::open(&bed.topology.client.namespace, plan)?;
        let churn = bed.churn(variable("SLUICE_TEST_RATE", 100)?.try_into()?);
        let load = Self { long, churn };
        load.goes_on(Duration::from_secs(1))?;
        Ok(load)
    }

    /// For this long, and new flows are really begun meanwhile.
    fn goes_on(&self, time: Duration) -> anyhow::Result<()> {
        let (start, begun) = (Instant::now(), self.churn.begun());
        eventually("the load goes on", time + DEADLINE, || Ok((start.elapsed() >= time).then_some(())))?;
        ensure!(self.churn.begun() > begun, "no new flows");
        Ok(())
    }

    fn unbroken(self) -> anyhow::Result<()> {
        let churn = self.churn.stop()?;
        println!("new: {churn}");
        let long = self.long.finish()?;
        println!("long: {long}");
        ensure!(churn.lost == 0 && churn.backends.len() == 3, "{churn}");
        unbroken(long)
    }
}

fn unbroken(report: long::Report) -> anyhow::Result<()> {
    ensure!(report.broken == 0, "{report}");
    Ok(())
}

fn survives(plane: Plane, event: impl FnOnce(&mut Bed, &Load) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut bed = Bed::start(Setup::on(plane))?;
    let load = Load::start(&bed, Duration::from_secs(5))?;
    event(&mut bed, &load)?;
    load.goes_on(Duration::from_secs(1))?;
    load.unbroken().with_context(|| bed.sluice.log())
}

fn down() -> anyhow::Result<Duration> {
    Ok(Duration::from_secs(variable("SLUICE_TEST_DOWN", 3)?))
}

fn without_event(_: &mut Bed, load: &Load) -> anyhow::Result<()> {
    load.goes_on(down()?)
}

fn kill_and_adopt(bed: &mut Bed, load: &Load) -> anyhow::Result<()> {
    let before = destinations(bed)?;
    let objects = Objects::pinned(&bed.sluice.bpf_dir())?;
    bed.sluice.kill()?;
    load.goes_on(down()?)?;
    bed.sluice.start()?;
    ensure!(destinations(bed)? == before, "the new daemon has other slots, or another seed");
    let adopted = Objects::pinned(&bed.sluice.bpf_dir())?;
    ensure!(adopted.links == objects.links && !adopted.links.is_empty(), "{objects:?}, then {adopted:?}");
    Ok(())
}

/// Where the flows of some clients go.
fn destinations(bed: &Bed) -> anyhow::Result<Vec<Option<SocketAddr>>> {
    let client = bed.topology.client.ipv4();
    (1000..1020).map(|port| Ok(bed.explain(SocketAddr::new(client, port), bed.target())?.backend)).collect()
}

/// What makes the others prove something: without the pins, the same flows under the same event do break.
fn breaks_without_pins(plane: Plane) -> anyhow::Result<()> {
    let mut bed = Bed::start(Setup::on(plane))?;
    let load = Load::start(&bed, Duration::from_secs(1))?;
    bed.sluice.kill()?;
    for pin in fs::read_dir(bed.sluice.bpf_dir().join("links"))? {
        fs::remove_file(pin?.path())?;
    }
    let flows = load.long.report().flows;
    eventually("every flow is broken", DEADLINE, || Ok((load.long.report().broken == flows).then_some(())))?;
    let report = load.long.finish()?;
    ensure!(!report.outcomes.contains_key(&Outcome::Ok), "{report}");
    let churn = load.churn.stop()?;
    ensure!(churn.lost > 0, "{churn}");
    Ok(())
}

fn stops_and_cleans_up(plane: Plane) -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup::on(plane))?;
    let before = Snapshot::of(&bed.topology.lb)?;
    bed.sluice.start()?;
    let load = Load::start(&bed, Duration::from_secs(5))?;
    let objects = Objects::pinned(&bed.sluice.bpf_dir())?;
    let local = if bed.sluice.status()?.local.cgroup.is_some() { names::PROGRAMS_LOCAL.len() } else { 0 };
    ensure!(
        objects.links.len() == 4 + local && !objects.programs.is_empty() && objects.maps.len() > 14,
        "{objects:?}"
    );
    ensure!(bed.sluice.stop(DEADLINE)?.success(), "{}", bed.sluice.log());
    load.goes_on(Duration::from_secs(1))?;
    load.unbroken()?;

    let printed = succeeded(bed.sluice.with_config(&["cleanup"])?)?;
    ensure!(printed.contains("detached"), "{printed}");
    nothing_is_left(&bed, &before)?;
    // The kernel frees them after a grace period.
    eventually("programs, links and maps are gone", DEADLINE, || {
        let alive = objects.alive();
        ensure!(alive == Objects::default(), "{alive:?} are left of {objects:?}");
        Ok(Some(()))
    })?;
    let printed = succeeded(bed.sluice.with_config(&["cleanup"])?)?;
    ensure!(printed.contains("nothing was there"), "{printed}");
    Ok(())
}

/// The kernel lets some go a little later: a neighbour, a queue.
fn nothing_is_left(bed: &Bed, before: &Snapshot) -> anyhow::Result<()> {
    ensure!(!bed.sluice.bpf_dir().exists(), "{:?}", names(&bed.sluice.bpf_dir())?);
    eventually("the host is as it was", DEADLINE, || {
        let difference = before.difference(&Snapshot::of(&bed.topology.lb)?);
        ensure!(difference.is_empty(), "{difference:#?}");
        Ok(Some(()))
    })
}

fn names(directory: &std::path::Path) -> anyhow::Result<BTreeSet<String>> {
    let entries = fs::read_dir(directory)?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect())
}

fn variable(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(value) => value.parse().with_context(|| format!("{name} = {value:?}")),
        Err(_) => Ok(default),
    }
}
