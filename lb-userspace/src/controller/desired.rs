//! Who serves which pool, and how: config, run-time changes and health folded into one list per pool. Pure;
//! time is injected.
//!
//! What an operator changed at run time (a backend added or removed, a weight, a drain) wins over the file and
//! survives reloads and restarts, until the file says something new: another weight wins over one that was set at
//! run time, and what was changed of a backend is forgotten when the file drops it or its pool.

mod agent;
mod backend;
mod entry;
mod fold;
mod overrides;
mod pool;
mod slow_start;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use backend::Judged;
use backend::{Presence, Record};
use entry::Entry;
pub use fold::{Fold, Members};
pub use overrides::Clock;
use pool::{Pool, merge};

use super::outlier::{Attempts, Ejector};
use super::request::{BackendChange, RequestError};
use crate::config::Config;
use crate::health::{Observation, Role, Targets};
use crate::model::status::{AgentStatus, LastCheck};
use crate::model::{AllDown, Check, Grace, Weights};

/// All pools with what is known of their backends.
#[derive(Clone, Debug)]
pub struct Pools {
    pools: BTreeMap<String, Entry>,
    drain_timeout: Duration,
    drain_spread: Duration,
}

impl Pools {
    /// The pools of a config; no backend is judged yet.
    pub fn new(config: &Config, now: Instant) -> Self {
        let crate::config::Daemon { drain_timeout, drain_spread, .. } = config.daemon;
        let mut pools = Self { pools: BTreeMap::new(), drain_timeout, drain_spread };
        pools.reload(config, now);
        pools
    }

    /// Puts another config in force.
    pub fn reload(&mut self, config: &Config, now: Instant) {
        self.drain_timeout = config.daemon.drain_timeout;
        self.drain_spread = config.daemon.drain_spread;
        let leave = now + self.drain_timeout;
        let mut old = std::mem::take(&mut self.pools);
        for pool in &config.pools {
            let (mut records, mut ejector) = (Vec::new(), None);
            if let Some(old) = old.remove(&pool.name) {
                let old = old.into_pool();
                (records, ejector) = (old.records, old.ejector);
                for record in &mut records {
                    // Without a check it counted as up; it goes on doing so until the first one.
                    record.health.assumed_up |= old.health.check == Check::None;
                }
            }
            let mut records = merge(records, &pool.backends, leave);
            for health in records.iter_mut().map(|record| &mut record.health) {
                if pool.health.check == Check::None {
                    *health =
                        backend::Health { agent: std::mem::take(&mut health.agent), ..Default::default() };
                }
                if !pool.health.asks_agent() {
                    health.agent = agent::Agent::default();
                }
                health.reckon(now);
            }
            if pool.weights == Weights::Static {
                records.iter_mut().for_each(|record| record.factor = 1.0);
            }
            let (health, grace) = (pool.health.clone(), grace(config, &pool.name));
            let all_down = config.services.iter().find(|service| service.pool == pool.name);
            let all_down = all_down.map_or(AllDown::Refuse, |service| service.all_down);
            let ejector = pool.outlier.map(|settings| match ejector {
                Some(ejector) => ejector.with(settings),
                None => Ejector::new(settings),
            });
            let slow_start = pool.slow_start.clone();
            let entry = Pool { health, grace, slow_start, all_down, ejector, records };
            self.pools.insert(pool.name.clone(), Entry::new(entry));
        }
    }

    /// Changes one backend at run time.
    pub fn change(
        &mut self,
        pool: &str,
        address: SocketAddr,
        change: BackendChange,
        now: Instant,
    ) -> Result<(), RequestError> {
        let deadline = now + self.drain_timeout;
        let records = match self.pool(pool) {
            Some(pool) => &mut pool.records,
            None => {
                let names: Vec<_> = self.pools.keys().map(String::as_str).collect();
                return Err(RequestError::NoSuchPool(pool.to_owned(), names.join(", ")));
            }
        };
        let known = records.iter_mut().find(|record| record.address == address);
        if let BackendChange::Put { weight } = change {
            let record = match known {
                Some(record) => record,
                None => records.push_mut(Record::new(address)),
            };
            record.presence = Presence::Present;
            record.weight = Some(weight);
            return Ok(());
        }
        let no_such = || RequestError::NoSuchBackend(pool.to_owned(), address);
        let record = known.ok_or_else(no_such)?;
        match (change, record.presence) {
            (BackendChange::Remove { now: true }, Presence::Present | Presence::Leaving(_)) => {
                record.presence = Presence::Absent;
            }
            (_, Presence::Leaving(_) | Presence::Absent) => return Err(no_such()),
            (BackendChange::Remove { now: false }, Presence::Present) => {
                let until = record.drain.map_or(deadline, |drain| drain.min(deadline));
                record.presence = Presence::Leaving(until);
                record.drain = None;
            }
            (BackendChange::Drain, Presence::Present) => {
                record.drain.get_or_insert(deadline);
            }
            (BackendChange::Undrain, Presence::Present) => record.drain = None,
            (BackendChange::Weight { weight } | BackendChange::Put { weight }, Presence::Present) => {
                record.weight = Some(weight);
            }
        }
        Ok(())
    }

