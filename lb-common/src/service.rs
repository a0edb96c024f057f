//! Services as the kernel planes see them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::{SocketKey, TCP, UDP};
use crate::backend::BackendId;

/// A service's place in the traffic map with its generation: 16 bits each. Flow keys hold the whole id, so
/// entries of a removed service are never taken for another's.
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
pub struct ServiceId(pub u32);

impl ServiceId {
    /// In exact entries: no service's, but a flow that a client opened to the endpoint itself.
    pub const DIRECT: Self = Self(0);
    /// In exact entries: nobody's.
    pub const NOBODY: Self = Self(u32::MAX);

    /// `index` below 2^16, `generation` taken modulo 2^16.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self((index & 0xffff) | (generation << 16))
    }

    /// The index into the traffic map.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & 0xffff
    }

    /// Which incarnation of the index this names.
    pub const fn generation(self) -> u32 {
        self.0 >> 16
    }
}

/// [`Service::flags`]: hash the client's address alone (`affinity = "source"`).
pub const SOURCE_AFFINITY: u32 = 1;
/// [`Service::flags`]: this entry only marks its address as a VIP; it forwards nothing.
pub const VIP_MARKER: u32 = 2;
/// [`Service::flags`] of a marker: a service of this address speaks TCP.
pub const VIP_TCP: u32 = 4;
/// [`Service::flags`] of a marker: a service of this address speaks UDP.
pub const VIP_UDP: u32 = 8;

/// [`Service::flags`]: every flow is remembered (`tracking = "always"`).
pub const TRACK_ALWAYS: u32 = 16;

/// [`Service::flags`] of a marker: pings are answered.
pub const VIP_PING: u32 = 256;

/// The flag of a marker for the transport of an IP protocol number; 0 where no service can have it.
#[inline(always)]
pub const fn vip_of(protocol: u8) -> u32 {
    match protocol {
        TCP => VIP_TCP,
        UDP => VIP_UDP,
        _ => 0,
    }
}

impl Service {
    /// Whether every flow is remembered.
    #[inline(always)]
    pub const fn tracks_always(&self) -> bool {
        self.flags & TRACK_ALWAYS != 0
    }
}

/// One entry of the service map.
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
pub struct Service {
    /// Index and generation.
    pub id: ServiceId,
    /// Which Maglev table (index into the map of tables).
    pub table: u32,
    /// Slots of that table.
    pub slots: u32,
    /// [`SOURCE_AFFINITY`], [`TRACK_ALWAYS`], [`VIP_MARKER`], [`VIP_TCP`], [`VIP_UDP`].
    pub flags: u32,
    /// Idle time-out of an established flow in ticks (`timeouts.established`).
    pub established: u32,
    /// Time-out of a closing flow in ticks (`timeouts.closing`).
    pub closing: u32,
    /// Time-out of a half-open flow in ticks (`timeouts.half_open`).
    pub half_open: u32,
    /// TCP's maximum segment size is lowered to this; 0: it stays.
    pub mss: u32,
}

/// One entry of the endpoint map: which service a backend's replies belong to.
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
pub struct Endpoint {
    /// What clients connect to: the source that a reply must carry.
    pub vip: SocketKey,
    /// The backend that listens on this endpoint.
    pub backend: BackendId,
    /// The rules that forward to it, run backwards for a reply.
    pub service: Service,
}

/// One entry of the map of VIPs, by index of the service's id: what a reply becomes that an exact entry claims.
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
pub struct Vip {
    /// The source that a reply must carry.
    pub key: SocketKey,
    /// The service; another id with this index names one that is gone.
    pub service: Service,
}
