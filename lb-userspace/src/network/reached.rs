//! Which hosts there was a way to, and which were lost since.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Facts;

/// Hosts that there is or was a way to.
///
/// Only what was reached can be lost: an old failed entry of a neighbour that nobody asked for in days says nothing
/// of today.
#[derive(Debug, Default)]
pub struct Reached {
    reached: BTreeSet<IpAddr>,
    lost: BTreeSet<IpAddr>,
}

/// What happened to hosts, each named once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// The way to them was lost, with the reason.
    pub lost: Vec<(IpAddr, String)>,
    /// There is a way again.
    pub regained: Vec<IpAddr>,
}

impl Reached {
    /// Takes in the facts of a moment: what happened since the last ones.
    pub fn take_in(&mut self, facts: &Facts) -> Ways {
        let Self { reached, lost } = self;
        let is_target = |host: &IpAddr| facts.unreachable.contains_key(host) || facts.hops.contains_key(host);
        reached.retain(is_target);
        lost.retain(is_target);
        let mut ways = Ways::default();
        for host in facts.hops.keys() {
            reached.insert(*host);
            if lost.remove(host) {
                ways.regained.push(*host);
            }
        }
        for (host, why) in &facts.unreachable {
            if facts.lost.contains(host) && reached.remove(host) {
                lost.insert(*host);
                ways.lost.push((*host, why.clone()));
            }
        }
        ways
    }
}

#[cfg(test)]
mod tests {
    use lb_common::NextHop;

    use super::*;

    #[test]
    fn only_what_was_reached_is_lost_and_only_what_was_lost_is_regained() {
        let host: IpAddr = [10, 0, 0, 2].into();
        let unreachable = || [(host, "why".to_owned())].into();
        let reachable = Facts { hops: [(host, NextHop::default())].into(), ..Facts::default() };
        let unknown = Facts { unreachable: unreachable(), ..Facts::default() };
        let lost = Facts { lost: [host].into(), unreachable: unreachable(), ..Facts::default() };
        let mut reached = Reached::default();
        let mut take = |facts: &Facts| {
            let ways = reached.take_in(facts);
            (ways.lost.len(), ways.regained.len())
        };
        let (nothing, gone, back) = ((0, 0), (1, 0), (0, 1));
        assert_eq!([&lost, &reachable, &lost, &lost].map(&mut take), [nothing, nothing, gone, nothing]);
        // Between the two it may be asked for once more.
        assert_eq!([&unknown, &reachable, &reachable].map(&mut take), [nothing, back, nothing]);
        assert_eq!([&unknown, &lost].map(&mut take), [nothing, gone]);
        // A target that left and returned is a new one.
        assert_eq!([&Facts::default(), &reachable, &Facts::default(), &lost].map(&mut take), [nothing; 4]);
    }
}
