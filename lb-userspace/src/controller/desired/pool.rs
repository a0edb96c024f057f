//! One pool with its backends: the settings that they share, and how each of them is judged beside the others.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::backend::{Circumstances, Judged, Presence, Record};
use super::superseded;
use crate::controller::outlier::Ejector;
use crate::health::Target;
use crate::model::{self, AllDown, Check, Grace, Health, SlowStart};

/// What is known of a pool.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) health: Health,
    /// The shortest of the services that use it.
    pub(super) grace: Grace,
    pub(super) slow_start: SlowStart,
    /// That of all services that use it.
    pub(super) all_down: AllDown,
    pub(super) ejector: Option<Ejector>,
    /// In config order, then those added at run time, then those that leave.
    pub(super) records: Vec<Record>,
}

impl Pool {
    /// Whether [`Self::expire`] has anything to do.
    pub(super) fn has_expired(&self, drain_spread: Duration, now: Instant) -> bool {
        self.records.iter().any(|record| {
            let gone = record.presence == Presence::Absent && record.configured.is_none();
            gone || record.has_left(drain_spread, now) || record.health.was_up && !record.is_present()
        })
    }

    /// Forgets backends whose time has passed.
    pub(super) fn expire(&mut self, drain_spread: Duration, now: Instant) {
        for record in &mut self.records {
            if record.has_left(drain_spread, now) {
                record.presence = Presence::Absent;
            }
            // Whoever comes back is a newcomer.
            record.health.was_up &= record.is_present();
        }
        self.records.retain(|record| record.presence != Presence::Absent || record.configured.is_some());
    }

    /// The next moment after `now` at which [`Self::fold`] changes by itself.
    pub(super) fn next_deadline(&self, drain_spread: Duration, now: Instant) -> Option<Instant> {
        let records = self.records.iter();
        let deadlines = records
            .flat_map(|record| record.deadlines(self.grace, &self.slow_start, drain_spread, now))
            .chain(self.ejector.iter().flat_map(Ejector::deadlines));
        deadlines.filter(|deadline| *deadline > now).min()
    }

    /// Backends that are checked and have no verdict yet.
    pub(super) fn unjudged(&self) -> impl Iterator<Item = SocketAddr> {
        let checked = self.health.check != Check::None;
        let unjudged = self.records.iter().filter(move |record| {
            checked && record.is_present() && record.health.verdict.is_none() && !record.health.assumed_up
        });
        unjudged.map(|record| record.address)
    }

    pub(super) fn targets(&self, name: &str) -> Vec<Target> {
        let present = self.records.iter().filter(|record| self.health.asks() && record.is_present());
        let target = |record: &Record| Target {
            pool: name.to_owned(),
            address: record.address,
            was_up: record.health.was_up,
            health: self.health.clone(),
        };
        present.map(target).collect()
    }

    pub(super) fn is_overridden(&self) -> bool {
        self.records.iter().any(Record::is_overridden)
    }

    pub(super) fn fold(&self, drain_spread: Duration, now: Instant) -> Vec<Judged> {
        let check = &self.health.check;
        let ejection = |record: &Record| self.ejector.as_ref()?.ejection(record.address, now);
        let count = |is: &dyn Fn(&Record) -> bool| self.records.iter().filter(|record| is(record)).count();
        let left = count(&|record| record.is_fit(check) && ejection(record).is_none());
        let wanted = count(&|record| record.is_wanted());
        let panic = self.ejector.as_ref().is_some_and(|ejector| ejector.panics(left, wanted));
        let takes = |record: &Record| record.is_fit(check) && (panic || ejection(record).is_none());
        let serve_all = self.all_down == AllDown::ServeAll && !self.records.iter().any(takes);
        // A backup is spare while another backend takes new flows, or would have to.
        let spare = match serve_all {
            true => self.records.iter().any(|record| !record.is_backup() && record.is_wanted()),
            false => self.records.iter().any(|record| !record.is_backup() && takes(record)),
        };
        let records = self.records.iter().filter(|record| record.presence != Presence::Absent);
        let judge = |record: &Record| {
            record.judge(&Circumstances {
                check,
                grace: self.grace,
                drain_spread,
                slow_start: &self.slow_start,
                spare: spare && record.is_backup(),
                ejection: ejection(record),
                panic,
                serve_all,
                now,
            })
        };
        records.map(judge).collect()
    }
}

/// The records of a pool after a reload; those that the file no longer has leave until `leave`.
pub(super) fn merge(mut old: Vec<Record>, configured: &[model::Backend], leave: Instant) -> Vec<Record> {
    let mut records = Vec::new();
    for backend in configured {
        let known = old.iter().position(|record| record.address == backend.address);
        let mut record = known.map_or_else(|| Record::new(backend.address), |known| old.remove(known));
        if record.configured.is_none() {
            // New in the file: back from leaving, or added at run time before.
            record.presence = Presence::Present;
        }
        if superseded(record.configured.as_ref().map(|old| old.weight), Some(backend.weight)) {
            record.weight = None;
        }
        record.configured = Some(backend.clone());
        records.push(record);
    }
    let configured: BTreeSet<_> = configured.iter().map(|backend| backend.address).collect();
    for mut record in old.into_iter().filter(|record| !configured.contains(&record.address)) {
        if record.configured.take().is_some() {
            if record.is_present() {
                record.presence = Presence::Leaving(record.drain.map_or(leave, |drain| drain.min(leave)));
            }
            record.weight = None;
            record.drain = None;
        }
        if record.presence != Presence::Absent {
            records.push(record);
        }
    }
    records
}
