//! One worker's part of a listen address; for TCP, the loop that accepts.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;

use crate::model::Cut;

use super::bind::Socket;
use super::counters::Counters;
use super::datagrams;
use super::membership::Membership;
use super::session;
use super::target::Target;
use super::worker::Worker;

/// Waits after a failed accept; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a listener should do.
#[derive(Clone, Debug)]
pub(super) enum Desired {
    /// Take clients, for these backends.
    Open(Arc<Membership>),
    /// Take no new clients; cut what is left.
    Closing(End),
}

/// How what is left is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// From then on.
    pub(super) deadline: Instant,
    /// One connection after another over this time; datagrams' clients all at once.
    pub(super) spread: Duration,
}

impl End {
    /// All of it now.
    pub(super) fn now() -> Self {
        Self { deadline: Instant::now(), spread: Duration::ZERO }
    }
}

/// One worker's socket of a listen address.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: Socket,
    pub(super) membership: Arc<Membership>,
    pub(super) desired: watch::Receiver<Desired>,
    pub(super) counters: Counters,
    /// Dropped when no new clients are taken.
    pub(super) open: Sender<Infallible>,
    /// Dropped when the socket is closed.
    pub(super) bound: Sender<Infallible>,
}

impl Listener {
    /// Serves until told to close, then until the last client is gone.
    pub(super) async fn run(self, worker: Rc<Worker>) {
        let Self { socket, membership, desired, counters, open, bound } = self;
        let target = Target::new(membership, counters, worker.index);
        match socket {
            Socket::Tcp(socket) => accept(socket, target, desired, worker, (open, bound)).await,
            Socket::Udp(socket, group) => {
                datagrams::serve((socket, group), target, desired, worker, open).await;
                drop(bound);
            }
        }
    }
}

/// Accepts until told to close, then until the queue is empty, then waits for its connections.
async fn accept(
    socket: std::net::TcpListener,
    target: Target,
    mut desired: watch::Receiver<Desired>,
    worker: Rc<Worker>,
    open: (Sender<Infallible>, Sender<Infallible>),
) {
    let sessions = TaskTracker::new();
    let target = Rc::new(RefCell::new(target));
    let start = |client: TcpStream, address| {
        sessions.spawn_local(session::serve(client, address, Rc::clone(&target), Rc::clone(&worker)));
    };

    let end = match TcpListener::from_std(socket) {
        Ok(listener) => {
            let end = accept_until_closing(&listener, &mut desired, &target, &start).await;
            match listener.into_std() {
                Ok(socket) => accept_rest(&socket, &start),
                Err(error) => tracing::warn!(%error, "the accept queue is lost"),
            }
            end
        }
        Err(error) => {
            tracing::error!(%error, worker = worker.index, "a listener cannot be watched");
            End::now()
        }
    };
    drop(open);

    sessions.close();
    let (deadline, spread) = (end.deadline.into_std(), end.spread);
    let mut step = Some(deadline);
    while let Some(next) = step {
        if timeout_at(next.into(), sessions.wait()).await.is_ok() {
            return;
        }
        let now = Instant::now().into_std();
        target.borrow().cut(Cut::at(deadline, spread, now));
        step = Cut::next(deadline, spread, now);
    }
    sessions.wait().await;
}

/// How to reset what is left.
async fn accept_until_closing(
    listener: &TcpListener,
    desired: &mut watch::Receiver<Desired>,
    target: &RefCell<Target>,
    start: &impl Fn(TcpStream, SocketAddr),
) -> End {
    let mut pause = Duration::ZERO;
    loop {
        let accepted = tokio::select! {
            biased;
            changed = desired.changed() => match changed {
                Ok(()) => None,
                Err(_) => return End::now(),
            },
            accepted = async {
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                listener.accept().await
            } => Some(accepted),
        };
        // Looked at after accept(2): whoever connects after a change meets the changed backends.
        let closing = match &*desired.borrow_and_update() {
            Desired::Open(membership) => {
                target.borrow_mut().update(membership);
                None
            }
            Desired::Closing(end) => Some(*end),
        };
        match accepted {
            Some(Ok((client, address))) => {
                pause = Duration::ZERO;
                start(client, address);
            }
            // A client that has gone already.
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Mostly EMFILE or ENFILE: the client stays in the queue, and asking at once would only spin.
            Some(Err(error)) => {
                if pause.is_zero() {
                    tracing::warn!(%error, "cannot accept (hint: raise the limit of open files)");
                }
                pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            }
            None => {}
        }
        if let Some(end) = closing {
            return end;
        }
    }
}

/// Clients in the queue of a socket that is closed would be reset: takes them all first.
fn accept_rest(socket: &std::net::TcpListener, start: &impl Fn(TcpStream, SocketAddr)) {
    loop {
        match socket.accept() {
            Ok((client, address)) => {
                match client.set_nonblocking(true).and_then(|()| TcpStream::from_std(client)) {
                    Ok(client) => start(client, address),
                    Err(error) => tracing::warn!(%error, %address, "cannot watch a client"),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                tracing::warn!(%error, "the accept queue is lost");
                return;
            }
            Err(_) => {}
        }
    }
}
