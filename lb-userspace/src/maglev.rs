//! A weighted Maglev table (after Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4).
//!
//! As in the paper, every backend has its own permutation of the slots, and the backends take turns until the
//! table is full. What differs from the paper keeps a change from moving slots that it need not move:
//! * In a turn a backend *tries* the next few slots of its permutation and takes those that are free; the paper
//!   lets it search until it has one. So who comes first to a slot does not depend on how many others the two had
//!   found before, and up to half as many slots move for nothing.
//! * A permutation by offset and skip is walked in runs of [`RUN`] steps, and the runs come in a shuffled order.
//!   Two plain walks whose skips are in a simple ratio stay in step and compete all the way; after a removal, some
//!   sets of ten backends then move five times as much as others.
//! * A *quota* says when a backend has enough, for luck alone would leave shares some percent apart. Quotas come
//!   from a divisor method (Webster), because there nobody's quota falls when another backend leaves; with largest
//!   remainders it may. A share may end a little beside its quota: the last slots of an exact one are fought for
//!   longest, and move for nothing most often.
//! * Turns come as often as the weight says: one of half the weight of the heaviest has every other turn.
//!
//! Everything derives from the addresses and the proportions of the weights, so all balancers with the same
//! backends have the same table.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

/// Steps of a permutation that a backend tries in one turn. Longer runs are faster to walk, and bring back some of
/// the competition of walks in step.
const RUN: u32 = 16;

/// A share differs from its quota by at most so much of it, and from the weights' proportion by at most twice that.
const LATITUDE: u32 = 200;

/// Time from turn to turn of the heaviest backend.
const PERIOD: u64 = 1 << 32;

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
    let heaviest = u64::from(weights.iter().copied().max().unwrap_or(1));
    let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    let walks = order.iter().zip(quotas(&weights, slots)).map(|(&(address, weight, index), quota)| {
        let period = (heaviest * PERIOD).div_ceil(u64::from(weight));
        let (least, most) = latitude(quota, u64::from(slots) * u64::from(weight) / sum);
        Walk {
            backend: index,
            missing: least,
            welcome: most - least,
            due: 0,
            period,
            turns: 0,
            permutation: Permutation::new(&address, slots),
        }
    });
    Ok(fill(walks.collect(), round(&weights), slots))
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

/// The least and the greatest share of a backend, around its quota.
fn latitude(quota: u32, proportion: u64) -> (u32, u32) {
    let (latitude, bound) = (quota / LATITUDE, proportion * 2 / u64::from(LATITUDE));
    let within = |slots: u64| u32::try_from(slots).unwrap_or(u32::MAX);
    let least = (quota - latitude).max(within(proportion - bound + 1)).min(quota);
    let most = (quota + latitude).min(within(proportion + bound)).max(quota);
    (least, most)
}

/// Turns that are due within this time count as due together. On average every backend has one: with shorter
/// rounds, looking for those that have one would take longer than the turns.
fn round(weights: &[u32]) -> u64 {
    let heaviest = u64::from(weights.iter().copied().max().unwrap_or(1));
    let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    // A power of two, so that few changes change it.
    PERIOD * (heaviest * weights.len() as u64 / sum.max(1)).max(1).next_power_of_two()
}

/// Lets the backends take turns until the table is full; in a round, one after the other as listed.
fn fill(mut walks: Vec<Walk>, round: u64, slots: u32) -> Vec<u32> {
    let runs = shuffled(slots.div_ceil(RUN));
    let spare = slots - walks.iter().map(|walk| walk.missing).sum::<u32>();
    let mut table = Table { taken: vec![0; slots as usize / 64 + 1], owners: vec![0; slots as usize], spare };
    let mut now = 0_u64;
    while !walks.is_empty() {
        let mut next = u64::MAX;
        for walk in &mut walks {
            while walk.due <= now && walk.goes_on(table.spare) {
                walk.turn(&runs, &mut table);
            }
            next = next.min(walk.due);
        }
        walks.retain(|walk| walk.goes_on(table.spare));
        now = now.saturating_add(round).max(next);
    }
    table.owners
}

