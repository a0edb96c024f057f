//! The weighted Maglev table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4).
//!
//! As in the paper, every backend has its own permutation of the slots and the backends take turns: whose
//! turn it is takes the first free slot of its permutation. Two things carry the weights:
//! * A *quota* says how many turns each backend has. Quotas come from a divisor method (Webster), because
//!   there nobody's quota falls when another backend leaves; with largest remainders it may, and slots move
//!   for nothing.
//! * *Rounds* say when: the heaviest backend has a turn in every round, one of half its weight in every other
//!   one. A round does not depend on who else is there, so a change disturbs the turns of the others little.
//!
//! With equal weights this is the paper's table. Everything derives from the addresses and the proportions of
//! the weights, so all balancers with the same backends have the same table.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaglevError {
    /// Permutations by offset and skip reach every slot only when the number of slots is prime.
    #[error("table_size = {0} is not a prime (hint: 65537 suits up to 600 backends)")]
    NotPrime(u32),
    /// Every backend of positive weight has at least one slot.
    #[error("{backends} backends of positive weight do not fit {slots} slots (hint: raise table_size)")]
    TooManyBackends {
        /// Those of positive weight.
        backends: usize,
        /// As asked.
        slots: u32,
    },
    /// Two backends would have the same permutation.
    #[error("backend {0} is listed twice")]
    Duplicate(SocketAddr),
}

/// Builds the table of `slots` slots: for every slot an index into `backends` (address, weight).
///
/// Backends of weight 0 get no slot, others at least one. Where there are 100 slots or more for each backend,
/// shares differ from the weights' proportions by at most one slot or 1 %. The order of `backends` does not
/// matter. Empty where no backend has a positive weight.
pub fn build(backends: &[(SocketAddr, u32)], slots: u32) -> Result<Vec<u32>, MaglevError> {
    if !is_prime(slots) {
        return Err(MaglevError::NotPrime(slots));
    }
    let mut order: Vec<(SocketAddr, u32, u32)> =
        backends.iter().zip(0..).map(|(&(address, weight), index)| (address, weight, index)).collect();
    order.sort_unstable();
    if let Some(twin) = order.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(MaglevError::Duplicate(twin[0].0));
    }
    order.retain(|&(_, weight, _)| weight > 0);
    if order.is_empty() {
        return Ok(Vec::new());
    }
    if order.len() > slots as usize {
        return Err(MaglevError::TooManyBackends { backends: order.len(), slots });
    }

    let weights: Vec<u32> = order.iter().map(|&(_, weight, _)| weight).collect();
    let turns = turns(&weights, &quotas(&weights, slots), slots);
    let mut walks: Vec<Walk> = order.iter().map(|(address, ..)| Walk::new(address, slots)).collect();
    let mut taken = vec![0_u64; slots as usize / 64 + 1];
    let mut table = vec![0; slots as usize];
    for turn in turns {
        let slot = walks[turn as usize].next_free(&mut taken, slots);
        table[slot as usize] = order[turn as usize].2;
    }
    Ok(table)
}

/// Whether a table may have `n` slots.
pub const fn is_prime(n: u32) -> bool {
    let mut divisor = 2;
    while divisor <= n / divisor {
        if n.is_multiple_of(divisor) {
            return false;
        }
        divisor += 1;
    }
    n >= 2
}

/// How many slots each of `weights` gets: `round(weight * scale)`, at least 1, for the scale at which the
/// sum is `slots`; ties go to the first. At most as many weights as slots, all positive.
fn quotas(weights: &[u32], slots: u32) -> Vec<u32> {
    // Slots per unit of weight, in 1/2^64.
    let quota = |weight: u32, scale: u128| -> u64 {
        let rounded = (u128::from(weight) * scale + (1 << 63)) >> 64;
        (rounded as u64).max(1)
    };
    let sum = |scale| weights.iter().map(|&weight| quota(weight, scale)).sum::<u64>();
    let heaviest = weights.iter().copied().max().unwrap_or(1);
    // The last scale that is not too large: one step further, those that are tied at it would round up.
    let mut fits = 0;
    let mut exceeds = (u128::from(slots + 1) << 64) / u128::from(heaviest) + 1;
    while exceeds - fits > 1 {
        let middle = fits + (exceeds - fits) / 2;
        if sum(middle) <= u64::from(slots) { fits = middle } else { exceeds = middle }
    }
    let mut left = u64::from(slots) - sum(fits);
    weights
        .iter()
        .map(|&weight| {
            let extra = (quota(weight, exceeds) - quota(weight, fits)).min(left);
            left -= extra;
            (quota(weight, fits) + extra) as u32
        })
        .collect()
}

/// Positions in `weights` in the order of their turns: by round, and within a round as listed.
fn turns(weights: &[u32], quotas: &[u32], slots: u32) -> Vec<u32> {
    let heaviest = u64::from(weights.iter().copied().max().unwrap_or(1));
    // The nth turn of a backend is in round `n * heaviest / weight`; in 1/2^32, because divisions are slow.
    let rounds = |position: usize| {
        let step = (heaviest << 32).div_ceil(u64::from(weights[position]));
        (0..u64::from(quotas[position])).map(move |n| ((n * step) >> 32) as usize)
    };
    // A counting sort: `starts[round]` becomes the place of the round's next turn.
    let last = (0..weights.len()).filter_map(|position| rounds(position).next_back()).max().unwrap_or(0);
    let mut starts = vec![0_u32; last + 2];
    for position in 0..weights.len() {
        rounds(position).for_each(|round| starts[round + 1] += 1);
    }
    for round in 0..=last {
        starts[round + 1] += starts[round];
    }
    let mut turns = vec![0; slots as usize];
    for (position, listed) in (0..weights.len()).zip(0..) {
        for round in rounds(position) {
            turns[starts[round] as usize] = listed;
            starts[round] += 1;
        }
    }
    turns
}

/// A backend's place in its permutation of the slots.
struct Walk {
    next: u32,
    skip: u32,
}

impl Walk {
    /// Offset and skip are the first two little-endian 64-bit words of the SHA-256 of the address as text.
    fn new(address: &SocketAddr, slots: u32) -> Self {
        let digest = Sha256::digest(address.to_string());
        let word =
            |at: usize| digest[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        Self {
            next: (word(0) % u64::from(slots)) as u32,
            skip: (1 + word(8) % (u64::from(slots) - 1)) as u32,
        }
    }

    /// Takes the first free slot from here on. There must be one.
    fn next_free(&mut self, taken: &mut [u64], slots: u32) -> u32 {
        loop {
            let slot = self.next;
            // `next + skip` modulo `slots`, without an overflow in between.
            let room = slots - self.skip;
            self.next = if slot >= room { slot - room } else { slot + self.skip };
            let bit = 1 << (slot % 64);
            let word = &mut taken[slot as usize / 64];
            if *word & bit == 0 {
                *word |= bit;
                return slot;
            }
        }
    }
}
