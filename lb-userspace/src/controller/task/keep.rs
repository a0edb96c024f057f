//! What was changed at run time: taken over from a last daemon, and told to whoever keeps it for a next one.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::{Controller, now};
use crate::controller::desired::Clock;
use crate::controller::request::RequestError;
use crate::data_plane::proxy::ProxyPlane;
use crate::model::Override;
use crate::model::status::KeptStatus;

/// How far the clocks may go apart before deadlines are written anew.
const DRIFT: Duration = Duration::from_secs(1);
/// How long an answer waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// Both clocks now.
pub(super) fn clock() -> Clock {
    Clock { wall: SystemTime::now(), process: now() }
}

impl<P: ProxyPlane + 'static> Controller<P> {
    /// Takes over what the last daemon kept, as far as it goes with this config.
    pub(super) fn restore(&mut self, overrides: &[Override]) {
        let left = self.pools.restore(overrides, self.clock);
        let mut all = self.pools.clone();
        left.iter().for_each(|kept| all.readd(kept, self.clock));
        let addresses = left.iter().try_for_each(|kept| self.check_address(kept.address));
        if addresses.and_then(|()| self.check_pools(&mut all)).is_ok() {
            self.pools = all;
            return;
        }
        for kept in left {
            let mut one = self.pools.clone();
            one.readd(kept, self.clock);
            match self.check_address(kept.address).and_then(|()| self.check_pools(&mut one)) {
                Ok(()) => self.pools = one,
                Err(error) => self.lose(kept, &error),
            }
        }
    }

    fn lose(&mut self, kept: &Override, error: &RequestError) {
        let (pool, backend) = (&kept.pool, kept.address);
        let lost =
            format!("backend {backend} of pool {pool:?}, as it was set at run time, is left out: {error}");
        tracing::warn!("{lost}");
        self.lost.push(lost);
    }

    /// Tells what a next daemon should find.
    pub(super) fn keep(&mut self) {
        let now = clock();
        let predicted = self.clock.wall(now.process);
        let drift = now.wall.duration_since(predicted).unwrap_or_else(|error| error.duration());
        if drift > DRIFT {
            self.clock = now;
        }
        let overrides = self.pools.overrides(self.clock, now.process);
        self.channels.outputs.overrides.send_if_modified(|snapshot| {
            let is_new = *snapshot.overrides != overrides;
            if is_new {
                snapshot.version += 1;
                snapshot.overrides = Arc::new(overrides);
            }
            is_new
        });
    }

    /// For the status document.
    pub(super) fn kept_status(&self) -> KeptStatus {
        let snapshot = self.channels.outputs.overrides.borrow();
        let failure = self.channels.saved.borrow().failure.clone();
        let failure =
            failure.map(|failure| format!("changes at run time would not survive a restart: {failure}"));
        KeptStatus {
            file: self.channels.file.clone(),
            changes: snapshot.overrides.iter().filter(|kept| kept.is_change()).count() as u64,
            problems: self.lost.iter().cloned().chain(failure).collect(),
        }
    }

    /// Waits until what was told last is on disk; why it is not.
    pub(super) fn kept(&self) -> impl Future<Output = Option<String>> + Send + use<P> {
        let version = self.channels.outputs.overrides.borrow().version;
        let mut saved = self.channels.saved.clone();
        async move {
            let failure = match timeout(PATIENCE, saved.wait_for(|saved| saved.version >= version)).await {
                Ok(Ok(saved)) => saved.failure.clone()?,
                Ok(Err(_)) => "the daemon is stopping".to_owned(),
                Err(_) => format!("the disk has not answered within {PATIENCE:?}"),
            };
            Some(format!("it is in force, but would not survive a restart: {failure}"))
        }
    }
}
