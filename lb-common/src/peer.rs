//! Whom a socket of this host was led to when it asked for a VIP.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::SocketKey;
use crate::backend::BackendId;

/// A socket, and an address that it names or hears from: a VIP, or a backend's endpoint.
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
pub struct PeerKey {
    /// The kernel's number of the socket, never given out twice (`SO_COOKIE`).
    pub socket: u64,
    /// The address.
    pub address: SocketKey,
    /// Always 0: keys are compared by their bytes.
    pub padding: u32,
}

impl PeerKey {
    /// `socket` as the kernel numbers it.
    #[inline(always)]
    pub const fn new(socket: u64, address: SocketKey) -> Self {
        Self { socket, address, padding: 0 }
    }
}

/// What stands behind such an address: the backend behind a VIP, the VIP behind a backend's endpoint.
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
pub struct Peer {
    /// The other address.
    pub address: SocketKey,
    /// The backend that the socket was led to.
    pub backend: BackendId,
}
