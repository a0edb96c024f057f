//! One check: connect, ask, judge the answer, all within the time-out.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http;
use crate::model::{Check, Health};

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Whether the backend does what was asked.
    pub(super) ok: bool,
    /// What `status` shows.
    pub(super) detail: String,
}

impl Outcome {
    pub(super) fn passed(detail: impl Into<String>) -> Self {
        Self { ok: true, detail: detail.into() }
    }

    pub(super) fn failed(detail: impl Into<String>) -> Self {
        Self { ok: false, detail: detail.into() }
    }
}

/// Checks once. An error means that this host could not even ask, so nothing is known of the backend.
pub(super) async fn probe(address: SocketAddr, health: Health) -> io::Result<Outcome> {
    match timeout(health.timeout, ask(address, &health.check)).await {
        Ok(outcome) => outcome,
        Err(_) => Ok(Outcome::failed(format!("no answer within {} ms", health.timeout.as_millis()))),
    }
}

async fn ask(address: SocketAddr, check: &Check) -> io::Result<Outcome> {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) if is_local(&error) => return Err(error),
        Err(error) => return Ok(Outcome::failed(describe(&error))),
    };
    Ok(match check {
        // Closed with a FIN, not a reset: servers log resets as errors, and the TIME-WAIT that a FIN costs is
        // on this host, one port for a minute.
        Check::None | Check::Tcp => Outcome::passed("connected"),
        Check::Http { path } => http::get(stream, address, path).await,
    })
}

/// Whether this host lacks what a connection needs: descriptors, memory, ports.
fn is_local(error: &io::Error) -> bool {
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
