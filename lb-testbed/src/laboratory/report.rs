//! What became of the flows.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_userspace::model::Plane;
use serde::{Deserialize, Serialize};

use super::event::Event;
use crate::client::{Outcome, bound, churn, long};

/// Whose a broken flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Opened before the event.
    Long,
    /// Opened in the middle of it, to stay.
    Young,
    /// One of the stream of new flows.
    New,
}

/// A flow that is broken.
#[derive(Clone, Debug)]
pub(super) struct Casualty {
    pub(super) group: Group,
    /// Who greeted it; empty: nobody, or it is not known.
    pub(super) backend: String,
    /// Our side of it; none: it is not known.
    pub(super) client: Option<SocketAddr>,
    /// When it ended; of a new flow, when it began.
    pub(super) at: Instant,
    /// How it ended.
    pub(super) how: String,
}

/// Whether an event may break a flow.
pub(super) type Excuse = Box<dyn Fn(&Casualty) -> bool>;

/// What became of the flows while something happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What carried them.
    pub plane: Plane,
    /// What happened.
    pub event: Event,
    /// Flows that lived long.
    pub long: u64,
    /// Flows that began meanwhile.
    pub new: u64,
    /// Broken ones that nothing excuses: reset or ended before our end, silent for 5 s, greeted or answered by a stranger.
    pub broken: u64,
    /// No larger share can be ruled out (95 %), see [`bound::upper`].
    pub broken_share_below: f64,
    /// Broken ones that the event had to break: those of a backend that is gone, and where state was wiped those that
    /// only the state could tell.
    pub excused: BTreeMap<Group, u64>,
    /// The first of those that nothing excuses.
    pub first: Vec<String>,
    /// The slowest answer to a flow that lived long, in milliseconds.
    pub slowest_ms: f64,
    /// From the beginning of a new flow to its answer, in milliseconds: of 99 in 100.
    pub p99_ms: f64,
    /// How long all of it took, in seconds.
    pub took_s: f64,
    /// For each death of a backend, how long it had slots, in milliseconds.
    pub detected_ms: Vec<f64>,
}

/// How many are shown.
const SHOWN: usize = 5;

/// What a report is made of.
pub(super) struct Sheet {
    pub(super) casualties: Vec<Casualty>,
    pub(super) long: u64,
    pub(super) new: u64,
    pub(super) slowest_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) start: Instant,
}

impl Sheet {
    /// Of nothing.
    pub(super) fn new() -> Self {
        Self { casualties: Vec::new(), long: 0, new: 0, slowest_ms: 0.0, p99_ms: 0.0, start: Instant::now() }
    }

    /// Adds flows that lived long; `opened` is when their clock began.
    pub(super) fn add_long(&mut self, group: Group, report: long::Report, opened: Instant) {
        self.long += report.flows;
        self.slowest_ms = self.slowest_ms.max(report.slowest_ms);
        self.casualties.extend(report.ends.into_iter().map(|end| Casualty {
            group,
            backend: end.backend,
            client: end.client,
            at: after(opened, end.at_ms),
            how: format!("{:?}", end.outcome),
        }));
    }

    /// Adds new flows; `begun` is when their clock began.
    pub(super) fn add_new(&mut self, report: churn::Report, begun: Instant) {
        self.new += report.flows;
        self.p99_ms = report.p99_ms;
        let known = report.losses.len() as u64;
        let lost = |at, how| Casualty { group: Group::New, backend: String::new(), client: None, at, how };
        self.casualties
            .extend(report.losses.into_iter().map(|loss| lost(after(begun, loss.at_ms), loss.why)));
        self.casualties.extend((known..report.lost).map(|_| lost(begun, "its task has ended".to_owned())));
    }

    /// The verdict.
    pub(super) fn judge(self, plane: Plane, event: Event, excuse: &Excuse, detected: &[Duration]) -> Report {
        let (excused, broken): (Vec<_>, Vec<_>) = self.casualties.into_iter().partition(excuse);
        let mut counts = BTreeMap::new();
        for casualty in excused {
            *counts.entry(casualty.group).or_default() += 1;
        }
        let told = |casualty: &Casualty| {
            let Casualty { group, backend, client, at, how } = casualty;
            let at = at.saturating_duration_since(self.start).as_secs_f64();
            format!("{group:?} of {backend:?} from {client:?} at {at:.3} s: {how}")
        };
        Report {
            plane,
            event,
            long: self.long,
            new: self.new,
            broken: broken.len() as u64,
            broken_share_below: bound::upper(broken.len() as u64, self.long + self.new),
            excused: counts,
            first: broken.iter().take(SHOWN).map(told).collect(),
            slowest_ms: self.slowest_ms,
            p99_ms: self.p99_ms,
            took_s: self.start.elapsed().as_secs_f64(),
            detected_ms: detected.iter().map(|took| took.as_secs_f64() * 1000.0).collect(),
        }
    }
}

fn after(start: Instant, milliseconds: f64) -> Instant {
    start + Duration::from_secs_f64(milliseconds / 1000.0)
}

impl Report {
    /// Whether nothing is broken that should not be; or, where a bug was planted, whether it was seen.
    pub fn is_as_it_should(&self) -> bool {
        if self.event.is_sabotage() { self.broken > 0 } else { self.broken == 0 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plane, event, long, new, broken, excused, slowest_ms, p99_ms, took_s, .. } = self;
        let below = self.broken_share_below * 100.0;
        write!(
            f,
            "{plane} {event}: {broken} of {long} long and {new} new flows broken (at most {below:.4} %)"
        )?;
        write!(
            f,
            ", excused {excused:?}, slowest answer {slowest_ms:.0} ms, p99 of new {p99_ms:.1} ms, {took_s:.1} s"
        )?;
        if !self.detected_ms.is_empty() {
            write!(f, ", detected after {:.0?} ms", self.detected_ms)?;
        }
        if !self.first.is_empty() {
            write!(f, ", first {:#?}", self.first)?;
        }
        Ok(())
    }
}

/// Whether a report of a flow that is over says so.
pub(super) fn whole(report: &long::Report) -> bool {
    report.outcomes.keys().all(|outcome| *outcome == Outcome::Open)
}
