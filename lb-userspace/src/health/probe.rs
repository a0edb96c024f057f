//! One check: connect, ask, judge the answer, all within the time-out.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::way::Way;
use super::{agent, exec, grpc, http, tls, udp};
use crate::model::{Check, Health, Report};

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Whether the backend does what was asked.
    pub(super) ok: bool,
    /// What `status` shows.
    pub(super) detail: String,
    /// How much it proves.
    pub(super) proof: Proof,
    /// What an agent says.
    pub(super) report: Report,
}

/// How much one check proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// One of several that are needed.
    Usual,
    /// The host is there and refuses connections at once: the further failures need no pause between them.
    Refused,
    /// The network says that nobody can be reached there: no further failure is needed.
    Unreachable,
}

impl Outcome {
    pub(super) fn passed(detail: impl Into<String>) -> Self {
        Self { ok: true, ..Self::failed(detail) }
    }

    pub(super) fn failed(detail: impl Into<String>) -> Self {
        Self { ok: false, detail: detail.into(), proof: Proof::Usual, report: Report::default() }
    }

    /// Of a socket's error.
    pub(super) fn of_error(error: &io::Error) -> Self {
        let proof = match error.kind() {
            io::ErrorKind::ConnectionRefused => Proof::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Proof::Unreachable,
            _ => Proof::Usual,
        };
        Self { proof, ..Self::failed(describe(error)) }
    }
}

/// Checks a backend once. An error means that this host could not even ask, so nothing is known of the backend.
pub(super) async fn probe(backend: SocketAddr, health: Health) -> io::Result<Outcome> {
    let deadline = Instant::now() + health.timeout;
    let late = |what: &str| Outcome::failed(format!("no {what} within {} ms", health.timeout.as_millis()));
    let way = Way::to(backend, &health);
    let endpoint = way.endpoint;
    match &health.check {
        Check::Udp(udp) => {
            let answer = timeout_at(deadline, udp::ask(way, udp)).await;
            return answer.unwrap_or_else(|_| Ok(late("answer")));
        }
        Check::Exec(exec) => {
            let result = timeout_at(deadline, exec::ask(endpoint, exec)).await;
            return result.unwrap_or_else(|_| Ok(late("result")));
        }
        Check::None | Check::Tcp | Check::Tls(_) | Check::Http(_) | Check::Grpc(_) | Check::Agent(_) => {}
    }
    let connected = match timeout_at(deadline, way.connect()).await {
        Err(_) => return Ok(late("connection")),
        Ok(connected) => connected,
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) if is_local(&error) => return Err(error),
        Err(error) => return Ok(Outcome::of_error(&error)),
    };
    let answer = timeout_at(deadline, ask(stream, endpoint, &health.check)).await;
    Ok(answer.unwrap_or_else(|_| late("answer")))
}

async fn ask(stream: TcpStream, endpoint: SocketAddr, check: &Check) -> Outcome {
    match check {
        Check::Grpc(grpc) => grpc::ask(stream, endpoint, grpc).await,
        // Closed with a FIN, not a reset: servers log resets as errors, and the TIME-WAIT that a FIN costs is
        // on this host, one port for a minute.
        Check::None | Check::Tcp | Check::Udp(_) | Check::Exec(_) => Outcome::passed("connected"),
        Check::Tls(tls) => tls::ask(stream, endpoint, tls).await,
        Check::Http(http) => http::ask(stream, endpoint, http).await,
        Check::Agent(agent) => agent::ask(stream, agent).await,
    }
}

/// Whether this host lacks what a connection needs: descriptors, memory, ports, the source address.
pub fn is_local(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

/// In a few words where the standard library has them.
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::TimedOut => error.kind().to_string(),
        _ => error.to_string(),
    }
}