    /// Takes in one health check; whether the backend's judgement may have changed.
    pub fn observe(&mut self, observation: Observation, now: Instant) -> bool {
        let Observation { pool, address, role, up, check, report } = observation;
        let Some(entry) = self.pools.get_mut(&pool) else { return false };
        let Pool { health, records, .. } = entry.note();
        let Some(record) = records.iter_mut().find(|record| record.address == address) else { return false };
        let mut changed = false;
        let before = record.health.complaint().map(str::to_owned);
        // What was observed before a reload may concern a check that there is no more.
        if health.asks_agent() && (role == Role::Agent || matches!(health.check, Check::Agent(_))) {
            changed |= record.health.agent.observe(report, check.clone());
        }
        if role == Role::Check && health.check != Check::None {
            changed |= record.health.verdict != Some(up);
            (record.health.verdict, record.health.last_check) = (Some(up), Some(check));
        }
        record.health.reckon(now);
        if changed || record.health.complaint() != before.as_deref() {
            entry.change();
        }
        changed
    }

    /// What was last heard of each backend of a pool: from its check, and from its agent.
    pub fn heard(
        &self,
        pool: &str,
    ) -> impl Iterator<Item = (SocketAddr, (Option<&LastCheck>, Option<AgentStatus>))> {
        let records = self.pools.get(pool).into_iter().flat_map(|entry| &entry.pool().records);
        records
            .map(|record| (record.address, (record.health.last_check.as_ref(), record.health.agent.status())))
    }

    /// The pools whose clients' connections are looked at.
    pub fn watched(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = SocketAddr>)> {
        let pools = self.pools.iter().map(|(name, entry)| (name.as_str(), entry.pool()));
        let watched = pools.filter(|(_, pool)| pool.ejector.is_some());
        watched.map(|(name, pool)| (name, pool.records.iter().map(|record| record.address)))
    }

    /// Takes in how many connections of clients there were, by pool and backend; whether anybody was ejected for it or
    /// let back.
    pub fn watch(
        &mut self,
        attempts: &BTreeMap<String, BTreeMap<SocketAddr, Attempts>>,
        now: Instant,
    ) -> bool {
        let mut changed = false;
        for (name, entry) in self.pools.iter_mut().filter(|(_, entry)| entry.pool().ejector.is_some()) {
            let pool = entry.change();
            let (Some(ejector), Some(attempts)) = (&mut pool.ejector, attempts.get(name)) else { continue };
            let check = &pool.health.check;
            let fit = pool.records.iter().filter(|record| record.is_fit(check));
            let first_choice = fit.clone().any(|record| !record.is_backup());
            let in_use = fit.filter(|record| !(first_choice && record.is_backup()));
            changed |= ejector.look(attempts, &in_use.map(|record| record.address).collect(), now);
        }
        changed
    }

    /// A backend found in the maps that the config does not have: it leaves like one that was removed.
    pub fn adopt_leaving(&mut self, pool: &str, address: SocketAddr, now: Instant) {
        let until = now + self.drain_timeout;
        if let Some(pool) = self.pool(pool)
            && !pool.records.iter().any(|record| record.address == address)
        {
            pool.records.push(Record { presence: Presence::Leaving(until), ..Record::new(address) });
        }
    }

    /// Backends that are checked and have no verdict yet, by pool.
    pub fn unjudged(&self) -> Vec<(String, SocketAddr)> {
        let pools = self.pools.iter();
        pools
            .flat_map(|(name, entry)| entry.pool().unjudged().map(|address| (name.clone(), address)))
            .collect()
    }

