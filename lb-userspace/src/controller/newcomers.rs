//! Backends that the kernel planes do not know yet. Until there is a way to one, and a program where its replies arrive, its
//! pool's others take the new flows: their first packets would be dropped, and the clients would try again a second
//! later. Pure; time is injected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::desired::{Fold, Judged};
use crate::model::BackendState;

/// The kernel asks for a neighbour three times, a second apart (`mcast_solicit`, `retrans_time_ms`). Whoever has not answered
/// by then may be there all the same, behind a gateway or without a check: it gets its flows.
const PATIENCE: Duration = Duration::from_secs(3);

/// Those without a way.
#[derive(Debug, Default)]
pub struct Newcomers {
    /// The moment at which that was seen first.
    since: BTreeMap<IpAddr, Instant>,
    /// Among whom they were looked for.
    looked: Fold,
}

impl Newcomers {
    /// Whether this one has been without a way before.
    pub fn knows(&self, address: &IpAddr) -> bool {
        self.since.contains_key(address)
    }

    /// Whether there may be another one among these: some wait, or a backend takes new flows in a pool that has changed since
    /// the last look, and is not known.
    pub fn may_be(&self, fold: &Fold, is_known: impl Fn(SocketAddr) -> bool) -> bool {
        let changed = fold.changed(&self.looked).flat_map(|(_, _, judged)| judged);
        let mut members = changed.map(|judged| judged.member);
        !self.since.is_empty() || members.any(|member| member.weight > 0 && !is_known(member.address))
    }

    /// Among whom they were looked for; among nobody, where services have gone elsewhere since.
    pub fn looked(&mut self, fold: Fold) {
        self.looked = fold;
    }

    /// Takes in who is without a way now.
    pub fn look(&mut self, without: &BTreeSet<IpAddr>, now: Instant) {
        self.since.retain(|address, _| without.contains(address));
        for address in without {
            self.since.entry(*address).or_insert(now);
        }
    }

    /// The next moment after `now` at which [`Self::hold`] changes by itself.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.since.values().map(|since| *since + PATIENCE).filter(|deadline| *deadline > now).min()
    }

    /// Takes the new flows of those that wait, where another backend of their pool has them.
    pub fn hold(&self, fold: &mut Fold, now: Instant) {
        let waits = |judged: &Judged| {
            let since = self.since.get(&judged.member.address.ip());
            since.is_some_and(|since| now < *since + PATIENCE)
        };
        if self.since.is_empty() {
            return;
        }
        for pool in fold.values_mut() {
            let mut taking = pool.iter().filter(|judged| judged.member.weight > 0);
            if taking.clone().all(|judged| !waits(judged)) || taking.all(waits) {
                continue;
            }
            let pool = Arc::make_mut(pool).iter_mut();
            for judged in pool.filter(|judged| judged.member.weight > 0 && waits(judged)) {
                judged.member.weight = 0;
                judged.state = BackendState::Starting;
                judged.reason = format!("{}; there is no way to it yet", judged.reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::controller::desired::Pools;

    const TWO: &str = r#"
[[service]]
name = "web"
listen = "192.0.2.10:80"
pool = "web"

[[pool]]
name = "web"
health = { check = "none" }
backend = [{ address = "10.0.0.1:80" }, { address = "10.0.0.2:80", weight = 7 }]
"#;

    fn fold(now: Instant) -> Fold {
        Pools::new(&Config::parse("config.toml", TWO, &BTreeMap::new()).unwrap(), now).fold(now)
    }

    fn without(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn weights(newcomers: &Newcomers, now: Instant) -> Vec<u32> {
        let mut fold = fold(now);
        newcomers.hold(&mut fold, now);
        fold.of("web").iter().map(|judged| judged.member.weight).collect()
    }

    #[test]
    fn whoever_has_no_way_waits_until_it_has_or_for_three_seconds() {
        let start = Instant::now();
        let mut newcomers = Newcomers::default();
        newcomers.look(&without(&["10.0.0.2"]), start);
        assert_eq!(weights(&newcomers, start), [100, 0]);
        let mut held = fold(start);
        newcomers.hold(&mut held, start);
        assert_eq!(held.of("web")[1].state, BackendState::Starting);
        assert!(held.of("web")[1].reason.contains("no way"), "{}", held.of("web")[1].reason);

        let later = start + Duration::from_secs(2);
        newcomers.look(&without(&["10.0.0.2"]), later);
        assert_eq!(newcomers.next_deadline(later), Some(start + PATIENCE), "the wait does not begin again");
        assert_eq!(weights(&newcomers, later), [100, 0]);
        assert_eq!(weights(&newcomers, start + PATIENCE), [100, 7]);
        assert_eq!(newcomers.next_deadline(start + PATIENCE), None);

        newcomers.look(&without(&[]), later);
        assert_eq!(weights(&newcomers, later), [100, 7]);
        assert_eq!(newcomers.next_deadline(later), None);
    }

    #[test]
    fn where_nobody_else_takes_flows_nobody_waits() {
        let start = Instant::now();
        let mut newcomers = Newcomers::default();
        newcomers.look(&without(&["10.0.0.1", "10.0.0.2"]), start);
        assert_eq!(weights(&newcomers, start), [100, 7]);
    }
}
