//! What the kernel programs and the controller both read: map keys and values, ids, names, and the
//! little arithmetic that both sides must do alike.
//!
//! Nothing else belongs here. Every type is plain bytes without implicit padding (proven by zerocopy's
//! derives, frozen by `tests/layout.rs`), because pinned maps outlive the build that made them. No `bool`,
//! `Option` or enum crosses the boundary: those have invalid bit patterns.
#![no_std]

pub mod address;
pub mod backend;
pub mod buckets;
pub mod counters;
pub mod exact;
pub mod flow;
pub mod flow_table;
pub mod hash;
pub mod layout;
pub mod limits;
pub mod names;
pub mod peer;
#[cfg(feature = "user")]
mod pod;
pub mod route;
pub mod service;
pub mod slot;
pub mod station;
pub mod ticks;

pub use address::{Address, Mac, Port, SocketKey};
pub use backend::{Backend, BackendId, NextHop};
pub use counters::{Counter, Handshake, Handshakes, Traffic};
pub use exact::{Claim, Exact, ExactKey};
pub use flow::{Flow, FlowKey, HalfOpen};
pub use peer::{Peer, PeerKey};
pub use service::{Endpoint, Service, ServiceId, Vip};
pub use slot::Slot;
pub use station::Station;
