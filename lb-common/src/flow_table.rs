//! Flow tables that a program searches and fills without a call: entries in an array, and an index of buckets.
//!
//! A bucket is one cache line. It has sixteen lanes of 16 bits, one for each of its entries: 0 where the entry is
//! free, else the mark of the flow that stands there. Bucket `b` has the entries from `16 b` on. A flow has two
//! buckets: it stands in its second only if its first was three quarters full when it came, and the second was
//! emptier; then the first counts it as moved. So a search that meets no mark ends in the first bucket unless that
//! has moved a flow. A table that is asked to hold `n` flows has room for a third more: with that, no flow of them
//! was ever refused in simulations of 200,000 (Azar et al., "Balanced Allocations", 1994, says why).
//!
//! What holds between CPUs, and between programs and the controller:
//!
//! * Only programs insert, and only while they hold the first bucket's lock, and the second's where they use that.
//!   No two flows of a bucket have the same mark, and no flow stands in a table twice.
//! * A lane is written after its entry, and an entry's key before its value. A search reads lane, value, key in this
//!   order, so a value that it returns is the key's own. That needs loads and stores that keep their order, as they do on
//!   x86-64; on other machines BPF has had no instruction for it before Linux 6.15.
//! * A lane is freed by a store of its own 16 bits: by a program that holds the first bucket's lock, or by the
//!   controller, once the entry has expired.
//! * A lock is tried for a bounded time. Who does not get it refuses, which every caller must bear anyway, since
//!   the table may be full.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow::FlowKey;
use crate::hash::Seed;

/// Lanes, and entries, of a bucket.
pub const WAYS: u32 = 16;
/// Lanes of one word.
pub const LANES: u32 = 4;
/// Words of lanes of a bucket.
pub const WORDS: usize = (WAYS / LANES) as usize;
/// From this lane on, a flow would rather stand in its second bucket.
pub const PREFERRED: u32 = 12;

/// A bucket as it lies in its map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Bucket {
    /// The lanes, the first in the lowest bits.
    pub lanes: [u64; WORDS],
    /// 1 while a program inserts or deletes.
    pub lock: u64,
    /// How many flows stand in their second bucket that have this one for their first.
    pub moved: u64,
    /// Zero.
    pub padding: [u64; 2],
}

/// Buckets of a table for so many flows.
pub const fn buckets(flows: u32) -> u32 {
    flows.div_ceil(PREFERRED)
}

/// Entries of a table of so many buckets.
pub const fn entries(buckets: u32) -> u32 {
    buckets * WAYS
}

/// Flows that a table of so many buckets is for.
pub const fn capacity(buckets: u32) -> u32 {
    buckets * PREFERRED
}

/// What flows are hashed with: a factor for each word of their key, and a summand.
pub type Secret = [u64; 7];

/// The secret that belongs to a seed (Steele et al., "Fast splittable pseudorandom number generators", 2014).
pub fn secret(seed: Seed) -> Secret {
    let mut state = seed[0] ^ seed[1].rotate_left(32);
    core::array::from_fn(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// Where a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first bucket.
    pub first: u32,
    /// Its second, which may be the same.
    pub second: u32,
    /// Its mark, never 0.
    pub mark: u16,
}

impl Place {
    /// The place of a flow in a table of `buckets`. Vector multiply-shift (Dietzfelbinger, "Universal hashing and
    /// k-wise independent random variables via integer arithmetic without primes", 1996): whoever does not know the
    /// secret cannot choose flows that meet.
    #[inline(always)]
    pub fn of(key: &FlowKey, secret: &Secret, buckets: u32) -> Self {
        let [a, b, c, d] = key.client.words;
        let words = [a, b, c, d, key.service.0, key.port.raw() as u32];
        let [factors @ .., summand] = secret;
        let mut sum = *summand;
        for (word, factor) in words.into_iter().zip(factors) {
            sum = sum.wrapping_add(factor.wrapping_mul(word as u64));
        }
        // The upper half is the hash; the lower one is made of it and of what is left.
        let low = ((sum ^ (sum >> 32)).wrapping_mul(0x9fb2_1c65_1e98_df25) >> 32) as u32;
        let reduce = |hash: u32| ((hash as u64 * buckets as u64) >> 32) as u32;
        let mark = low as u16;
        Self {
            first: reduce((sum >> 32) as u32),
            second: reduce(low),
            mark: if mark == 0 { 1 } else { mark },
        }
    }
}

/// The number of no entry.
pub const NONE: u32 = u32::MAX;

/// The number of an entry.
#[inline(always)]
pub const fn entry(bucket: u32, lane: u32) -> u32 {
    bucket * WAYS + lane
}

/// Every lane's lowest bit.
const LOW: u64 = 0x0001_0001_0001_0001;
/// Every lane's highest bit.
const HIGH: u64 = LOW << 15;

/// The first lane of one word that holds `mark`; 0 looks for a free one. Without a branch for each lane: in a lane
/// of zeroes, subtracting 1 sets the highest bit, and so it may only in lanes above such a one.
#[inline(always)]
pub const fn find(lanes: u64, mark: u16) -> Option<u32> {
    let differences = lanes ^ (mark as u64).wrapping_mul(LOW);
    let equal = differences.wrapping_sub(LOW) & !differences & HIGH;
    if equal == 0 {
        return None;
    }
    // The lowest set bit, as a multiple of 2^16, picks its number out of the constant.
    let lowest = (equal & equal.wrapping_neg()) >> 15;
    Some((lowest.wrapping_mul(0x0000_0001_0002_0003) >> 48) as u32 & (LANES - 1))
}

/// The lane of a bucket that holds `mark`; 0 looks for a free one. `word` reads a word of its lanes.
#[inline(always)]
pub fn find_in(word: impl Fn(usize) -> u64, mark: u16) -> Option<u32> {
    let mut first = 0;
    for number in 0..WORDS {
        if let Some(lane) = find(word(number), mark) {
            return Some(first + lane);
        }
        first += LANES;
    }
    None
}
