//! The daemon killed at every call into the kernel, while flows live and others begin.
//!
//! A *point* is a number: the daemon dies at its n-th call, so what it did before stands and the rest is missing. The next
//! daemon finds that.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use lb_userspace::model::Plane;
use rustix::process::Signal;
use serde::Serialize;
use tempfile::TempDir;

use crate::bed::{Bed, POOL, PORT, Setup};
use crate::client::churn::{self, Churn};
use crate::client::long::{self, LongFlows};
use crate::eventually::eventually;
use crate::process::succeeded;
use crate::snapshot::Snapshot;
use crate::tracer::Trace;

/// Of what the daemon does by itself within some seconds at most.
const DEADLINE: Duration = Duration::from_secs(20);
/// Between two records of a flow.
const INTERVAL: Duration = Duration::from_millis(200);

/// What the daemon is doing when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// It starts where nothing was. After every other point nobody starts again: `cleanup` has to find all.
    FirstStart,
    /// It starts after another was killed, and takes over what that one and all after it left behind.
    Adoption,
    /// It reloads: weights change, a backend goes or comes, a service too.
    Reload,
    /// It stops.
    Stop,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::FirstStart, Self::Adoption, Self::Reload, Self::Stop];
}

/// Which points, of what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What forwards.
    pub plane: Plane,
    /// What the daemon is doing.
    pub scenario: Scenario,
    /// The first point, at least 1.
    pub first: u64,
    /// From one point to the next.
    pub step: u64,
    /// The program that traces: it is given a directory and a point, and then the command line of the daemon.
    pub tracer: Vec<OsString>,
    /// Flows that live long.
    pub flows: u64,
    /// New flows a second.
    pub rate: u32,
}

/// What became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What forwarded.
    pub plane: Plane,
    /// What the daemon was doing.
    pub scenario: Scenario,
    /// How often it died.
    pub points: u64,
    /// Calls that it makes when it lives.
    pub calls: u64,
    /// The flows that lived meanwhile; none at a first start.
    pub long: Option<long::Report>,
    /// The flows that began meanwhile; none at a first start.
    pub churn: Option<churn::Report>,
}

impl Report {
    /// Flows that broke, and flows that found no way.
    pub fn lost(&self) -> u64 {
        let broken = self.long.as_ref().map_or(0, |report| report.broken);
        broken + self.churn.as_ref().map_or(0, |report| report.lost)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plane, scenario, points, calls, long, churn } = self;
        write!(f, "{plane} {scenario:?}: killed at {points} of {calls} calls")?;
        for report in long.iter() {
            write!(f, "\n  long: {report}")?;
        }
        for report in churn.iter() {
            write!(f, "\n  new: {report}")?;
        }
        Ok(())
    }
}

/// Walks through the points.
///
/// # Errors
/// A daemon did not come up after a point, or left something behind; what happened to flows is in the report.
pub fn walk(plan: &Plan) -> anyhow::Result<Report> {
    let mut bed = Bed::prepare(Setup::on(plan.plane))?;
    let mut points = Points::new(plan)?;
    match plan.scenario {
        Scenario::FirstStart => {
            first_starts(&mut bed, &mut points)?;
            Ok(points.report(None))
        }
        Scenario::Adoption => under_load(&mut bed, points, adoptions),
        Scenario::Reload => under_load(&mut bed, points, |bed, points| {
            let configs = [bed.config(&[100; 6]), changed(bed)];
            let mut turn = 0;
            lives(bed, points, move |bed| {
                turn = 1 - turn;
                bed.sluice.write_config(&configs[turn])?;
                // It dies meanwhile.
                Ok(bed.sluice.ask(&["reload"])?.status.success())
            })
        }),
        Scenario::Stop => under_load(&mut bed, points, |bed, points| {
            lives(bed, points, |bed| {
                bed.sluice.signal(Signal::TERM)?;
                let exit = eventually("the daemon ends", DEADLINE, || bed.sluice.exited())?;
                Ok(exit.success())
            })
        }),
    }
}

/// Another config: weights, one backend less, one service more.
fn changed(bed: &Bed) -> String {
    let listen = SocketAddr::new(bed.target().ip(), PORT + 1);
    let service = format!("[[service]]\nname = \"more\"\nlisten = \"{listen}\"\npool = \"{POOL}\"\n");
    bed.config(&[100, 100, 50, 50]) + &service
}

/// The points that are still to come.
struct Points<'a> {
    plan: &'a Plan,
    directory: TempDir,
    next: u64,
    died: u64,
    calls: u64,
}

impl<'a> Points<'a> {
    fn new(plan: &'a Plan) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("sluice-test-").tempdir()?;
        Ok(Self { plan, directory, next: plan.first.max(1), died: 0, calls: 0 })
    }

    /// The next point, and how to start a daemon that dies there.
    fn next(&mut self) -> anyhow::Result<(Trace, Vec<OsString>)> {
        let trace = Trace { directory: self.directory.path().to_owned(), at: self.next };
        trace.arm(false)?;
        std::fs::write(trace.directory.join("count"), format!("{:020}", 0))?;
        let mut program = self.plan.tracer.clone();
        program.extend([trace.directory.clone().into_os_string(), trace.at.to_string().into()]);
        self.next += self.plan.step.max(1);
        Ok((trace, program))
    }

    /// The daemon has died, or lived through fewer calls; whether there are further points.
    fn ended(&mut self, trace: &Trace, died: bool) -> anyhow::Result<bool> {
        let count = trace.count();
        if died {
            ensure!(count == trace.at, "it died at call {count}, not at {}", trace.at);
            self.died += 1;
        } else {
            self.calls = count;
        }
        Ok(died)
    }

