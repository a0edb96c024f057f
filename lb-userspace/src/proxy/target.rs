//! Where the new connections of one listener go: a worker's own view of a membership, with its scheduler.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Cut, Listen};

use super::counters::Counters;
use super::membership::{Backend, Membership};
use super::schedule::{RoundRobin, Schedule};
use super::transfer::Patience;

/// A membership and a scheduler over it.
#[derive(Debug)]
pub(super) struct Target {
    /// Of the listen address.
    pub(super) counters: Counters,
    membership: Arc<Membership>,
    schedule: Schedule,
    worker: usize,
}

/// A backend for one connection, and how to treat it.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) backend: Arc<Backend>,
    pub(super) connect_timeout: Duration,
    pub(super) patience: Patience,
}

impl Target {
    pub(super) fn new(membership: Arc<Membership>, counters: Counters, worker: usize) -> Self {
        Self { counters, schedule: schedule(&membership, worker), membership, worker }
    }

    /// Takes a membership, unless it is the one that is there.
    pub(super) fn update(&mut self, membership: &Arc<Membership>) {
        if Arc::ptr_eq(membership, &self.membership) {
            return;
        }
        self.membership = Arc::clone(membership);
        match (&mut self.schedule, &membership.table) {
            (Schedule::RoundRobin(turns), None) => turns.update(&membership.service.members),
            _ => self.schedule = schedule(membership, self.worker),
        }
    }

    /// A backend that is none of `tried`.
    pub(super) fn pick(&mut self, client: SocketAddr, tried: &[SocketAddr]) -> Option<Choice> {
        let Membership { service, backends, .. } = &*self.membership;
        let tried: Vec<usize> =
            (0..).zip(backends).filter(|(_, b)| tried.contains(&b.address)).map(|(i, _)| i).collect();
        let backend = backends.get(self.schedule.pick(client, &tried)?)?;
        Some(Choice {
            backend: Arc::clone(backend),
            connect_timeout: service.connect_timeout,
            patience: Patience { idle: service.idle_timeout, closing: service.closing_timeout },
        })
    }

    /// Where the clients come to.
    pub(super) fn listen(&self) -> Listen {
        self.membership.listen
    }

    /// Cuts this much of the connections of the membership, on all workers.
    pub(super) fn cut(&self, cut: Cut) {
        for backend in &self.membership.backends {
            backend.set_cut(cut);
        }
    }
}

fn schedule(membership: &Membership, worker: usize) -> Schedule {
    match &membership.table {
        Some(table) => Schedule::Maglev(Arc::clone(table)),
        None => Schedule::RoundRobin(RoundRobin::new(&membership.service.members, worker)),
    }
}
