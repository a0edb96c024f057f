//! The document of `sluice flows` and `GET /api/v1/flows`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Plane;

/// Some of the flows that are remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowList {
    /// In no order; at most as many as were asked for.
    pub flows: Vec<FlowEntry>,
    /// How many there are that were asked for, listed or not.
    pub matched: u64,
}

/// One flow: on the kernel planes an entry of the flow tables, on the proxy plane an open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowEntry {
    /// Which plane remembers it.
    pub plane: Plane,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// How far it is.
    pub state: FlowState,
    /// The client's address and port.
    pub client: SocketAddr,
    /// As in the config.
    pub service: String,
    /// What the client talks to.
    pub listen: SocketAddr,
    /// Who serves it; null: none has been found yet.
    pub backend: Option<SocketAddr>,
    /// Seconds until it is forgotten if it stays silent; null on the proxy plane.
    pub expires_s: Option<f64>,
    /// Seconds since it began; null on the kernel planes, which do not write that down.
    pub age_s: Option<f64>,
}

/// How far a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowState {
    /// The handshake is not complete; proxy: a backend is being connected.
    HalfOpen,
    /// It is, or needs none.
    Established,
    /// A FIN or RST was seen.
    Closing,
}

impl FlowState {
    /// As the document says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }
}
