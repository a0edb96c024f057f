//! Services, pools and backends as the controller thinks of them: checked, with defaults filled in.

mod agent;
mod cut;
pub mod flows;
mod health;
mod outlier;
mod overrides;
mod phase;
pub mod plan;
pub mod status;
mod tls;
mod weights;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

pub use agent::{Condition, Order, Report};
pub use cut::Cut;
pub use health::{Agent, Check, Exec, Grpc, Health, Http, Udp};
pub use outlier::Outlier;
pub use overrides::Override;
pub use phase::Phase;
pub use tls::{Tls, Trust};
pub use weights::{Adaptive, SlowStart, Weights};

/// One virtual IP, port and protocol that clients connect to (or several addresses of the same service).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique among services.
    pub name: String,
    /// Where clients connect; never empty, no duplicates.
    pub listen: Vec<SocketAddr>,
    /// The transport.
    pub protocol: Protocol,
    /// Name of an existing pool.
    pub pool: String,
    /// How packets reach a backend.
    pub forward: Forward,
    /// What happens where the kernel planes cannot serve it.
    pub fallback: Fallback,
    /// Who owns the VIP on the wire.
    pub announce: Announce,
    /// What a client's backend depends on.
    pub affinity: Affinity,
    /// Which flows the kernel planes remember.
    pub tracking: Tracking,
    /// What TCP's maximum segment size is lowered to on kernel planes, 536 to 65495; none: it stays.
    pub mss: Option<u32>,
    /// What new flows meet while no backend is fit.
    pub all_down: AllDown,
    /// How long a failed backend keeps its old flows.
    pub down_grace: Grace,
    /// Idle time-outs.
    pub timeouts: Timeouts,
}

impl Service {
    /// The listen addresses with their transport.
    pub fn listens(&self) -> impl Iterator<Item = Listen> + '_ {
        self.listen.iter().map(|&address| Listen { address, protocol: self.protocol })
    }
}

/// Where a service listens: TCP and UDP may do so on one address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen {
    /// The address and port.
    pub address: SocketAddr,
    /// The transport.
    pub protocol: Protocol,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.name(), self.address)
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => lb_common::address::TCP,
            Self::Udp => lb_common::address::UDP,
        }
    }

    /// The protocol of an IP protocol number, if it is one of the two.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| u16::from(protocol.number()) == number)
    }

    /// As the config says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// How a service's packets reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// The best that works here: nat where a kernel plane can serve it, else proxy. Whether the replies return through
    /// this host is not looked at.
    Auto,
    /// Destination NAT in the kernel planes; replies are translated on their way back.
    Nat,
    /// The splice proxy.
    Proxy,
}

/// What happens to a service that the kernel planes cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// The proxy plane takes it.
    Proxy,
    /// The daemon refuses to start, or to reload.
    Refuse,
}

/// Who owns the VIP on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Announce {
    /// Already local: leave it; on the proxy plane `Address`; on a link `Arp`; else `None`.
    Auto,
    /// The daemon puts the VIP on an interface and takes it off again.
    Address,
    /// The kernel planes answer ARP and neighbour discovery for it; the host itself never owns it.
    Arp,
    /// A router sends the VIP here.
    None,
}

/// What a client's backend depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// Source address and port.
    None,
    /// Source address alone.
    Source,
}

/// Which flows the kernel planes remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tracking {
    /// Those that a change could break.
    Auto,
    /// All, so that they can be counted and listed.
    Always,
}

/// What new flows meet while no backend is fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AllDown {
    /// Nobody.
    Refuse,
    /// All backends that are down: one of them may be better than its check says.
    ServeAll,
}

impl AllDown {
    /// As the config says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::ServeAll => "serve_all",
        }
    }
}

/// How long a failed backend keeps its old flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// So long; zero moves them at once.
    For(Duration),
    /// Until they end.
    Forever,
}

/// Idle time-outs of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Of an established flow (`T` of the slot rules) or proxy connection.
    pub established: Duration,
    /// Of a flow after a FIN or RST.
    pub closing: Duration,
    /// Of a flow whose handshake is not complete; the proxy's connect time-out.
    pub half_open: Duration,
    /// Of a UDP flow; UDP services have no other.
    pub udp: Duration,
}

impl Timeouts {
    /// How long a flow of `protocol` may be silent: `T` of the slot rules.
    pub const fn idle(&self, protocol: Protocol) -> Duration {
        match protocol {
            Protocol::Tcp => self.established,
            Protocol::Udp => self.udp,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            established: Duration::from_secs(3600),
            closing: Duration::from_secs(120),
            half_open: Duration::from_secs(5),
            udp: Duration::from_secs(30),
        }
    }
}

/// A named set of backends with one scheduler and one health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique among pools.
    pub name: String,
    /// How a backend is chosen for a new flow.
    pub scheduler: Scheduler,
    /// Slots of its Maglev tables: a prime, at least the number of backends of positive weight.
    pub table_size: u32,
    /// Whether effective weights follow the load.
    pub weights: Weights,
    /// How a backend that came up gets its weight.
    pub slow_start: SlowStart,
    /// How backends are checked.
    pub health: Health,
    /// When a backend is ejected for what its clients met; none: never.
    pub outlier: Option<Outlier>,
    /// In config order; addresses are unique within the pool.
    pub backends: Vec<Backend>,
}

/// How a backend is chosen for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// Consistent hashing (Eisenbud et al., "Maglev", NSDI 2016); all planes.
    Maglev,
    /// In turn, by weight; proxy plane only.
    RoundRobin,
}

impl Scheduler {
    /// Whether the kernel planes have it.
    pub const fn in_kernel(self) -> bool {
        matches!(self, Self::Maglev)
    }

    /// As the config says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::RoundRobin => "round_robin",
        }
    }
}

/// One address:port that serves a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// Share of new flows; 0: none, old ones stay.
    pub weight: u16,
    /// Used only while no other backend is up.
    pub backup: bool,
}

/// The state of a backend; the reason is always kept beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Takes new flows.
    Up,
    /// Failed its health check.
    Down,
    /// Takes no new flows, keeps old ones until they end or the deadline passes.
    Draining,
    /// Taken out by an operator (weight 0), no deadline.
    Maintenance,
    /// Not judged yet, or within its slow start.
    Starting,
}

/// What a data plane needs to know of one backend of a pool: the outcome of config, operator and health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Where it listens.
    pub address: SocketAddr,
    /// Effective weight; 0: no new flows.
    pub weight: u32,
    /// Which of its old flows may not stay: they are cut (moved in the kernel planes, reset in the proxy).
    pub cut: Cut,
}

/// The plane that forwards a service's traffic, or that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plane {
    /// Native XDP.
    Xdp,
    /// Generic XDP.
    XdpGeneric,
    /// tcx, or clsact where tcx is missing.
    Tc,
    /// The splice proxy.
    Proxy,
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
            Self::Proxy => "proxy",
        })
    }
}
