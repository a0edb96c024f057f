//! The churn laboratory: long flows and a steady stream of new ones go through the balancer while something happens,
//! and each is judged. What an event has to break (the flows of a backend that is taken away) is told apart; everything else
//! has to stay whole.

pub mod event;
mod happen;
mod pins;
pub mod report;
mod upgrade;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lb_userspace::model::Plane;

use crate::bed::{Bed, STALL, Setup};
use crate::client::churn::Churn;
use crate::client::long::LongFlows;
use crate::eventually::eventually;
use crate::process::Sluice;
use crate::topology::{Options, VIP4};
use event::Event;
use report::{Group, Report, Sheet, whole};

/// Backends that serve when nothing has happened.
const BACKENDS: usize = 3;
/// Those that may be added.
const SPARE: usize = 8;
/// Between two records of a long flow.
const INTERVAL: Duration = Duration::from_secs(1);
/// For what the daemon does in a moment.
const DEADLINE: Duration = Duration::from_secs(20);
/// A drain, or the grace of a backend that was removed.
const DRAIN: Duration = Duration::from_secs(3);

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Flows that live long.
    pub flows: u64,
    /// New flows a second.
    pub rate: u32,
    /// `kernel.flows`.
    pub table: u32,
    /// The load alone, before and after an event.
    pub rest: Duration,
    /// How long nothing happens.
    pub quiet: Duration,
    /// How long weights are flipped.
    pub weights: Duration,
    /// How long a backend stops and goes on.
    pub flapping: Duration,
    /// How long there is no daemon.
    pub down: Duration,
    /// Reloads, or replacements of the programs.
    pub repeats: u32,
    /// Deaths of a backend.
    pub deaths: u32,
}

impl Scale {
    /// What the issue of a release is judged by.
    pub const FULL: Self = Self {
        flows: 5000,
        rate: 500,
        table: 262_144,
        rest: Duration::from_secs(3),
        quiet: Duration::from_secs(30),
        weights: Duration::from_secs(60),
        flapping: Duration::from_secs(300),
        down: Duration::from_secs(20),
        repeats: 50,
        deaths: 20,
    };

    /// A few seconds for each event.
    pub const SHORT: Self = Self {
        flows: 150,
        rate: 60,
        table: 16_384,
        rest: Duration::from_millis(300),
        quiet: Duration::from_secs(1),
        weights: Duration::from_secs(2),
        flapping: Duration::from_millis(2500),
        down: Duration::from_millis(1500),
        repeats: 2,
        deaths: 1,
    };
}

/// A balancer, three backends that serve and eight that may, each of them a process.
#[derive(Debug)]
pub struct Laboratory {
    bed: Bed,
    plane: Plane,
    scale: Scale,
}

/// Flows on their way.
struct Load {
    long: LongFlows,
    opened: Instant,
    churn: Churn,
    begun: Instant,
    start: Instant,
}

impl Laboratory {
    /// Sets it up. `program` is what the backends run, as in [`crate::backend::Server::spawn`].
    ///
    /// # Errors
    /// No rights, or the daemon does not come up.
    pub fn open(plane: Plane, scale: Scale, program: &Path) -> anyhow::Result<Self> {
        Self::open_with(plane, scale, program, &Sluice::binary())
    }

    /// The same with the daemon of a build.
    ///
    /// # Errors
    /// As above.
    pub fn open_with(plane: Plane, scale: Scale, program: &Path, daemon: &Path) -> anyhow::Result<Self> {
        let on = Setup::on(plane);
        let mut bed = Bed::prepare(Setup {
            program: Some(program.to_owned()),
            vips: vec![VIP4],
            flows: scale.table,
            topology: Options { backends: (BACKENDS + SPARE) as u8, ..on.topology },
            drain_timeout: "3s",
            interval: "300ms",
            timeout: "300ms",
            // Changes end, and the next begins on stable slots: slots settle and are untracked within an event.
            services: "timeouts = { established = \"8s\", closing = \"4s\" }\n",
            ..on
        })?;
        bed.sluice.write_config(&bed.config(&[100; BACKENDS]))?;
        bed.sluice.use_build(daemon);
        let ended = bed.sluice.try_start()?;
        ensure!(ended.is_none(), "the daemon ended: {}", bed.sluice.log());
        Ok(Self { bed, plane, scale })
    }

    /// Has it happen under load, and judges.
    ///
    /// # Errors
    /// It could not be made to happen; never what happens to the flows.
    pub fn run(&mut self, event: Event) -> anyhow::Result<Report> {
        self.recover(event).with_context(|| self.bed.sluice.log())?;
        let load = self.load().context("the load")?;
        self.pass(self.scale.rest)?;
        let aftermath = self.happen(event).with_context(|| format!("{event}: {}", self.bed.sluice.log()))?;
        self.pass(self.scale.rest)?;

        let mut sheet = Sheet { start: load.start, ..Sheet::new() };
        sheet.add_new(load.churn.stop()?, load.begun);
        if let Some((young, opened)) = aftermath.young {
            sheet.add_long(Group::Young, young.finish()?, opened);
        }
        sheet.add_long(Group::Long, load.long.finish()?, load.opened);
        Ok(sheet.judge(self.plane, event, &aftermath.excuse, &aftermath.detected))
    }

    /// Everything is as it was in the beginning.
    fn recover(&mut self, event: Event) -> anyhow::Result<()> {
        self.bed.reload(&self.bed.config(&[100; BACKENDS]))?;
        eventually("the first backends serve, and they alone", DEADLINE, || {
            let pool = self.bed.pool()?;
            let serving = pool.backends.iter().filter(|backend| backend.state == "up" && backend.slots > 0);
            ensure!(serving.count() == BACKENDS && pool.backends.len() == BACKENDS, "{pool:?}");
            // What is opened while somebody leaves is no flow of those who stay for certain: the clients' ports come
            // again within seconds here, and a tuple whose last flow is remembered goes where that went.
            ensure!(pool.leaving.is_empty(), "{:?}", pool.leaving);
            Ok(Some(()))
        })?;
        if event.needs_stable_slots() {
            eventually("the slots are stable", DEADLINE * 2, || {
                let slots = pins::slots(&self.bed.sluice.bpf_dir())?;
                let tracked = slots.iter().filter(|slot| slot.is_tracked()).count();
                ensure!(tracked == 0, "{tracked} of {} are tracked", slots.len());
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    fn load(&self) -> anyhow::Result<Load> {
        let start = Instant::now();
        let (long, opened) = self.open_flows(self.scale.flows)?;
        let begun = Instant::now();
        let churn = self.bed.churn(self.scale.rate);
        Ok(Load { long, opened, churn, begun, start })
    }

    /// Flows that live long, all of them open, and when their clock began.
    fn open_flows(&self, flows: u64) -> anyhow::Result<(LongFlows, Instant)> {
        let opened = Instant::now();
        let long = self.bed.long(flows, Some(INTERVAL))?;
        ensure!(whole(&long.report()), "{}", long.report());
        Ok((long, opened))
    }

    /// The load goes on for this long.
    fn pass(&self, time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        eventually("time passes", time + STALL, || Ok((start.elapsed() >= time).then_some(())))
    }
}
