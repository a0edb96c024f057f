//! One entry of a pool's Maglev table.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::backend::BackendId;

/// `{current, fallback, tracked, settling}` in one 8-byte word, so that a reader never sees half a slot.
///
/// Bits 0..31 are `current`, bit 31 `tracked`, bits 32..63 `fallback`, bit 63 `settling`.
/// A slot that is not tracked has `current == fallback` and needs no flow look-up.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Slot(pub u64);

impl Slot {
    const TRACKED: u64 = 1 << 31;
    const SETTLING: u64 = 1 << 63;
    const ID: u64 = (1 << 31) - 1;

    /// A slot in which every packet goes to `backend`.
    pub const fn stable(backend: BackendId) -> Self {
        Self(backend.0 as u64 | (backend.0 as u64) << 32)
    }

    /// A slot within a change from `fallback` to `current`.
    pub const fn tracked(current: BackendId, fallback: BackendId, settling: bool) -> Self {
        Self(
            current.0 as u64
                | Self::TRACKED
                | (fallback.0 as u64) << 32
                | if settling { Self::SETTLING } else { 0 },
        )
    }

    /// Where new flows go.
    #[inline(always)]
    pub const fn current(self) -> BackendId {
        BackendId((self.0 & Self::ID) as u32)
    }

    /// Whose the live flows without an entry are.
    #[inline(always)]
    pub const fn fallback(self) -> BackendId {
        BackendId(((self.0 >> 32) & Self::ID) as u32)
    }

    /// Whether packets of this slot need a flow look-up.
    #[inline(always)]
    pub const fn is_tracked(self) -> bool {
        self.0 & Self::TRACKED != 0
    }

    /// Whether the controller is about to give up `fallback`: what cannot be remembered is dropped meanwhile.
    #[inline(always)]
    pub const fn is_settling(self) -> bool {
        self.0 & Self::SETTLING != 0
    }
}
