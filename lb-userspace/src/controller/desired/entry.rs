//! A pool with what was last made of it, so that one that does not change costs nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fold::Members;
use super::pool::Pool;
use crate::health::Target;

/// A pool in the controller's list.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Shared with copies that are made to see what a change would lead to.
    pool: Arc<Pool>,
    members: Members,
    targets: Arc<Vec<Target>>,
    /// Whether anything of a backend is not as the file says.
    is_overridden: bool,
    holds: Holds,
}

/// How long what was made of a pool holds.
#[derive(Clone, Copy, Debug)]
enum Holds {
    /// The pool has changed since.
    NoMore,
    Until(Instant),
    /// Until the pool changes.
    Ever,
}

impl Entry {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            pool: Arc::new(pool),
            members: Members::default(),
            targets: Arc::default(),
            is_overridden: true,
            holds: Holds::NoMore,
        }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn into_pool(self) -> Pool {
        Arc::unwrap_or_clone(self.pool)
    }

    /// The pool, to be changed.
    pub(super) fn change(&mut self) -> &mut Pool {
        self.holds = Holds::NoMore;
        self.note()
    }

    /// The pool, for what decides nothing.
    pub(super) fn note(&mut self) -> &mut Pool {
        Arc::make_mut(&mut self.pool)
    }

    /// Its backends as they are judged at `now`.
    pub(super) fn judge(&mut self, name: &str, drain_spread: Duration, now: Instant) -> Members {
        let holds = match self.holds {
            Holds::NoMore => false,
            Holds::Until(deadline) => now < deadline,
            Holds::Ever => true,
        };
        if !holds {
            self.expire(drain_spread, now);
            let members = self.pool.fold(drain_spread, now);
            if *self.members != members {
                self.members = Arc::new(members);
            }
            let targets = self.pool.targets(name);
            if *self.targets != targets {
                self.targets = Arc::new(targets);
            }
            self.is_overridden = self.pool.is_overridden();
            self.holds = self.pool.next_deadline(drain_spread, now).map_or(Holds::Ever, Holds::Until);
        }
        Arc::clone(&self.members)
    }

    /// Forgets backends whose time has passed.
    pub(super) fn expire(&mut self, drain_spread: Duration, now: Instant) {
        if self.pool.has_expired(drain_spread, now) {
            self.change().expire(drain_spread, now);
        }
    }

    /// The next moment after `now` at which the judgement changes by itself.
    pub(super) fn next_deadline(&self, drain_spread: Duration, now: Instant) -> Option<Instant> {
        match self.holds {
            Holds::NoMore => self.pool.next_deadline(drain_spread, now),
            Holds::Until(deadline) => Some(deadline),
            Holds::Ever => None,
        }
    }

    /// Who is checked, as it was at the last judgement.
    pub(super) fn targets(&self) -> &Arc<Vec<Target>> {
        &self.targets
    }

    /// Whether anything of a backend may not be as the file says.
    pub(super) fn is_overridden(&self) -> bool {
        self.is_overridden || matches!(self.holds, Holds::NoMore)
    }
}
