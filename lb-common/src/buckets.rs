//! Tables that a program looks up without a call: entries in an array, and an index of buckets that names them.
//!
//! A bucket is one cache line of eight 64-bit words, each `{entry, tag}`: the number of an entry and 31 bits of
//! its key's hash. A key stands in one of two buckets, in the second only while all eight words of the first
//! are taken. What a program may rely on:
//!
//! * An entry never changes while a word names it, nor for an RCU grace period afterwards. So whoever found
//!   the word reads a whole entry, whatever happens meanwhile.
//! * A word is written in one aligned store. A key that is there before and after a change is found during it.
//! * Words fill a bucket from its first on, and a word that is taken back leaves [`HOLE`], so a search ends at
//!   the first empty word.
//! * No two keys with the same two buckets have the same tag, so a search ends at the first word of its tag.
//!
//! Most keys that are looked up are not there, and their buckets lie all over the index. So behind its buckets
//! stands a filter, small enough for a CPU's first cache: a key whose bit is not set is not there. A bit is
//! set before the first word of its keys is written, and cleared after the last one is taken back.
//!
//! Only the controller writes. Entry 0 is never used.

use crate::address::{Address, SocketKey};

/// Words of a bucket: one cache line.
pub const WAYS: usize = 8;

/// A bucket as it lies in its map.
pub type Bucket = [u64; WAYS];

/// Elements behind the buckets that hold the filter: 16,384 bits, 2 KiB.
pub const FILTER: u32 = 32;

/// A word that ends the search.
pub const EMPTY: u64 = 0;

/// A word that names nothing, between others.
pub const HOLE: u64 = 1;

/// What is looked up.
pub trait Key: Copy + PartialEq {
    /// A well mixed hash. Not keyed: only the controller inserts.
    fn hash(&self) -> Hash;
}

/// The hash of a key: where it stands, and its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    /// Two multiplications for an IPv4 key (odd factors from the golden ratio and from xxHash64's primes; any
    /// odd numbers without a pattern serve).
    #[inline(always)]
    const fn of(address: &Address, rest: u32) -> Self {
        let [a, b, c, d] = address.words;
        let high = (a as u64 | (b as u64) << 32).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        let mixed = high ^ (c as u64 | (d as u64) << 32) ^ rest as u64;
        let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0x9fb2_1c65_1e98_df25);
        Self(mixed ^ (mixed >> 32))
    }

    /// The bucket where the search begins, of `buckets` (a power of two).
    #[inline(always)]
    pub const fn first(self, buckets: u32) -> u32 {
        self.0 as u32 & (buckets - 1)
    }

    /// Where it goes on when all words of the first are taken: another bucket, if there are two.
    #[inline(always)]
    pub const fn second(self, buckets: u32) -> u32 {
        self.first(buckets) ^ ((self.tag() | 1) & (buckets - 1))
    }

    /// The key's bit in the filter: element behind the buckets, word of it, and that word with this bit alone.
    #[inline(always)]
    pub const fn filter(self) -> (u32, usize, u64) {
        let bits = (self.0 >> 24) as u32;
        (bits & (FILTER - 1), (bits >> 5) as usize & (WAYS - 1), 1 << (bits >> 8 & 63))
    }

    /// The word that names entry `index`.
    #[inline(always)]
    pub const fn word(self, index: u32) -> u64 {
        index as u64 | (self.tag() as u64) << 32
    }

    /// The entry that a word names, if this key may be its.
    #[inline(always)]
    pub const fn candidate(self, word: u64) -> Option<u32> {
        if (word >> 32) as u32 == self.tag() { Some(word as u32) } else { None }
    }

    /// Never 0: no word of an entry is [`EMPTY`] or [`HOLE`].
    #[inline(always)]
    const fn tag(self) -> u32 {
        (self.0 >> 32) as u32 | 1 << 31
    }
}

impl Key for SocketKey {
    #[inline(always)]
    fn hash(&self) -> Hash {
        Hash::of(&self.address, self.port.raw() as u32 | (self.protocol as u32) << 16)
    }
}

impl Key for Address {
    #[inline(always)]
    fn hash(&self) -> Hash {
        Hash::of(self, 0)
    }
}
