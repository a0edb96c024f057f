//! The flow hash: SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) over the
//! 5-tuple, keyed with the host's or the cluster's seed. Kernel planes, proxy plane and `sluice explain`
//! compute the same value, so every balancer with the same table and seed agrees.

use crate::address::{Address, Port};

/// The 128-bit secret.
pub type Seed = [u64; 2];

/// Bytes of a tuple as it is hashed: two addresses, two ports, the protocol.
const V4_BYTES: u64 = 4 + 4 + 2 + 2 + 1;
/// The same of IPv6.
const V6_BYTES: u64 = 16 + 16 + 2 + 2 + 1;

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
    /// The hash of a tuple of either family.
    #[inline(always)]
    pub fn hash(&self, seed: Seed) -> u32 {
        let last = (self.source_port.raw() as u64)
            | (self.destination_port.raw() as u64) << 16
            | (self.protocol as u64) << 32;
        if self.source.is_v4() {
            let addresses = (self.source.v4_raw() as u64) | (self.destination.v4_raw() as u64) << 32;
            siphash13([addresses, last | V4_BYTES << 56], seed)
        } else {
            let [a, b, c, d] = self.source.words;
            let [e, f, g, h] = self.destination.words;
            siphash13([pair(a, b), pair(c, d), pair(e, f), pair(g, h), last | V6_BYTES << 56], seed)
        }
    }
}

/// The slot of a hash in a table of `slots` (Lemire's multiply-shift reduction, no division).
#[inline(always)]
pub const fn slot(hash: u32, slots: u32) -> u32 {
    ((hash as u64 * slots as u64) >> 32) as u32
}

#[inline(always)]
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
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

/// SipHash-1-3 over a message as the paper pads it: the last word ends with the message's length in bytes.
#[inline(always)]
fn siphash13<const N: usize>(words: [u64; N], seed: Seed) -> u32 {
    let mut v = [
        seed[0] ^ 0x736f_6d65_7073_6575,
        seed[1] ^ 0x646f_7261_6e64_6f6d,
        seed[0] ^ 0x6c79_6765_6e65_7261,
        seed[1] ^ 0x7465_6462_7974_6573,
    ];
    for word in words {
        v[3] ^= word;
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    let hash = v[0] ^ v[1] ^ v[2] ^ v[3];
    (hash ^ (hash >> 32)) as u32
}
