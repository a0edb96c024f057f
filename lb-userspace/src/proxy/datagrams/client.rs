//! One client of a UDP service: its socket to its backend.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recvfrom, send};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::proxy::later;
use crate::proxy::membership::Backend;
use crate::proxy::target::Choice;

/// An ICMP error makes a socket ready too; the next call on it tells which.
const NEWS: Interest = Interest::READABLE.add(Interest::ERROR);

/// A client and where its datagrams go.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) backend: Arc<Backend>,
    socket: UdpSocket,
    idle: Duration,
    /// When the last datagram passed, either way.
    active: Cell<Instant>,
    end: CancellationToken,
    /// Of the cuts of its backend.
    rank: u8,
}

/// Whether an error of [`Client::send`] says no more than that this datagram cannot be sent now: the queue is
/// full, the datagram too long, a firewall in the way.
pub(super) fn is_of_datagram(error: &io::Error) -> bool {
    let errors = [Errno::AGAIN, Errno::NOBUFS, Errno::NOMEM, Errno::MSGSIZE, Errno::PERM];
    errors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Client {
    /// Opens a socket that talks to the chosen backend and hears nobody else.
    pub(super) fn connect(address: SocketAddr, choice: &Choice) -> io::Result<Self> {
        let backend = &choice.backend;
        let socket = Socket::new(Domain::for_address(backend.address), Type::DGRAM.nonblocking(), None)?;
        socket.connect(&backend.address.into())?;
        Ok(Self {
            address,
            backend: Arc::clone(backend),
            socket: UdpSocket::from_std(socket.into())?,
            idle: choice.patience.idle,
            active: Cell::new(Instant::now()),
            end: CancellationToken::new(),
            rank: Backend::rank(),
        })
    }

    /// Sends a datagram to the backend. Does not go by what the reactor knows: of a new socket that is nothing.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(&self.socket, bytes, SendFlags::DONTWAIT)?;
        self.active.set(Instant::now());
        Ok(())
    }

    /// Waits for a datagram of the backend, or an error.
    pub(super) async fn ready(&self) -> io::Result<()> {
        self.socket.ready(NEWS).await.map(drop)
    }

    /// The next datagram of the backend.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let Backend { address, .. } = &*self.backend;
        loop {
            let mut receive = || Ok(recvfrom(&self.socket, &mut *buffer, RecvFlags::DONTWAIT)?);
            // Tokio takes one interest at a time here.
            let received = match self.socket.try_io(Interest::READABLE, &mut receive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.try_io(Interest::ERROR, receive)
                }
                other => other,
            };
            let (length, _, from) = received?;
            let from = from.and_then(|from| SocketAddr::try_from(from).ok());
            // Between getting a port and being connected, a socket hears everyone for a moment.
            if from.is_some_and(|from| from.ip() == address.ip() && from.port() == address.port()) {
                self.active.set(Instant::now());
                return Ok(buffer.get(..length).unwrap_or_default());
            }
        }
    }

    /// Ends it because of an error of its socket, and counts that.
    pub(super) fn fail(&self, error: &io::Error, worker: usize) {
        tracing::debug!(client = %self.address, backend = %self.backend.address, %error, "client ended");
        self.backend.counters.shard(worker).fail();
        self.end.cancel();
    }

    /// Whether it has ended, by an error or with its backend.
    pub(super) fn is_cut(&self) -> bool {
        self.end.is_cancelled() || self.backend.takes(self.rank)
    }

    /// Waits for that.
    pub(super) async fn cut(&self) {
        tokio::select! {
            () = self.end.cancelled() => {}
            () = self.backend.cut(self.rank) => {}
        }
    }

    /// Waits until no datagram has passed for the idle time-out.
    pub(super) async fn silence(&self) {
        loop {
            let deadline = later(self.active.get(), self.idle);
            if Instant::now() >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}
