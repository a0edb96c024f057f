//! Where the data path speaks for a VIP.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::Address;

/// An interface on whose link a VIP is found by asking: the data path answers ARP and neighbour discovery there,
/// and nowhere else. Its value in the map is the [`NextHop`](crate::NextHop) of answers, but for the destination, which is
/// whoever asks.
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
pub struct Station {
    /// The VIP.
    pub vip: Address,
    /// The interface's index.
    pub ifindex: u32,
}
