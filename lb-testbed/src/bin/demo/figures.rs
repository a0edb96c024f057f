//! What the demo found: the document of `--json`.

use std::time::Duration;

use lb_userspace::model::Plane;
use lb_userspace::model::status::{InterfacePlane, Status};
use serde::Serialize;

use crate::choice::Choice;
use crate::load::{CLIENTS, REQUESTS_PER_CONNECTION};

/// The whole document.
#[derive(Debug, Serialize)]
pub struct Document {
    /// Whether at least one plane was shown, and all went as it should on each that was.
    pub ok: bool,
    /// HTTP clients, one connection each.
    pub clients: u32,
    /// Then a client opens another connection.
    pub requests_per_connection: u32,
    /// In the order in which they were shown.
    pub planes: Vec<Shown>,
}

/// One plane.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The plane that was to be shown.
    pub plane: Choice,
    /// How that went.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of one plane's demo.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It was shown.
    Shown(Box<Figures>),
    /// This host does not offer it.
    Skipped {
        /// Why.
        reason: String,
    },
    /// It came to no figures.
    Failed {
        /// Why.
        reason: String,
    },
}

/// The figures of one plane.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Whether nothing was lost or cut but what the killed backend's death accounts for.
    pub ok: bool,
    /// The plane and its reason.
    pub chosen: Chosen,
    /// As fast as clients and machine can.
    pub full_load: FullLoad,
    /// One backend killed.
    pub kill: Kill,
    /// The same backend restored.
    pub restore: Restore,
    /// The daemon killed and started again; null on the proxy plane, which is the daemon.
    pub daemon_kill: Option<DaemonKill>,
}

/// What the status document says about planes.
#[derive(Debug, Serialize)]
pub struct Chosen {
    /// Of the service.
    pub plane: Option<Plane>,
    /// Of the service.
    pub reason: String,
    /// Of every interface.
    pub interfaces: Vec<InterfacePlane>,
}

/// What ended from one moment to the end of the load, the last request's end included.
#[derive(Debug, Serialize)]
pub struct Span {
    /// Its length.
    pub seconds: f64,
    /// Answered and lost ones.
    pub requests: u64,
    /// The same, a second.
    pub requests_per_s: f64,
    /// Requests refused, reset, closed, wrongly answered, or not answered within 5 s.
    pub lost: u64,
    /// Requests answered after more than a second.
    pub stalled: u64,
    /// Connections that were closed while no request was on them.
    pub cut: u64,
    /// How many of those lost or cut are no flow of a killed backend.
    pub unexplained: u64,
    /// From the request to its answer, with the connecting where one had to: the median.
    pub median_ms: f64,
    /// The same: of 99 in 100.
    pub p99_ms: f64,
    /// The same: the slowest.
    pub slowest_ms: f64,
    /// The longest time in which this machine, busy with something else, did not run the clients.
    pub paused_ms: f64,
}

/// What one backend answered.
#[derive(Debug, Serialize)]
pub struct Share {
    /// Its name.
    pub backend: String,
    /// Requests.
    pub requests: u64,
    /// Of all that were answered.
    pub percent: f64,
}

/// As fast as clients and machine can.
#[derive(Debug, Serialize)]
pub struct FullLoad {
    /// What our clients saw.
    #[serde(flatten)]
    pub span: Span,
    /// Who answered them.
    pub distribution: Vec<Share>,
    /// wrk's requests a second; null where it is not installed.
    pub wrk_requests_per_s: Option<f64>,
}

/// A backend's process was killed under load.
#[derive(Debug, Serialize)]
pub struct Kill {
    /// Its name.
    pub backend: String,
    /// From the kill on, beyond the grace of its old flows.
    #[serde(flatten)]
    pub span: Span,
    /// From the kill until no slot was the backend's any more.
    pub detected_ms: f64,
    /// From the kill until the last request was lost; null: none was.
    pub last_lost_ms: Option<f64>,
}

/// It was started again under load.
#[derive(Debug, Serialize)]
pub struct Restore {
    /// Its name.
    pub backend: String,
    /// From its start on, until some time after it had traffic again.
    #[serde(flatten)]
    pub span: Span,
    /// From when it listened until it answered a client.
    pub traffic_again_ms: f64,
}

/// The daemon was killed under load, and started again.
#[derive(Debug, Serialize)]
pub struct DaemonKill {
    /// From the kill until some time after the next daemon was ready.
    #[serde(flatten)]
    pub span: Span,
    /// How long there was none.
    pub without_ms: f64,
    /// From the next one's start until it had adopted what it found, and was ready.
    pub ready_ms: f64,
}

impl Document {
    /// What was found on some planes.
    pub fn new(planes: Vec<Shown>) -> Self {
        let is_ok = |shown: &Shown| match &shown.outcome {
            Outcome::Shown(figures) => Some(figures.ok),
            Outcome::Skipped { .. } => None,
            Outcome::Failed { .. } => Some(false),
        };
        let judged: Vec<bool> = planes.iter().filter_map(is_ok).collect();
        let ok = !judged.is_empty() && judged.iter().all(|ok| *ok);
        Self { ok, clients: CLIENTS, requests_per_connection: REQUESTS_PER_CONNECTION, planes }
    }
}

impl Figures {
    /// Judges them: `ok` holds where nothing is unexplained and everybody had a share.
    pub fn judge(mut self) -> Self {
        let spans = [&self.full_load.span, &self.kill.span, &self.restore.span];
        let daemon = self.daemon_kill.iter().map(|kill| &kill.span);
        let unexplained: u64 = spans.into_iter().chain(daemon).map(|span| span.unexplained).sum();
        self.ok = unexplained == 0 && self.full_load.distribution.iter().all(|share| share.requests > 0);
        self
    }
}

impl Chosen {
    /// Of the only service.
    pub fn of(status: &Status) -> Self {
        let service = status.services.first();
        Self {
            plane: service.and_then(|service| service.plane),
            reason: service.map(|service| service.reason.clone()).unwrap_or_default(),
            interfaces: status.planes.clone(),
        }
    }

    /// Interfaces that have the same plane, together, with the reason of the first: those of others differ in
    /// the route that brought them in.
    pub fn by_plane(&self) -> Vec<(Vec<&str>, &str)> {
        let mut groups: Vec<(Option<Plane>, Vec<&str>, &str)> = Vec::new();
        for on in &self.interfaces {
            match groups.iter_mut().find(|(plane, ..)| *plane == on.plane) {
                Some((_, interfaces, _)) => interfaces.push(&on.interface),
                None => groups.push((on.plane, vec![&on.interface], &on.reason)),
            }
        }
        groups.into_iter().map(|(_, interfaces, reason)| (interfaces, reason)).collect()
    }
}

/// As all figures are given.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shown_or_something_failed_is_not_ok() {
        let skipped = || Outcome::Skipped { reason: "no rights".into() };
        let failed = || Outcome::Failed { reason: "no daemon".into() };
        let ok = |outcomes: Vec<Outcome>| {
            let shown = outcomes.into_iter().map(|outcome| Shown { plane: Choice::Tc, outcome });
            Document::new(shown.collect()).ok
        };
        assert!(!ok(vec![]) && !ok(vec![skipped()]) && !ok(vec![skipped(), failed()]));
    }
}
