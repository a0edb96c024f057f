//! A siege: idle flows wait, honest clients come, and floods of SYNs and of bare ACKs go on, each of so many flows that
//! a table of them would be filled ten times over. Then the idle flows speak.

use std::fmt;
use std::time::Duration;

use anyhow::ensure;
use lb_common::Counter;
use lb_userspace::model::Plane;
use serde::{Deserialize, Serialize};

use crate::bed::{Bed, Setup};
use crate::client::{churn, long};
use crate::control;
use crate::flood::{self, Kind};
use crate::process::succeeded;
use crate::topology::{Options, VIP4};

/// Flows of a flood for each entry of the flow table.
const TIMES: u64 = 10;
/// An honest flow that has not had its answer within this is lost.
const DEADLINE: Duration = Duration::from_secs(1);

/// What the kernel remembers meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// Nothing.
    Stable,
    /// What began since a backend was added, a moment before the floods.
    Change,
    /// Every flow.
    Always,
    /// Every flow from its SYN on, in one table that evicts: a usual balancer, and a backend is added.
    Control,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Stable, Self::Change, Self::Always, Self::Control];

    /// The weights of the pool before the last backend is added. The control knows that one from the start, because its
    /// programs take over only the interfaces that have one by then.
    fn weights_before(self) -> Option<&'static [u16]> {
        match self {
            Self::Stable | Self::Always => None,
            Self::Change => Some(&[100, 100, 100]),
            Self::Control => Some(&[100, 100, 100, 0]),
        }
    }

    fn tracks_always(self) -> bool {
        matches!(self, Self::Always | Self::Control)
    }
}

/// How large the siege is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What forwards.
    pub plane: Plane,
    /// What it remembers.
    pub variant: Variant,
    /// `kernel.flows`.
    pub flows: u32,
    /// Flows that wait.
    pub idle: u64,
    /// Segments of a flood in a second, at most.
    pub rate: u32,
    /// Honest flows begun in a second.
    pub honest: u32,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What forwarded.
    pub plane: Plane,
    /// What it remembered.
    pub variant: Variant,
    /// Segments of each flood.
    pub segments: u64,
    /// How long the SYNs took, in seconds.
    pub syns_s: f64,
    /// How long the ACKs took, in seconds.
    pub acks_s: f64,
    /// Packets that the kernel forwarded to backends.
    pub forwarded: u64,
    /// SYNs that the guard let nothing be remembered of.
    pub guarded: u64,
    /// Packets in tracked slots that no entry was found for.
    pub missed: u64,
    /// The flows that waited.
    pub idle: long::Report,
    /// The flows that came meanwhile.
    pub honest: churn::Report,
}

impl Report {
    /// The share of the honest flows that had their answer within a second.
    pub fn served(&self) -> f64 {
        1.0 - self.honest.lost as f64 / self.honest.flows.max(1) as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plane, variant, segments, syns_s, acks_s, forwarded, guarded, missed, idle, honest } =
            self;
        writeln!(
            f,
            "{plane} {variant:?}: {segments} SYNs in {syns_s:.1} s, {segments} ACKs in {acks_s:.1} s; \
             {forwarded} forwarded, {guarded} guarded, {missed} missed"
        )?;
        writeln!(f, "  idle: {idle}")?;
        write!(f, "  honest: {honest}")
    }
}

/// Lays siege.
///
/// # Errors
/// It cannot be set up, or the floods did not get through; never what happens to the flows.
pub fn lay(plan: Plan) -> anyhow::Result<Report> {
    let on = Setup::on(plan.plane);
    let mut bed = Bed::prepare(Setup {
        vips: vec![VIP4],
        flows: plan.flows,
        topology: Options { backends: 4, ..on.topology },
        services: if plan.variant.tracks_always() { "tracking = \"always\"\n" } else { "" },
        ..on
    })?;
    let all = bed.config(&[100; 4]);
    if let Some(weights) = plan.variant.weights_before() {
        bed.sluice.write_config(&bed.config(weights))?;
    }
    bed.sluice.start()?;
    if plan.variant == Variant::Control {
        control::take_over(&bed.sluice.bpf_dir(), plan.plane, plan.flows)?;
    }
    let idle = bed.long(plan.idle, None)?;
    if plan.variant.weights_before().is_some() {
        bed.sluice.write_config(&all)?;
        succeeded(bed.sluice.ask(&["reload"])?)?;
    }

    let honest = bed.churn_within(plan.honest, DEADLINE);
    let segments = u64::from(plan.flows) * TIMES;
    let before = bed.sluice.status()?.verdicts;
    let client = &bed.topology.client.namespace;
    let flood =
        |kind| flood::send(client, flood::Plan { target: bed.target(), kind, segments, rate: plan.rate });
    let (syns, acks) = (flood(Kind::Syn)?, flood(Kind::Ack)?);
    let honest = honest.stop()?;
    let status = bed.sluice.status()?;
    idle.speak()?;

    let forwarded = Counter::Forwarded.name();
    let forwarded =
        status.verdicts.get(forwarded).copied().unwrap_or(0) - before.get(forwarded).copied().unwrap_or(0);
    // The rings of a veth pair are short.
    ensure!(
        forwarded >= segments * 2 * 9 / 10,
        "only {forwarded} packets were forwarded of two floods of {segments}: {:?}",
        status.drops
    );
    let event = |counter: Counter| status.events.get(counter.name()).copied().unwrap_or(0);
    Ok(Report {
        plane: plan.plane,
        variant: plan.variant,
        segments,
        syns_s: syns.as_secs_f64(),
        acks_s: acks.as_secs_f64(),
        forwarded,
        guarded: event(Counter::Guard),
        missed: event(Counter::Missed),
        idle: idle.finish()?,
        honest,
    })
}
