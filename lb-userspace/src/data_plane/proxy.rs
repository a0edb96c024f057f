//! The proxy plane's state: which services it accepts, and where their connections may go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::model::{Affinity, Listen, Member, Scheduler};

use super::PlaneError;
use super::flows::FlowSource;

/// What the proxy serves, or should serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyState {
    /// By listen address.
    pub services: BTreeMap<Listen, ProxyService>,
}

/// One listen address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyService {
    /// The service's name, for logs and counters.
    pub name: String,
    /// The pool's name.
    pub pool: String,
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// What a client's backend depends on.
    pub affinity: Affinity,
    /// Slots of the Maglev table.
    pub table_size: u32,
    /// Every backend that is or was in the pool; connections of one that is missing here, or that does not
    /// keep its flows, are reset.
    pub members: Vec<Member>,
    /// TCP: of connecting to a backend.
    pub connect_timeout: Duration,
    /// Without a byte or a datagram in either direction.
    pub idle_timeout: Duration,
    /// TCP: after one direction was closed, without a byte in the other.
    pub closing_timeout: Duration,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant's line names its fields")]
pub enum ProxyAction {
    /// Starts to accept.
    Listen { listen: Listen, service: ProxyService },
    /// Changes what new connections do, and cuts what has to be cut; open connections of other backends and
    /// the listener are not touched.
    Update { listen: Listen, service: ProxyService },
    /// Stops accepting. Open connections stay until `drain`, then they are reset.
    Close { listen: Listen, drain: Duration },
}

impl ProxyState {
    /// The state after `action`.
    pub fn record(&mut self, action: &ProxyAction) {
        match action {
            ProxyAction::Listen { listen, service } | ProxyAction::Update { listen, service } => {
                self.services.insert(*listen, service.clone());
            }
            ProxyAction::Close { listen, .. } => {
                self.services.remove(listen);
            }
        }
    }
}

/// What the proxy counted for a listen address or one of its backends. A *connection* of UDP is a client with its
/// socket to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyTraffic {
    /// Open now.
    pub connections: u64,
    /// Accepted (service) or opened (backend).
    pub new_connections: u64,
    /// From clients.
    pub bytes: u64,
    /// To clients.
    pub reply_bytes: u64,
    /// UDP: datagrams of clients that were sent on.
    pub packets: u64,
    /// UDP: datagrams sent to clients.
    pub reply_packets: u64,
    /// TCP: connections that found no backend (service), or that could not be opened (backend). UDP: datagrams
    /// that were dropped (service), and sockets that could not be opened or met an ICMP error (backend).
    pub failures: u64,
    /// TCP, of a backend: how long its connections took to open, in all.
    pub connecting: Duration,
    /// TCP: those of a backend's failures that took longer than they may.
    pub timeouts: u64,
}

/// What the proxy counted: by listen address, and within it by backend.
pub type ProxyCounters = BTreeMap<Listen, (ProxyTraffic, BTreeMap<SocketAddr, ProxyTraffic>)>;

/// The proxy plane.
pub trait ProxyPlane: Send {
    /// Does one step. Binding a listener is part of it, so errors such as an address in use are reported here.
    fn apply(&mut self, action: &ProxyAction) -> Result<(), PlaneError>;
    /// Its open connections, to be looked at while this is in use elsewhere.
    fn connections(&self) -> Box<dyn FlowSource>;
    /// What it has counted so far.
    fn traffic(&self) -> ProxyCounters;
}
