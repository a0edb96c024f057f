//! Backends that fall silent: their neighbour may have another MAC address.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::health::{Observation, Role, Targets};

/// Backends whose last check got no answer in time.
#[derive(Debug, Default)]
pub(super) struct Silent(HashSet<(String, SocketAddr)>);

impl Silent {
    /// Whether this is the first check of a backend that got no answer, after one that did.
    pub(super) fn falls(&mut self, observation: &Observation, targets: &Targets) -> bool {
        let Observation { pool, address, role, check, .. } = observation;
        let key = (pool.clone(), *address);
        if *role != Role::Check {
            return false;
        }
        if check.ok {
            self.0.remove(&key);
            return false;
        }
        let mut targets = targets.of(pool).iter();
        let timeout = targets.find(|target| target.address == *address).map(|target| target.health.timeout);
        // Somewhat before the time-out: its clock is not ours.
        let is_late = timeout.is_some_and(|time| check.took_ms >= time.as_secs_f64() * 1000.0 * 0.9);
        is_late && self.0.insert(key)
    }

    /// Forgets all backends but these.
    pub(super) fn retain(&mut self, targets: &Targets) {
        if !self.0.is_empty() {
            let known: HashSet<_> = targets.iter().map(|target| (&target.pool, target.address)).collect();
            self.0.retain(|(pool, address)| known.contains(&(pool, *address)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Target;
    use crate::model::status::LastCheck;
    use crate::model::{Health, Report};

    #[test]
    fn only_the_first_check_without_an_answer_counts() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let health = Health::default();
        let timeout = health.timeout.as_secs_f64() * 1000.0;
        let target = Target { pool: "p".to_owned(), address, was_up: true, health };
        let targets = Targets::from(vec![target]);
        let mut silent = Silent::default();
        let mut falls = |ok, took_ms, role| {
            let check = LastCheck { ok, at: String::new(), took_ms, detail: String::new() };
            let (pool, report) = ("p".to_owned(), Report::default());
            silent.falls(&Observation { pool, address, role, up: true, check, report }, &targets)
        };
        assert!(!falls(false, 1.0, Role::Check), "refused is an answer");
        assert!(!falls(false, timeout, Role::Agent));
        assert!(falls(false, timeout, Role::Check));
        assert!(!falls(false, timeout, Role::Check), "it is silent already");
        assert!(!falls(true, 1.0, Role::Check));
        assert!(falls(false, timeout, Role::Check), "it has answered in between");
        silent.retain(&Targets::default());
        assert!(silent.0.is_empty());
    }
}
