//! Ones'-complement arithmetic on network-order words (RFC 1071: byte order does not matter to the sum).

/// An unfolded ones'-complement sum. `swap` terms accumulate a change of covered fields, `~old + new` each
/// (RFC 1624, equation 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds one 16-bit word.
    #[inline(always)]
    #[must_use]
    pub const fn add16(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds two 16-bit words.
    #[inline(always)]
    #[must_use]
    pub const fn add32(self, words: u32) -> Self {
        Self(self.0 + words as u64)
    }

    /// A 16-bit field changes.
    #[inline(always)]
    #[must_use]
    pub const fn swap16(self, old: u16, new: u16) -> Self {
        self.add16(!old).add16(new)
    }

    /// A 32-bit field changes.
    #[inline(always)]
    #[must_use]
    pub const fn swap32(self, old: u32, new: u32) -> Self {
        self.add32(!old).add32(new)
    }

    /// A 128-bit field changes.
    #[inline(always)]
    #[must_use]
    pub const fn swap128(self, old: [u32; 4], new: [u32; 4]) -> Self {
        self.swap32(old[0], new[0]).swap32(old[1], new[1]).swap32(old[2], new[2]).swap32(old[3], new[3])
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Folded to 32 bits: the form of the kernel's `__wsum`.
    #[inline(always)]
    pub const fn fold32(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        (sum + (sum >> 32)) as u32
    }

    /// Folded to 16 bits.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// What a checksum field becomes when this change is made to what it covers. A wrong checksum stays
    /// wrong by the same amount: errors are passed on, never repaired.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !self.add16(!checksum).fold()
    }
}
