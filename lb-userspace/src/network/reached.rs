//! Which hosts there was a way to, and which were lost since.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Facts;

/// Hosts that there is or was a way to.
///
/// Only what was reached can be lost: an old failed entry of a neighbour that nobody asked for in days says nothing
/// of today.
#[derive(Debug, Default)]
pub struct Reached(BTreeSet<IpAddr>);

impl Reached {
    /// Takes in the facts of a moment: hosts that were lost since, each once and with the reason.
    pub fn take_in(&mut self, facts: &Facts) -> Vec<(IpAddr, String)> {
        self.0.retain(|host| facts.unreachable.contains_key(host));
        self.0.extend(facts.hops.keys());
        let lost =
            facts.unreachable.iter().filter(|(host, _)| facts.lost.contains(host) && self.0.remove(host));
        lost.map(|(host, why)| (*host, why.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::NextHop;

    use super::*;

    #[test]
    fn only_what_was_reached_is_lost_and_only_once() {
        let host: IpAddr = [10, 0, 0, 2].into();
        let unreachable = || [(host, "why".to_owned())].into();
        let reachable = Facts { hops: [(host, NextHop::default())].into(), ..Facts::default() };
        let unknown = Facts { unreachable: unreachable(), ..Facts::default() };
        let lost = Facts { lost: [host].into(), unreachable: unreachable(), ..Facts::default() };
        let mut reached = Reached::default();
        let mut take = |facts: &Facts| reached.take_in(facts).len();
        assert_eq!([&lost, &reachable, &lost, &lost].map(&mut take), [0, 0, 1, 0]);
        // Between the two it may be asked for once more.
        assert_eq!([&unknown, &lost, &reachable, &unknown, &lost].map(&mut take), [0, 0, 0, 0, 1]);
        // A target that left and returned is a new one.
        assert_eq!([&reachable, &Facts::default(), &lost].map(&mut take), [0, 0, 0]);
    }
}
