//! The API: HTTP/1.1 over a unix socket, and over loopback TCP where the config asks for it. It runs on a
//! thread of its own, so that a busy data plane cannot keep an operator out.

mod access;
pub mod api;
pub mod client;
mod extract;
pub mod problem;
mod routes;
mod serve;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::thread;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config;
use crate::controller::request::Handle;
use crate::model::Phase;

pub use access::{Token, TokenError};
pub use socket::{AdminSocket, SocketError};

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The unix socket could not be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Refused, or in use.
    #[error("admin.listen = {address}: {reason}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What is wrong, and the cure.
        reason: String,
    },
    /// No thread or no runtime.
    #[error("the admin thread cannot be started: {0}")]
    Thread(#[from] io::Error),
}

impl AdminError {
    /// Whether rights are missing.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Socket(SocketError { denied: true, .. }))
    }
}

/// Bound, but not served yet.
#[derive(Debug)]
pub struct Admin {
    socket: AdminSocket,
    tcp: Option<Tcp>,
}

#[derive(Debug)]
struct Tcp {
    listener: std::net::TcpListener,
    token: Option<Token>,
}

impl Admin {
    /// Binds what the config asks for.
    pub fn bind(config: &config::Admin) -> Result<Self, AdminError> {
        let token = config.token_file.as_deref().map(Token::read).transpose()?;
        let tcp = config.listen.map(|address| bind_tcp(address, token)).transpose()?;
        Ok(Self { socket: AdminSocket::bind(&config.socket)?, tcp })
    }

    /// Where the TCP listener is, for a config that leaves the port open (0).
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.listener.local_addr().ok()
    }

    /// Serves on a thread of its own until the result is dropped.
    pub fn start(self, controller: Handle, phase: watch::Receiver<Phase>) -> Result<Serving, AdminError> {
        let stop = CancellationToken::new();
        let serve = serve::serve(self, routes::router(controller, phase), stop.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("admin".into()).spawn(move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::error!(%error, "the API has ended");
            }
        })?;
        Ok(Serving { stop: Some(stop.drop_guard()), thread: Some(thread) })
    }
}

fn bind_tcp(address: SocketAddr, token: Option<Token>) -> Result<Tcp, AdminError> {
    let error = |reason: String| AdminError::Listen { address, reason };
    if !address.ip().is_loopback() {
        return Err(error(
            "is not a loopback address (hint: 127.0.0.1, or a tunnel to the unix socket)".into(),
        ));
    }
    let listener = std::net::TcpListener::bind(address).map_err(|source| error(source.to_string()))?;
    listener.set_nonblocking(true).map_err(|source| error(source.to_string()))?;
    Ok(Tcp { listener, token })
}

/// The API is served while this lives.
#[derive(Debug)]
pub struct Serving {
    stop: Option<DropGuard>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the admin thread panicked");
        }
    }
}
