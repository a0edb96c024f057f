//! One backend of a pool: what the file, the operator and the health check say of it, and what follows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::agent::Agent;
use super::slow_start;
use crate::controller::outlier::Ejection;
use crate::model::status::LastCheck;
use crate::model::{self, BackendState, Check, Cut, Grace, Member, Order, Protocol, SlowStart};

/// What is known of one backend.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) address: SocketAddr,
    /// From the file; `None`: added at run time, or removed from the file.
    pub(super) configured: Option<model::Backend>,
    /// Set at run time; wins over the file's.
    pub(super) weight: Option<u16>,
    pub(super) presence: Presence,
    /// The deadline of a drain.
    pub(super) drain: Option<Instant>,
    pub(super) health: Health,
    /// What adaptive weights leave of its weight, 0 to 1.
    pub(super) factor: f64,
    /// When it came up, while its slow start lasts.
    pub(super) rising: Option<Instant>,
}

/// Whether a backend belongs to its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It does.
    Present,
    /// It was removed; its old flows stay until then.
    Leaving(Instant),
    /// The file has it, but it was removed at run time.
    Absent,
}

/// What the health check says.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    pub(super) verdict: Option<bool>,
    /// When a previous daemon checked it.
    pub(super) was_up: bool,
    /// Counts while there is no verdict.
    pub(super) assumed_up: bool,
    /// Since when it is down.
    pub(super) down_since: Option<Instant>,
    pub(super) last_check: Option<LastCheck>,
    /// What its agent says.
    pub(super) agent: Agent,
}

/// What decides about a backend beside itself.
pub(super) struct Circumstances<'p> {
    pub(super) check: &'p Check,
    pub(super) grace: Grace,
    /// How long the cut of a drained one takes.
    pub(super) drain_spread: Duration,
    pub(super) slow_start: &'p SlowStart,
    /// It is a backup that is not needed.
    pub(super) spare: bool,
    pub(super) ejection: Option<&'p Ejection>,
    /// So few are left that ejections do not count.
    pub(super) panic: bool,
    /// Nobody is fit, and those that are down are served.
    pub(super) serve_all: bool,
    pub(super) now: Instant,
}

/// A backend with its state: what the planes are told of it and what `status` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Address, effective weight, and whether its old flows may stay.
    pub member: Member,
    /// As configured or set at run time.
    pub weight: u16,
    /// What its agent leaves of it.
    pub whole_weight: u16,
    /// Its state.
    pub state: BackendState,
    /// Why it is in this state.
    pub reason: String,
    /// Whether the health check has failed it.
    pub failed: bool,
    /// Removed from the pool: until when its old flows may stay.
    pub leaving: Option<Instant>,
    /// Drained: until when its old flows may stay.
    pub drain: Option<Instant>,
    /// The weight that the file has for it; none: the file does not have the backend.
    pub configured: Option<u16>,
    /// What is not as the file says: `added`, `weight`, `drain`.
    pub overrides: Vec<&'static str>,
}

impl Judged {
    /// Which of its old flows of a protocol may not stay. UDP flows do not outlive a failure: no reset would tell their
    /// clients that the backend does not hear them.
    pub fn cut(&self, protocol: Protocol) -> Cut {
        if protocol == Protocol::Udp && self.failed { Cut::ALL } else { self.member.cut }
    }

    /// Whether any of its old flows of a protocol may stay.
    pub fn keeps(&self, protocol: Protocol) -> bool {
        !self.cut(protocol).is_all()
    }
}

