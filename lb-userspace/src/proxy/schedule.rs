//! Which backend a new connection gets. Knows members and addresses, and nothing of sockets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::Port;
use lb_common::hash::{Key, Tuple, slot};

use crate::model::{Affinity, Listen, Member};

/// A scheduler with its state; one per listener, so that no two workers share any of it. Indexes are those of
/// the members it was made from.
#[derive(Debug)]
pub(super) enum Schedule {
    RoundRobin(RoundRobin),
    Maglev(Arc<Table>),
}

impl Schedule {
    /// The backend for a client, none of `tried`; `None`: there is no other of positive weight.
    pub(super) fn pick(&mut self, client: SocketAddr, tried: &[usize]) -> Option<usize> {
        match self {
            Self::RoundRobin(turns) => turns.pick(tried),
            Self::Maglev(table) => table.pick(client, tried),
        }
    }
}

/// Smooth weighted round robin, as nginx has it: in every period of `sum(weight)` picks each member is picked
/// `weight` times, spread as evenly as the weights allow.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    turns: Vec<Turn>,
}

#[derive(Debug)]
struct Turn {
    address: SocketAddr,
    weight: i64,
    credit: i64,
}

impl RoundRobin {
    /// Starts `offset` picks into the period. Workers start at different ones, so that the first connections
    /// of all workers together are spread too.
    pub(super) fn new(members: &[Member], offset: usize) -> Self {
        let mut this = Self::default();
        this.update(members);
        for _ in 0..offset {
            this.pick(&[]);
        }
        this
    }

    /// Takes other members. Those that stay keep their credit: a change does not begin the period anew.
    pub(super) fn update(&mut self, members: &[Member]) {
        let credits: HashMap<_, _> = self.turns.drain(..).map(|turn| (turn.address, turn.credit)).collect();
        self.turns = members
            .iter()
            .map(|&Member { address, weight, .. }| Turn {
                address,
                weight: weight.into(),
                credit: credits.get(&address).copied().unwrap_or(0),
            })
            .collect();
    }

    /// Those that were tried neither gain nor lose: their turn was the one that failed.
    fn pick(&mut self, tried: &[usize]) -> Option<usize> {
        let mut sum = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, turn) in self.turns.iter_mut().enumerate() {
            if turn.weight == 0 || tried.contains(&index) {
                continue;
            }
            turn.credit += turn.weight;
            sum += turn.weight;
            if best.is_none_or(|(_, credit)| turn.credit > credit) {
                best = Some((index, turn.credit));
            }
        }
        let (index, _) = best?;
        self.turns.get_mut(index)?.credit -= sum;
        Some(index)
    }
}

/// A Maglev table with what a flow's hash needs: the kernel planes come to the same slot.
#[derive(Debug)]
pub(super) struct Table {
    /// For every slot the index of a member; empty: nobody has a positive weight.
    pub(super) slots: Vec<u32>,
    pub(super) listen: Listen,
    pub(super) affinity: Affinity,
    pub(super) key: Key,
}

impl Table {
    fn pick(&self, client: SocketAddr, tried: &[usize]) -> Option<usize> {
        let source_port = match self.affinity {
            Affinity::None => client.port(),
            Affinity::Source => 0,
        };
        let tuple = Tuple {
            source: client.ip().into(),
            destination: self.listen.address.ip().into(),
            source_port: Port::new(source_port),
            destination_port: Port::new(self.listen.address.port()),
            protocol: self.listen.protocol.number(),
        };
        let start = slot(tuple.hash_with(&self.key), u32::try_from(self.slots.len()).ok()?) as usize;
        // Where its backend cannot be reached, a client goes on to that of the next slot: always the same one.
        let (before, after) = self.slots.split_at_checked(start)?;
        after.iter().chain(before).map(|&index| index as usize).find(|index| !tried.contains(index))
    }
}

#[cfg(test)]
mod tests {
    use lb_common::hash::key;

