//! Backends as the kernel planes see them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::{Address, Mac, Port, SocketKey};
use crate::service::ServiceId;

/// A backend's place in the backend map with the generation that lives there.
///
/// 20 bits of index, 11 bits of generation; the top bit is always 0, so that two ids and two flags fit the
/// 64 bits of a [`crate::Slot`]. Index 0 is never given out: id 0 means "no backend".
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
pub struct BackendId(pub u32);

impl BackendId {
    /// No backend.
    pub const NONE: Self = Self(0);
    const INDEX_BITS: u32 = 20;
    const GENERATION_MASK: u32 = (1 << 11) - 1;

    /// `index` below 2^20, `generation` taken modulo 2^11.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self(
            (index & ((1 << Self::INDEX_BITS) - 1))
                | ((generation & Self::GENERATION_MASK) << Self::INDEX_BITS),
        )
    }

    /// The index into the backend map.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & ((1 << Self::INDEX_BITS) - 1)
    }

    /// Which incarnation of the index this names.
    pub const fn generation(self) -> u32 {
        self.0 >> Self::INDEX_BITS
    }

    /// The same index under the next generation.
    pub const fn next_generation(self) -> Self {
        Self::new(self.index(), self.generation().wrapping_add(1))
    }

    /// Whether this names a backend at all.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

/// Where a frame goes next: MAC addresses, interface and what fits through it, kept up to date by the controller.
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
#[repr(C)]
pub struct NextHop {
    /// MAC address of the neighbour.
    pub destination: Mac,
    /// MAC address of our interface.
    pub source: Mac,
    /// Our interface; 0 while the neighbour is not resolved.
    pub ifindex: u32,
    /// The longest IP packet that our interface takes, in bytes.
    pub mtu: u32,
}

/// One entry of the backend map.
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
#[repr(C)]
pub struct Backend {
    /// Where it listens.
    pub address: Address,
    /// Where it listens.
    pub port: Port,
    /// The IP protocol number of what it serves under this id.
    pub protocol: u16,
    /// The id that lives here: any other id with this index names a dead backend. NONE: nobody lives here.
    pub id: BackendId,
    /// How to reach it; interface 0 while unknown.
    pub hop: NextHop,
    /// The one service whose flows to it need no exact entry: that of its endpoint.
    pub plain: ServiceId,
}

impl Backend {
    /// What its replies come from: its key in the endpoint map.
    pub const fn endpoint(&self) -> SocketKey {
        SocketKey { address: self.address, port: self.port, protocol: self.protocol }
    }
}
