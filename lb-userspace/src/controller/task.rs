//! The controller's task: the only place of the controller that reads clocks, waits, or calls a plane.
//!
//! Everything that may change the desired state arrives on a channel or as a deadline and ends in
//! `reconcile`: fold, place, plan, apply. Calls that block are made off the reactor.

mod chores;
mod clients;
mod follow;
mod inputs;
mod keep;
mod planes;
mod preview;
mod reconcile;
mod requests;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::damper::{Cause, Damper};
use super::desired::{Clock, Fold, Pools};
use super::newcomers::Newcomers;
use super::placement::Placement;
use crate::config::Config;
use crate::data_plane::proxy::ProxyPlane;
use crate::health::{Observation, Role};
use crate::model::{Condition, Order, Report};
pub use chores::AUDIT;
use chores::Chores;
use follow::Follow;
use inputs::Channels;
pub use inputs::{About, Inputs, Kept, Outputs, ParseConfig, Progress, ReadConfig};
use planes::{Kernel, Proxy};
use reconcile::Grounds;
pub use start::StartError;

/// First and longest pause before what a plane refused is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The one owner of desired and applied state.
pub struct Controller<P> {
    config: Config,
    in_force: watch::Sender<Config>,
    pools: Pools,
    clock: Clock,
    /// What of the changes of a last daemon could not be taken over, in words.
    lost: Vec<String>,
    /// Of the moment `folded_at`.
    fold: Fold,
    folded_at: Instant,
    placements: BTreeMap<String, Placement>,
    /// What they were decided from, beside the config and who is in the pools.
    grounds: Option<Grounds>,
    /// `Err`: why there is no kernel plane.
    kernel: Result<Kernel, String>,
    proxy: Proxy<P>,
    channels: Channels,
    chores: Chores,
    follow: Follow,
    /// When the connections of clients are next looked at.
    watch: Instant,
    retry: Option<Retry>,
    damper: Damper,
    newcomers: Newcomers,
}

/// What became of judgements.
#[derive(Debug, Default)]
struct Seen {
    /// A backend must not get new flows any more.
    failure: bool,
    /// Where something changed. Alone that can wait a moment: a backend is up again, or should have another weight.
    changed: BTreeSet<Cause>,
    /// How many checks there were.
    checks: usize,
}

/// Whether what was observed may take a backend out.
fn is_failure(observation: &Observation) -> bool {
    let Report { order, condition, .. } = &observation.report;
    let is_down = observation.role == Role::Check && !observation.up;
    is_down || matches!(condition, Some(Condition::Down(_))) || !matches!(order, None | Some(Order::Ready))
}

/// When to try again what failed.
#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    pause: Duration,
}

impl<P: ProxyPlane + 'static> Controller<P> {
    /// The config in force: the first one, then each that a reload has accepted.
    pub fn in_force(&self) -> watch::Receiver<Config> {
        self.in_force.subscribe()
    }

    /// Runs until `stop` is cancelled; hands the proxy plane back, so that its connections can be drained.
    /// The kernel planes stay as they are and go on forwarding.
    pub async fn run(mut self, stop: CancellationToken) -> Option<P> {
        tokio::select! {
            () = stop.cancelled() => return self.proxy.into_plane(),
            () = self.first_look() => {}
        }
        self.reconcile().await;
        while !stop.is_cancelled() {
            let wake = self.next_wake();
            tokio::select! {
                () = stop.cancelled() => {}
                Some(request) = self.channels.requests.recv() => self.answer(request).await,
                Some(observation) = self.channels.observations.recv() => {
                    let seen = self.observe(observation);
                    if seen.failure {
                        self.reconcile().await;
                    } else {
                        self.reconcile_damped(seen.changed).await;
                    }
                }
                Ok(()) = self.channels.facts.changed() => self.reconcile_damped([Cause::Network]).await,
                Ok(()) = self.channels.planes.changed() => self.reconcile().await,
                () = sleep_until(wake.into()) => self.wake().await,
            }
        }
        self.proxy.into_plane()
    }

    /// As [`Self::reconcile`] where there is a cause, now or a little later: for what may flap.
    async fn reconcile_damped(&mut self, causes: impl IntoIterator<Item = Cause>) {
        let now = now();
        let admitted = causes.into_iter().filter(|cause| self.damper.admit(cause, now)).count();
        if admitted > 0 {
            self.reconcile().await;
        }
    }

    /// Takes in a health check and all that wait behind it.
    fn observe(&mut self, first: Observation) -> Seen {
        let now = now();
        let mut seen = Seen::default();
        let mut next = Some(first);
        while let Some(observation) = next {
            seen.checks += 1;
            self.follow.observe(&observation, now);
            let (pool, is_failure) = (observation.pool.clone(), is_failure(&observation));
            if self.pools.observe(observation, now) {
                seen.failure |= is_failure;
                seen.changed.insert(Cause::Pool(pool));
            }
            next = self.channels.observations.try_recv().ok();
        }
        seen
    }

    fn next_wake(&self) -> Instant {
        let deadlines = [
            self.next_fold(),
            self.retry.map(|retry| retry.at),
            self.kernel.is_ok().then(|| self.chores.next()),
            self.next_step(),
            self.pools.watched().next().map(|_| self.watch),
            self.damper.due(),
        ];
        // Without any deadline an hour is as good as never.
        deadlines.into_iter().flatten().min().unwrap_or_else(|| now() + Duration::from_secs(3600))
    }

    /// When the fold changes by itself.
    fn next_fold(&self) -> Option<Instant> {
        let pools = self.pools.next_deadline(self.folded_at);
        pools.into_iter().chain(self.newcomers.next_deadline(self.folded_at)).min()
    }

    /// Does what is due.
    async fn wake(&mut self) {
        let now = now();
        let mut due = self.next_fold().is_some_and(|deadline| deadline <= now);
        due |= self.retry.is_some_and(|retry| retry.at <= now);
        due |= self.do_chores(now).await;
        due |= self.follow(now).await;
        due |= self.watch_clients(now).await;
        due |= self.damper.take_due(now);
        if due {
            self.reconcile().await;
        }
    }

    /// Remembers that a plane refused something.
    fn try_again(&mut self) {
        let pause = self.retry.map_or(RETRY.0, |retry| (retry.pause * 2).min(RETRY.1));
        self.retry = Some(Retry { at: now() + pause, pause });
    }
}

/// The runtime's clock, which tests may pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