impl Record {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            configured: None,
            weight: None,
            presence: Presence::Present,
            drain: None,
            health: Health::default(),
            factor: 1.0,
            rising: None,
        }
    }

    pub(super) fn weight(&self) -> u16 {
        self.weight.or(self.configured.as_ref().map(|backend| backend.weight)).unwrap_or(0)
    }

    pub(super) fn is_backup(&self) -> bool {
        self.configured.as_ref().is_some_and(|backend| backend.backup)
    }

    pub(super) fn is_present(&self) -> bool {
        self.presence == Presence::Present
    }

    /// Whether anything of it is not as the file says.
    pub(super) fn is_overridden(&self) -> bool {
        self.configured.is_none() || !self.is_present() || self.weight.is_some() || self.drain.is_some()
    }

    /// Whether the time of one that leaves has passed.
    pub(super) fn has_left(&self, drain_spread: Duration, now: Instant) -> bool {
        self.leaving().is_some_and(|until| until + drain_spread <= now)
    }

    /// Until when its old flows stay after it was removed.
    pub(super) fn leaving(&self) -> Option<Instant> {
        match self.presence {
            Presence::Leaving(until) => Some(until),
            Presence::Present | Presence::Absent => None,
        }
    }

    /// When its old flows begin to be cut, removed or drained.
    fn dismissed(&self) -> Option<Instant> {
        self.leaving().or(self.drain)
    }

    /// What of a backend that is present is not as the file says.
    fn overrides(&self) -> Vec<&'static str> {
        let weight = self.configured.is_some() && self.weight.is_some();
        let words =
            [("added", self.configured.is_none()), ("weight", weight), ("drain", self.drain.is_some())];
        words.into_iter().filter(|(_, is_so)| *is_so).map(|(word, _)| word).collect()
    }

    /// `None`: not judged yet.
    fn is_up(&self, check: &Check) -> Option<bool> {
        match check {
            _ if self.health.agent.down.is_some() => Some(false),
            Check::None => Some(true),
            _ => self.health.verdict.or(self.health.assumed_up.then_some(true)),
        }
    }

    /// Whether nobody has taken it out of service.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_present() && self.drain.is_none() && self.weight() > 0 && self.health.agent.is_ready()
    }

    /// Whether it would take new flows if it were no backup and not ejected.
    pub(super) fn is_fit(&self, check: &Check) -> bool {
        self.is_wanted() && self.is_up(check) == Some(true)
    }

    /// Moments at which the judgement changes by itself; of those that lie before `now` one may be missing.
    pub(super) fn deadlines(
        &self,
        grace: Grace,
        slow_start: &SlowStart,
        drain_spread: Duration,
        now: Instant,
    ) -> impl Iterator<Item = Instant> {
        let rises = self.rising.and_then(|since| slow_start::next_step(slow_start, since, now));
        let cuts = self.dismissed().and_then(|deadline| Cut::next(deadline, drain_spread, now));
        [cuts, self.cut_at(grace), rises].into_iter().flatten()
    }

    /// Until its slow start ends.
    fn rising_for(&self, slow_start: &SlowStart, now: Instant) -> Option<Duration> {
        let rest = slow_start::rest(slow_start, self.rising?, now);
        (!rest.is_zero()).then(|| Duration::from_secs(rest.as_secs_f64().ceil() as u64))
    }

    /// The weight that new flows go by: at least 1 where the weight is.
    fn effective(&self, slow_start: &SlowStart, now: Instant) -> u32 {
        let risen = self.rising.map_or(1.0, |since| slow_start::part(slow_start, since, now));
        let weight = f64::from(self.whole_weight()) * self.factor * risen;
        (weight.round() as u32).max(u32::from(self.whole_weight() > 0))
    }

    /// The weight that its agent leaves.
    fn whole_weight(&self) -> u16 {
        self.health.agent.scale(self.weight())
    }

    /// When a failure moves its old flows.
    fn cut_at(&self, grace: Grace) -> Option<Instant> {
        match grace {
            Grace::For(grace) => self.health.down_since?.checked_add(grace),
            Grace::Forever => None,
        }
    }

    pub(super) fn judge(&self, circumstances: &Circumstances<'_>) -> Judged {
        let Circumstances { check, grace, slow_start, spare, ejection, panic, serve_all, now, .. } =
            *circumstances;
        let fit = self.is_fit(check);
        let served_down = serve_all && self.is_wanted() && !fit && !spare;
        let cut_by_failure = !served_down && self.cut_at(grace).is_some_and(|at| at <= now);
        let old_flows = if cut_by_failure { "old flows were moved" } else { "old flows stay" };
        let leaving = self.leaving();
        let cut = match self.dismissed() {
            _ if cut_by_failure => Cut::ALL,
            Some(deadline) => Cut::at(deadline, circumstances.drain_spread, now),
            None => Cut::NONE,
        };
        let until_then = match self.dismissed() {
            _ if cut.is_all() => "were moved",
            Some(deadline) if deadline <= now => "are being cut, one after another",
            _ => "stay until the deadline",
        };
        let (state, reason) = if leaving.is_some() {
            (BackendState::Draining, format!("removed from the pool; old flows {until_then}"))
        } else if self.drain.is_some() {
            (BackendState::Draining, format!("drained by an operator; old flows {until_then}"))
        } else if self.weight() == 0 {
            let whose = if self.weight.is_some() { "set at run time" } else { "in the config" };
            (BackendState::Maintenance, format!("weight 0 {whose}; {old_flows}"))
        } else if let Some(ejection) = ejection.filter(|_| fit) {
            let time = humantime::format_duration(ejection.time);
            let why = &ejection.why;
            match (panic, serve_all) {
                (true, _) => (BackendState::Up, format!("{why}; not ejected, since too few others are left")),
                (_, true) => (BackendState::Up, format!("{why}; not ejected, since nobody else is left")),
                _ => (BackendState::Down, format!("ejected for {time}: {why}; old flows stay")),
            }
        } else {
            let agent = &self.health.agent;
            match (self.is_up(check), &self.health.last_check) {
                (None, _) => (BackendState::Starting, "not checked yet".to_owned()),
                (Some(false), _) if self.health.verdict != Some(false) => {
                    let said = agent.down.as_deref().unwrap_or_default();
                    (BackendState::Down, format!("its agent says {said}; {old_flows}"))
                }
                (Some(false), Some(last)) if !last.ok => {
                    (BackendState::Down, format!("health check: {}; {old_flows}", last.detail))
                }
                (Some(false), _) => {
                    (BackendState::Down, format!("not enough successful checks yet; {old_flows}"))
                }
                (Some(true), _) if agent.order == Order::Maintenance => {
                    (BackendState::Maintenance, "its agent says maint; old flows stay".to_owned())
                }
                (Some(true), _) if agent.order == Order::Drain => {
                    (BackendState::Draining, "its agent says drain; old flows stay".to_owned())
                }
                (Some(true), _) if !agent.is_ready() => {
                    let share = agent.share().unwrap_or_default();
                    (BackendState::Draining, format!("{share}; old flows stay"))
                }
                (Some(true), _) if spare => {
                    (BackendState::Up, "backup: takes no new flows while another backend is up".to_owned())
                }
                (Some(true), _) if self.is_backup() => {
                    (BackendState::Up, "backup in use: no other backend is up".to_owned())
                }
                (Some(true), _) if let Some(rest) = self.rising_for(slow_start, now) => {
                    let rest = humantime::format_duration(rest);
                    (BackendState::Starting, format!("slow start: has its whole weight in {rest}"))
                }
                (Some(true), _) if let Some(share) = agent.share() => (BackendState::Up, share),
                (Some(true), _) if *check == Check::None => (BackendState::Up, "not checked".to_owned()),
                (Some(true), _) if self.health.verdict.is_none() => {
                    (BackendState::Up, "not checked yet; counts as up until then".to_owned())
                }
                (Some(true), _) => (BackendState::Up, "the health check passes".to_owned()),
            }
        };
        let takes = if serve_all { self.is_wanted() } else { fit && (panic || ejection.is_none()) };
        let reason = if served_down {
            format!("{reason}; takes new flows all the same, since all are down")
        } else if self.factor < 1.0 && state == BackendState::Up && takes && !spare {
            format!(
                "{reason}; has {:.0} % of its weight, since it is slower or busier than others",
                self.factor * 100.0
            )
        } else {
            reason
        };
        let weight = if takes && !spare { self.effective(slow_start, now) } else { 0 };
        Judged {
            member: Member { address: self.address, weight, cut },
            weight: self.weight(),
            whole_weight: self.whole_weight(),
            state,
            reason,
            failed: self.health.down_since.is_some() && !served_down,
            leaving,
            drain: self.drain,
            configured: self.configured.as_ref().map(|backend| backend.weight),
            overrides: if self.is_present() { self.overrides() } else { Vec::new() },
        }
    }
}

impl Health {
    /// Why the last check failed; none: it did not.
    pub(super) fn complaint(&self) -> Option<&str> {
        self.last_check.as_ref().filter(|last| !last.ok).map(|last| last.detail.as_str())
    }

    /// Works out since when it is down, after a change of what is known.
    pub(super) fn reckon(&mut self, now: Instant) {
        if self.verdict == Some(false) || self.agent.down.is_some() {
            self.down_since.get_or_insert(now);
        } else {
            self.down_since = None;
        }
    }
}