/// The numbers below `count` in an order that is the same everywhere: a Fisher-Yates shuffle, where the nth number
/// is drawn by the nth output of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) from seed 0.
fn shuffled(count: u32) -> Vec<u32> {
    let mut order = Vec::with_capacity(count as usize);
    let mut state = 0_u64;
    for n in 0..count {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut random = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random = (random ^ random >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        random ^= random >> 31;
        order.push(n);
        order.swap(n as usize, (random % u64::from(n + 1)) as usize);
    }
    order
}

struct Table {
    /// One bit for each slot: small enough for the first-level cache, where nearly all tries end.
    taken: Vec<u64>,
    owners: Vec<u32>,
    /// Free slots that no backend needs for its least share.
    spare: u32,
}

impl Table {
    /// Whether the slot was free and is now the backend's.
    fn take(&mut self, slot: u32, backend: u32) -> bool {
        let bit = 1 << (slot % 64);
        let word = &mut self.taken[slot as usize / 64];
        let free = *word & bit == 0;
        if free {
            *word |= bit;
            self.owners[slot as usize] = backend;
        }
        free
    }
}

/// A backend on its way through its permutation.
struct Walk {
    backend: u32,
    /// Slots to its least share.
    missing: u32,
    /// Slots that it may have beyond that one.
    welcome: u32,
    /// When its next turn is; the first turns of all are at 0.
    due: u64,
    /// Time from turn to turn.
    period: u64,
    /// Turns it had.
    turns: usize,
    permutation: Permutation,
}

impl Walk {
    /// Whether it may have another slot, while so many are spare.
    const fn goes_on(&self, spare: u32) -> bool {
        self.missing > 0 || (self.welcome > 0 && spare > 0)
    }

    /// Tries the slots of the next run. There is one: after the last, no slot would be free.
    fn turn(&mut self, runs: &[u32], table: &mut Table) {
        for slot in self.permutation.run(runs[self.turns]) {
            if table.take(slot, self.backend) {
                if self.missing > 0 {
                    self.missing -= 1;
                } else {
                    self.welcome -= 1;
                    table.spare -= 1;
                }
                if !self.goes_on(table.spare) {
                    break;
                }
            }
        }
        self.turns += 1;
        // Time ends where weights differ by more than 2^32 to 1; the lightest then have all their turns at once.
        self.due = self.due.saturating_add(self.period);
    }
}

/// The slots `(offset + step * skip) % slots`, for each step below `slots`.
struct Permutation {
    offset: u32,
    skip: u32,
    slots: u32,
}

impl Permutation {
    /// Offset and skip come from the first two little-endian 64-bit words of the SHA-256 of the address as text.
    fn new(address: &SocketAddr, slots: u32) -> Self {
        let digest = Sha256::digest(address.to_string());
        let word =
            |at: usize| digest[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        Self {
            offset: (word(0) % u64::from(slots)) as u32,
            skip: (1 + word(8) % (u64::from(slots) - 1)) as u32,
            slots,
        }
    }

    /// The slots of the steps from `RUN * run` on: [`RUN`] of them, fewer in the last run.
    fn run(&self, run: u32) -> impl Iterator<Item = u32> + use<> {
        let Self { offset, skip, slots } = *self;
        let first = RUN * run;
        let start = (u64::from(offset) + u64::from(first) * u64::from(skip)) % u64::from(slots);
        // `slot + skip` modulo `slots`, without an overflow in between.
        let room = slots - skip;
        let next = move |&slot: &u32| Some(if slot >= room { slot - room } else { slot + skip });
        std::iter::successors(Some(start as u32), next).take(RUN.min(slots - first) as usize)
    }
}