    fn report(&self, load: Option<(long::Report, churn::Report)>) -> Report {
        let (long, churn) = load.unzip();
        let Plan { plane, scenario, .. } = *self.plan;
        Report { plane, scenario, points: self.died, calls: self.calls, long, churn }
    }
}

fn first_starts(bed: &mut Bed, points: &mut Points<'_>) -> anyhow::Result<()> {
    let before = Snapshot::of(&bed.topology.lb)?;
    loop {
        let (trace, program) = points.next()?;
        trace.arm(true)?;
        bed.sluice.go_through(program);
        let died = dies_starting(bed)?;
        bed.sluice.go_through(Vec::new());
        let context = || format!("after its death at call {}", trace.at);
        if died && points.died.is_multiple_of(2) {
            bed.sluice.start().with_context(context)?;
            let report = bed.long(4, None).with_context(context)?.finish()?;
            ensure!(report.broken == 0, "{}: {report}", context());
        }
        let goes_on = points.ended(&trace, died)?;
        if bed.sluice.pid().is_some() {
            bed.sluice.stop(DEADLINE)?;
        }
        succeeded(bed.sluice.with_config(&["cleanup"])?).with_context(context)?;
        ensure!(!bed.sluice.bpf_dir().exists(), "{}: pins are left", context());
        eventually("the host is as it was", DEADLINE, || {
            let difference = before.difference(&Snapshot::of(&bed.topology.lb)?);
            ensure!(difference.is_empty(), "{difference:#?}");
            Ok(Some(()))
        })
        .with_context(context)?;
        if !goes_on {
            return Ok(());
        }
    }
}

/// Starts the daemon; whether it dies of the tracer before it is ready.
fn dies_starting(bed: &mut Bed) -> anyhow::Result<bool> {
    bed.sluice.spawn()?;
    eventually("the daemon is ready or dead", DEADLINE, || {
        if let Some(exit) = bed.sluice.exited()? {
            use std::os::unix::process::ExitStatusExt;
            ensure!(exit.signal() == Some(libc::SIGKILL), "it ended with {exit}");
            return Ok(Some(true));
        }
        let ready = bed.sluice.status().is_ok_and(|status| status.phase == "ready");
        Ok(ready.then_some(false))
    })
    .with_context(|| format!("log of the daemon:\n{}", bed.sluice.log()))
}

/// Walks with flows that must not notice, and compares in the end what is pinned with what was in the beginning.
fn under_load(
    bed: &mut Bed,
    mut points: Points<'_>,
    walk: impl FnOnce(&mut Bed, &mut Points<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    bed.sluice.start()?;
    let pins = pins(&bed.sluice.bpf_dir())?;
    let config = std::fs::read_to_string(bed.sluice.config())?;
    let load = Load::start(bed, points.plan)?;
    bed.sluice.kill()?;
    walk(bed, &mut points)?;
    bed.sluice.go_through(Vec::new());
    bed.sluice.write_config(&config)?;
    if bed.sluice.pid().is_some() {
        bed.sluice.kill()?;
    }
    bed.sluice.start()?;
    let now = self::pins(&bed.sluice.bpf_dir())?;
    ensure!(now == pins, "pinned in the beginning: {pins:#?}, and now: {now:#?}");
    load.end().map(|load| points.report(Some(load))).with_context(|| bed.sluice.log())
}

fn adoptions(bed: &mut Bed, points: &mut Points<'_>) -> anyhow::Result<()> {
    loop {
        let (trace, program) = points.next()?;
        trace.arm(true)?;
        bed.sluice.go_through(program);
        let died = dies_starting(bed).with_context(|| format!("point {}", trace.at))?;
        if !points.ended(&trace, died)? {
            return Ok(());
        }
    }
}

/// Starts a daemon after the other, each of which is killed within `act`; that says whether it lived.
fn lives(
    bed: &mut Bed,
    points: &mut Points<'_>,
    mut act: impl FnMut(&mut Bed) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    loop {
        let (trace, program) = points.next()?;
        bed.sluice.go_through(program);
        bed.sluice.start().with_context(|| format!("before point {}", trace.at))?;
        trace.arm(true)?;
        let lived = act(bed).with_context(|| format!("point {}", trace.at))?;
        if !lived && bed.sluice.pid().is_some() {
            eventually("the daemon is dead", DEADLINE, || bed.sluice.exited()).with_context(|| {
                format!("it neither did what it was told nor died:\n{}", bed.sluice.log())
            })?;
        }
        if !points.ended(&trace, !lived)? {
            return Ok(());
        }
    }
}

/// Everything below a directory, and how often. The name of an inner map is its table's number and its own id, which is
/// another after every swap.
fn pins(directory: &Path) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(pins(&path)?);
        }
        let name = path.to_string_lossy();
        let stable = name.rsplit_once('-').filter(|(_, id)| id.bytes().all(|byte| byte.is_ascii_digit()));
        *found.entry(stable.map_or(&*name, |(stable, _)| stable).to_owned()).or_insert(0) += 1;
    }
    Ok(found)
}

/// Flows that live long and new ones.
struct Load {
    long: LongFlows,
    churn: Churn,
}

impl Load {
    fn start(bed: &Bed, plan: &Plan) -> anyhow::Result<Self> {
        let long = bed.long(plan.flows, Some(INTERVAL))?;
        let churn = bed.churn(plan.rate);
        let load = Self { long, churn };
        let begun = u64::from(plan.rate);
        eventually("new flows come", DEADLINE, || Ok((load.churn.begun() >= begun).then_some(())))?;
        if load.long.report().broken > 0 {
            bail!("flows break before anything happens: {}", load.long.report());
        }
        Ok(load)
    }

    fn end(self) -> anyhow::Result<(long::Report, churn::Report)> {
        Ok((self.long.finish()?, self.churn.stop()?))
    }
}
