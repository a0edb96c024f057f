//! Whose the flows of an endpoint are, where its packets alone do not tell.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::{Address, Port, SocketKey};
use crate::service::ServiceId;

/// A client's tuple with an endpoint: there is at most one flow of it at a time.
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
pub struct ExactKey {
    /// The endpoint.
    pub endpoint: SocketKey,
    /// The client's address.
    pub client: Address,
    /// The client's port.
    pub port: Port,
    /// Zero.
    pub padding: u16,
}

/// What a part of an exact entry says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Claim {
    /// The client's initial sequence number; of UDP flows 0.
    pub isn: u32,
    /// Whose the flow is: a service's, [`ServiceId::DIRECT`], or [`ServiceId::NOBODY`] where this part is empty.
    pub whose: ServiceId,
    /// In ticks.
    pub expires: u32,
}

impl Claim {
    /// Nothing. (A constant of this type would stay behind in the object's read-only data.)
    #[inline(always)]
    pub const fn none() -> Self {
        Self { isn: 0, whose: ServiceId::NOBODY, expires: 0 }
    }
}

/// An exact entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Exact {
    /// What the endpoint has answered to.
    pub confirmed: Claim,
    /// What waits for its answer.
    pub pending: Claim,
}