    /// Lets a backend count as up until its first check.
    pub fn assume_up(&mut self, pool: &str, address: SocketAddr) {
        let records = self.pool(pool).map(|pool| &mut pool.records);
        for record in records.into_iter().flatten().filter(|record| record.address == address) {
            record.health.assumed_up = true;
        }
    }

    /// A backend that a previous daemon found up.
    pub fn adopt_up(&mut self, pool: &str, address: SocketAddr) {
        let records = self.pool(pool).map(|pool| &mut pool.records);
        for record in records.into_iter().flatten().filter(|record| record.address == address) {
            record.health.was_up = true;
        }
    }

    /// The longest time that a check may take.
    pub fn longest_check(&self) -> Duration {
        self.pools.values().map(|entry| entry.pool().health.timeout).max().unwrap_or_default()
    }

    /// What is to be checked, as it was at the last [`Self::fold`].
    pub fn targets(&self) -> Targets {
        let pools = self.pools.iter().filter(|(_, entry)| !entry.targets().is_empty());
        pools.map(|(name, entry)| (name.clone(), entry.targets().clone())).collect()
    }

    /// What adaptive weights leave of the weights of a pool, 0 to 1, by backend; 1 of all others. Whether that is new.
    pub fn set_factors(&mut self, pool: &str, factors: &[(SocketAddr, f64)]) -> bool {
        let factor = |record: &Record| {
            let factor = factors.iter().find(|(address, _)| *address == record.address);
            factor.map_or(1.0, |(_, factor)| *factor)
        };
        let is_new = |entry: &&mut Entry| entry.pool().records.iter().any(|r| factor(r) != r.factor);
        let Some(entry) = self.pools.get_mut(pool).filter(is_new) else { return false };
        entry.change().records.iter_mut().for_each(|record| record.factor = factor(record));
        true
    }

    /// Begins the slow start of backends that take new flows in `new` and did not in `old`, where others did and
    /// do: a pool that comes up as a whole is not kept small. Whether any began.
    pub fn rise(&mut self, old: &Fold, new: &Fold, now: Instant) -> bool {
        let mut began = false;
        for (name, old, new) in new.changed(old) {
            let slow = |entry: &&mut Entry| !entry.pool().slow_start.time.is_zero();
            let Some(entry) = self.pools.get_mut(name).filter(slow) else { continue };
            let taking = |judged: &[Judged]| -> BTreeSet<SocketAddr> {
                let taking = judged.iter().filter(|judged| judged.member.weight > 0);
                taking.map(|judged| judged.member.address).collect()
            };
            let (old, new) = (taking(old), taking(new));
            let others = old.intersection(&new).next().is_some();
            for record in &mut entry.change().records {
                if !new.contains(&record.address) {
                    record.rising = None;
                } else if others && !old.contains(&record.address) {
                    record.rising = Some(now);
                    began = true;
                }
            }
        }
        began
    }

    /// The next moment after `now`, that of the last [`Self::fold`], at which that changes by itself.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.pools.values().filter_map(|entry| entry.next_deadline(self.drain_spread, now)).min()
    }

    fn pool(&mut self, name: &str) -> Option<&mut Pool> {
        self.pools.get_mut(name).map(Entry::change)
    }

    /// Every backend with its state and what the planes are told of it; forgets those whose time has passed.
    ///
    /// Backups take new flows only while no other backend of the pool does. A backend that failed loses its
    /// new flows at once and its old ones after the grace; one that was removed or drained from its deadline on; one
    /// that is ejected keeps its old ones.
    pub fn fold(&mut self, now: Instant) -> Fold {
        let pools = self.pools.iter_mut();
        pools.map(|(name, entry)| (name.clone(), entry.judge(name, self.drain_spread, now))).collect()
    }
}

/// Whether a weight that was set at run time yields: the file's is not the one that it was set against.
fn superseded(old: Option<u16>, new: Option<u16>) -> bool {
    old != new
}

/// The shortest grace of the services that use a pool.
fn grace(config: &Config, pool: &str) -> Grace {
    let services = config.services.iter().filter(|service| service.pool == pool);
    let shortest = services.filter_map(|service| match service.down_grace {
        Grace::For(grace) => Some(grace),
        Grace::Forever => None,
    });
    shortest.min().map_or(Grace::Forever, Grace::For)
}
