//! The flow hash: the 5-tuple is compressed to one word by a keyed universal function, and that word goes through
//! SipHash-1-3. Kernel planes, proxy plane and `sluice explain` compute the same value, so every balancer with the
//! same table and seed agrees.
//!
//! The first step is vector multiply-shift without the shift (Dietzfelbinger, "Universal hashing and k-wise independent
//! random variables via integer arithmetic without primes", 1996): two tuples meet in it with a probability of at most
//! 2^-33, whoever chose them, if he does not know the factors. The second is a pseudorandom function of the word
//! (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), so nothing that a client sees tells of the factors. What
//! is hashed has one length, so the word that pads a message in the paper is left out. SipHash over the whole tuple
//! would cost a round for each eight bytes of it, of some thirty instructions each: BPF has no rotation.

use crate::address::{Address, Port};

/// The 128-bit secret.
pub type Seed = [u64; 2];

/// Words of a tuple: two addresses of four, both ports, the protocol.
const WORDS: usize = 10;
/// Where the factors begin in a key: behind SipHash's initial state, and a summand.
const FACTORS: usize = 5;

/// What tuples are hashed with, made of the seed: SipHash's initial state, a summand, a factor for each word.
pub type Key = [u64; FACTORS + WORDS];

/// The key of a seed: the factors are SipHash-1-3 of their places.
pub fn key(seed: Seed) -> Key {
    let state = initial(seed);
    core::array::from_fn(|place| match state.get(place) {
        Some(word) => *word,
        None => siphash13([place as u64, 8 << 56], state),
    })
}

/// What is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// The client.
    pub source: Address,
    /// The VIP.
    pub destination: Address,
    /// The client's port; 0 with `affinity = "source"`.
    pub source_port: Port,
    /// The service's port.
    pub destination_port: Port,
    /// The IP protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// The hash of a tuple of either family. `key` gives the words of a [`Key`], each of which is asked for once.
    #[inline(always)]
    pub fn hash(&self, key: impl Fn(usize) -> u64) -> u32 {
        let mut digest = key(FACTORS - 1);
        let mut add = |place: usize, word: u32| {
            digest = digest.wrapping_add(key(FACTORS + place).wrapping_mul(word as u64));
        };
        add(8, self.source_port.raw() as u32 | (self.destination_port.raw() as u32) << 16);
        add(9, self.protocol as u32);
        let ([a, b, c, d], [e, f, g, h]) = (self.source.words, self.destination.words);
        add(3, d);
        add(7, h);
        // Of IPv4 addresses, one word differs from address to address.
        if !self.source.is_v4() {
            add(0, a);
            add(1, b);
            add(2, c);
            add(4, e);
            add(5, f);
            add(6, g);
        }
        let hash = siphash13([digest], [key(0), key(1), key(2), key(3)]);
        (hash ^ (hash >> 32)) as u32
    }

    /// The same with a key that lies in memory.
    pub fn hash_with(&self, key: &Key) -> u32 {
        self.hash(|word| key.get(word).copied().unwrap_or_default())
    }
}

/// The slot of a hash in a table of `slots` (Lemire's multiply-shift reduction, no division).
#[inline(always)]
pub const fn slot(hash: u32, slots: u32) -> u32 {
    ((hash as u64 * slots as u64) >> 32) as u32
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

/// SipHash's state before the first word.
#[inline(always)]
pub const fn initial(seed: Seed) -> [u64; 4] {
    [
        seed[0] ^ 0x736f_6d65_7073_6575,
        seed[1] ^ 0x646f_7261_6e64_6f6d,
        seed[0] ^ 0x6c79_6765_6e65_7261,
        seed[1] ^ 0x7465_6462_7974_6573,
    ]
}

/// SipHash-1-3 over words. A message of any length is padded as in the paper: its last word ends with the length in bytes.
#[inline(always)]
pub fn siphash13<const N: usize>(words: [u64; N], state: [u64; 4]) -> u64 {
    let mut v = state;
    for word in words {
        v[3] ^= word;
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}
