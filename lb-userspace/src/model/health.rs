//! Health checks: what is asked, where and how often.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::{HeaderMap, Method};

use super::tls::Tls;

/// A health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// Between the starts of two checks of a backend.
    pub interval: Duration,
    /// The same while the last checks contradict the judgement; at most `interval`.
    pub fast_interval: Duration,
    /// By how many percent a pause may be shorter, at random, so that checks spread; at most 50.
    pub jitter: u32,
    /// Of one check; at most `interval`.
    pub timeout: Duration,
    /// Consecutive successes that bring a backend up; at least 1.
    pub rise: u32,
    /// Consecutive failures that take it down; at least 1.
    pub fall: u32,
    /// Where checks ask instead of at the backend's address.
    pub address: Option<IpAddr>,
    /// Where checks ask instead of at the backend's port; never 0.
    pub port: Option<u16>,
    /// Where checks of the same family come from.
    pub source: Option<IpAddr>,
    /// An agent that is asked beside: its own check is always [`Check::Agent`], and it has no other beside it. Only
    /// what it says counts, not whether it answers.
    pub agent: Option<Arc<Self>>,
}

impl Health {
    /// Whether anything is asked of backends.
    pub fn asks(&self) -> bool {
        self.check != Check::None || self.agent.is_some()
    }

    /// Whether an agent is asked.
    pub fn asks_agent(&self) -> bool {
        matches!(self.check, Check::Agent(_)) || self.agent.is_some()
    }

    /// Where checks of a backend ask.
    pub fn endpoint(&self, backend: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(backend.ip()), self.port.unwrap_or(backend.port()))
    }

    /// Where checks of an endpoint come from, if it is not for the kernel to choose.
    pub fn source_to(&self, endpoint: SocketAddr) -> Option<IpAddr> {
        self.source.filter(|source| source.is_ipv4() == endpoint.is_ipv4())
    }
}

impl Default for Health {
    fn default() -> Self {
        let interval = Duration::from_secs(1);
        Self {
            check: Check::Tcp,
            interval,
            fast_interval: interval,
            jitter: 10,
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            address: None,
            port: None,
            source: None,
            agent: None,
        }
    }
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing: backends count as up.
    None,
    /// That a TCP connection is accepted.
    Tcp,
    /// That a TLS handshake succeeds.
    Tls(Arc<Tls>),
    /// That a request is answered as it should.
    Http(Arc<Http>),
    /// That the gRPC health protocol says SERVING.
    Grpc(Arc<Grpc>),
    /// That a datagram is answered.
    Udp(Arc<Udp>),
    /// That a program succeeds.
    Exec(Arc<Exec>),
    /// What an agent says of the backend.
    Agent(Arc<Agent>),
}

/// A question to an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// What is sent; empty: nothing.
    pub send: Vec<u8>,
}

/// A question by the gRPC health protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grpc {
    /// The service that is asked about; empty: the server as a whole.
    pub service: String,
    /// The authority of the request; none: the address that is asked.
    pub host: Option<String>,
    /// None: HTTP/2 without encryption.
    pub tls: Option<Tls>,
}

/// A datagram and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// What is sent.
    pub send: Vec<u8>,
    /// What the answer holds, not empty; none: any answer will do.
    pub expect: Option<Vec<u8>>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// An absolute path.
    pub program: PathBuf,
    /// What it is called with.
    pub arguments: Vec<String>,
}

/// A request and the answer that it should get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Never CONNECT.
    pub method: Method,
    /// The `Host` header; none: the address that is asked.
    pub host: Option<String>,
    /// Begins with `/`.
    pub path: String,
    /// Further headers.
    pub headers: HeaderMap,
    /// The accepted status codes; never empty.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the body holds; none: it is not read.
    pub body: Option<String>,
    /// HTTPS: over HTTP/2 where the backend has it; none: HTTP/1.1 without encryption.
    pub tls: Option<Tls>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            method: Method::GET,
            host: None,
            path: "/".to_owned(),
            headers: HeaderMap::new(),
            status: vec![200..=399],
            body: None,
            tls: None,
        }
    }
}
