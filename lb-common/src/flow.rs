//! What is remembered about flows in tracked slots.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::{Address, Port};
use crate::backend::BackendId;
use crate::service::ServiceId;

/// A flow of one service: the key of both flow tables.
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
pub struct FlowKey {
    /// The client's address.
    pub client: Address,
    /// The service with its generation.
    pub service: ServiceId,
    /// The client's port.
    pub port: Port,
    /// Zero.
    pub padding: u16,
}

/// A flow whose handshake has not been proven yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HalfOpen {
    /// Where its SYN went.
    pub backend: BackendId,
    /// The slot of the flow, for the sweep.
    pub slot: u32,
    /// The table that the slot is in.
    pub table: u32,
    /// The client's initial sequence number.
    pub isn: u32,
    /// The last two initial sequence numbers that the backend answered with.
    pub server_isn: [u32; 2],
    /// How many were recorded so far; the last two of them are in `server_isn`.
    pub recorded: u32,
    /// In ticks.
    pub expires: u32,
    /// 1: the handshake was completed while the flow table was full; counts as a flow and lives as long.
    pub proven: u32,
}

impl HalfOpen {
    /// Remembers an initial sequence number of the backend beside the last one.
    pub fn record_server(&mut self, isn: u32) {
        let known = self.server_isn.iter().take(self.recorded as usize).any(|seen| *seen == isn);
        if !known {
            let place = (self.recorded & 1) as usize;
            if let Some(slot) = self.server_isn.get_mut(place) {
                *slot = isn;
            }
            self.recorded = self.recorded.wrapping_add(1).max(1);
        }
    }
}

/// A flow whose handshake was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flow {
    /// Where it goes.
    pub backend: BackendId,
    /// The slot of the flow, for the sweep.
    pub slot: u32,
    /// The table that the slot is in.
    pub table: u32,
    /// The client's last plausible sequence number.
    pub seq: u32,
    /// In ticks.
    pub expires: u32,
    /// 1: a FIN or RST near `seq` was seen.
    pub closing: u32,
}
