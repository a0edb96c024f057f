//! What was changed at run time and who is ejected, for a next daemon, and from the last one.
//!
//! A restart is like a reload from the file that the last daemon had read to the one that this daemon reads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::backend::{Presence, Record};
use super::{Pools, superseded};
use crate::model::Override;

/// Both clocks at one moment: deadlines of a process become those of the wall, the same ones each time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The wall's.
    pub wall: SystemTime,
    /// The process's.
    pub process: Instant,
}

impl Clock {
    /// A deadline as the wall has it; the year 1970 where it cannot say it.
    pub fn wall(&self, deadline: Instant) -> SystemTime {
        let ahead = self.wall.checked_add(deadline.saturating_duration_since(self.process));
        let at = ahead.and_then(|at| at.checked_sub(self.process.saturating_duration_since(deadline)));
        at.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// A deadline of the wall, not before this moment, and at most `most` after it: the wall's clock may have been
    /// set since.
    fn process(&self, deadline: SystemTime, most: Duration) -> Instant {
        self.process + deadline.duration_since(self.wall).unwrap_or_default().min(most)
    }
}

impl Pools {
    /// Every backend that is not, or not only, as the file says, and every one that is ejected at `now`.
    pub fn overrides(&self, clock: Clock, now: Instant) -> Vec<Override> {
        let wall = |deadline: Option<Instant>| deadline.map(|deadline| clock.wall(deadline));
        let of = |pool: &str, record: &Record, ejected: Option<&(Instant, u32)>| {
            let file = record.configured.as_ref().map(|backend| backend.weight);
            (record.is_overridden() || ejected.is_some()).then(|| Override {
                pool: pool.to_owned(),
                address: record.address,
                file,
                weight: record.weight,
                drain: wall(record.drain),
                removed: !record.is_present(),
                leaving: wall(record.leaving()),
                ejected: wall(ejected.map(|(until, _)| *until)),
                ejections: ejected.map_or(0, |(_, row)| *row),
            })
        };
        let kept = self.pools.iter().flat_map(|(name, entry)| {
            let ejections = entry.pool().ejector.iter().flat_map(|ejector| ejector.ejections(now));
            let ejected: BTreeMap<_, _> =
                ejections.map(|(backend, until, row)| (backend, (until, row))).collect();
            let is_kept = entry.is_overridden() || !ejected.is_empty();
            let records = entry.pool().records.iter().filter(|_| is_kept);
            records.filter_map(|record| of(name, record, ejected.get(&record.address))).collect::<Vec<_>>()
        });
        kept.collect()
    }

    /// Takes over what the last daemon kept. What would add a backend, or take a weight of 0 from one, is left to
    /// the caller, who has to see whether it still fits, and can then ask for it by [`Self::readd`].
    pub fn restore<'o>(&mut self, overrides: &'o [Override], clock: Clock) -> Vec<&'o Override> {
        let most = self.drain_timeout;
        let process = |deadline: Option<SystemTime>| deadline.map(|deadline| clock.process(deadline, most));
        let mut left = Vec::new();
        for kept in overrides {
            let Some(pool) = self.pool(&kept.pool) else { continue };
            if let (Some(ejector), Some(until)) = (&mut pool.ejector, kept.ejected) {
                ejector.resume(kept.address, kept.ejections, |most| clock.process(until, most));
            }
            let (drain, leaving) = (process(kept.drain), process(kept.leaving));
            let record = pool.records.iter_mut().find(|record| record.address == kept.address);
            match (record, kept.file) {
                (Some(record), file) => {
                    let configured = record.configured.as_ref().map(|backend| backend.weight);
                    record.drain = drain;
                    if file.is_none() {
                        // The file has it now: back from leaving, or added at run time before.
                        continue;
                    }
                    record.presence = match (kept.removed, leaving) {
                        (true, Some(until)) => Presence::Leaving(until),
                        (true, None) => Presence::Absent,
                        (false, _) => Presence::Present,
                    };
                    if superseded(file, configured) {
                        continue;
                    }
                    if configured == Some(0) && kept.weight.is_some_and(|weight| weight > 0) {
                        left.push(kept);
                    } else {
                        record.weight = kept.weight;
                    }
                }
                (None, None) if !kept.removed => left.push(kept),
                // The file has dropped it, or it was leaving: its old flows have the rest of their time.
                (None, _) => {
                    let until = leaving.or(drain).unwrap_or(clock.process + most);
                    pool.records
                        .push(Record { presence: Presence::Leaving(until), ..Record::new(kept.address) });
                }
            }
        }
        left
    }

    /// One of those that [`Self::restore`] has left.
    pub fn readd(&mut self, kept: &Override, clock: Clock) {
        let most = self.drain_timeout;
        let Some(pool) = self.pool(&kept.pool) else { return };
        let known = pool.records.iter_mut().find(|record| record.address == kept.address);
        let record = match known {
            Some(record) => record,
            None => pool.records.push_mut(Record::new(kept.address)),
        };
        record.weight = kept.weight;
        record.drain = kept.drain.map(|drain| clock.process(drain, most));
    }

    /// Lets go of the backends that leave and have no flows left: of which `has_flows` knows nothing.
    pub fn dismiss(&mut self, now: Instant, has_flows: impl Fn(&str, SocketAddr) -> bool) {
        for (name, entry) in &mut self.pools {
            for record in &mut entry.change().records {
                if matches!(record.presence, Presence::Leaving(_)) && !has_flows(name, record.address) {
                    record.presence = Presence::Absent;
                }
            }
            entry.expire(self.drain_spread, now);
        }
    }

    /// Backends of a pool that the file has and that were removed at run time.
    pub fn removed(&self, pool: &str) -> Vec<SocketAddr> {
        let records = self.pools.get(pool).into_iter().flat_map(|entry| &entry.pool().records);
        let removed = records.filter(|record| record.configured.is_some() && !record.is_present());
        removed.map(|record| record.address).collect()
    }
}