    use crate::model::{Cut, Protocol};

    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        (1..)
            .zip(weights)
            .map(|(port, &weight)| Member { address: ([10, 0, 0, 1], port).into(), weight, cut: Cut::NONE })
            .collect()
    }

    fn picks(schedule: &mut RoundRobin, n: usize) -> Vec<usize> {
        (0..n).map(|_| schedule.pick(&[]).unwrap()).collect()
    }

    fn counts(picks: &[usize], members: usize) -> Vec<usize> {
        (0..members).map(|index| picks.iter().filter(|&&pick| pick == index).count()).collect()
    }

    #[test]
    fn round_robin_is_exact_over_every_period_and_smooth_within() {
        let mut turns = RoundRobin::new(&members(&[5, 1, 1]), 0);
        assert_eq!(picks(&mut turns, 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(counts(&picks(&mut turns, 700), 3), [500, 100, 100]);
    }

    #[test]
    fn round_robin_offsets_spread_the_first_picks_of_workers() {
        let members = members(&[1, 1, 1]);
        let firsts: Vec<_> =
            (0..3).map(|offset| RoundRobin::new(&members, offset).pick(&[]).unwrap()).collect();
        assert_eq!(firsts, [0, 1, 2]);
    }

    #[test]
    fn weight_zero_gets_nothing_and_nobody_is_none() {
        let mut turns = RoundRobin::new(&members(&[0, 2, 0, 1]), 0);
        assert_eq!(counts(&picks(&mut turns, 300), 4), [0, 200, 0, 100]);
        assert_eq!(RoundRobin::new(&members(&[0, 0]), 1).pick(&[]), None);
        assert_eq!(RoundRobin::new(&[], 1).pick(&[]), None);
    }

    #[test]
    fn round_robin_retries_elsewhere_and_gives_up_when_all_were_tried() {
        let mut turns = RoundRobin::new(&members(&[1, 1, 1]), 0);
        let first = turns.pick(&[]).unwrap();
        let second = turns.pick(&[first]).unwrap();
        let third = turns.pick(&[first, second]).unwrap();
        let mut all = [first, second, third];
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(turns.pick(&all), None);
    }

    #[test]
    fn an_update_goes_on_where_the_period_was() {
        let all = members(&[1, 1, 1]);
        let mut turns = RoundRobin::new(&all, 0);
        let mut seen = Vec::new();
        for _ in 0..30 {
            seen.push(turns.pick(&[]).unwrap());
            turns.update(&all);
        }
        assert_eq!(counts(&seen, 3), [10, 10, 10]);
    }

    #[test]
    fn maglev_takes_the_slot_of_the_hash_and_source_affinity_ignores_the_port() {
        let key = key([1, 2]);
        let listen = Listen { protocol: Protocol::Udp, address: "192.0.2.10:80".parse().unwrap() };
        let slots: Vec<u32> = (0..13).map(|slot| slot % 3).collect();
        let table = |affinity| Table { slots: slots.clone(), listen, affinity, key };
        let mut owners = Vec::new();
        for port in 1024..1124 {
            let client = SocketAddr::from(([198, 51, 100, 7], port));
            let tuple = Tuple {
                source: client.ip().into(),
                destination: listen.address.ip().into(),
                source_port: Port::new(port),
                destination_port: Port::new(80),
                protocol: 17,
            };
            let expected = slots[slot(tuple.hash_with(&key), 13) as usize] as usize;
            assert_eq!(table(Affinity::None).pick(client, &[]), Some(expected));
            owners.push(table(Affinity::Source).pick(client, &[]).unwrap());
        }
        owners.dedup();
        assert_eq!(owners.len(), 1);
    }

    #[test]
    fn maglev_retries_elsewhere_and_gives_up_when_all_were_tried() {
        let table = Table {
            slots: vec![0, 1, 2, 0, 1, 2, 0],
            listen: Listen { protocol: Protocol::Tcp, address: "[2001:db8::1]:80".parse().unwrap() },
            affinity: Affinity::None,
            key: key([3, 4]),
        };
        let client = "[2001:db8::2]:4000".parse().unwrap();
        let first = table.pick(client, &[]).unwrap();
        let second = table.pick(client, &[first]).unwrap();
        assert_ne!(first, second);
        assert_eq!(table.pick(client, &[first]), Some(second));
        assert_eq!(table.pick(client, &[0, 1, 2]), None);
        assert_eq!(Table { slots: Vec::new(), ..table }.pick(client, &[]), None);
    }
}
