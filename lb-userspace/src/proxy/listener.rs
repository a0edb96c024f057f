//! A listen address: one `SO_REUSEPORT` socket for each worker, and the loop that accepts from it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as Socket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;

use crate::data_plane::PlaneError;

use super::counters::Counters;
use super::membership::Membership;
use super::session;
use super::target::Target;
use super::worker::Worker;

/// Connections that may wait to be accepted, for each socket; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Waits after a failed accept; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a listener should do.
#[derive(Clone, Debug)]
pub(super) enum Desired {
    /// Accept, for these backends.
    Open(Arc<Membership>),
    /// Stop accepting; reset what is left at this time.
    Closing(Instant),
}

/// One worker's socket of a listen address.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: Socket,
    pub(super) membership: Arc<Membership>,
    pub(super) desired: watch::Receiver<Desired>,
    pub(super) counters: Counters,
    /// Dropped when the socket is closed.
    pub(super) open: Sender<Infallible>,
}

/// Opens `count` sockets on one address, or none.
pub(super) fn bind(listen: SocketAddr, count: usize) -> Result<Vec<Socket>, PlaneError> {
    // Without SO_REUSEPORT first: with it, two programs of one user would share the clients and never know.
    open(listen, false)
        .and_then(|probe| {
            drop(probe);
            (0..count).map(|_| open(listen, true)).collect()
        })
        .map_err(|error| PlaneError::new(format!("listen {listen}"), explain(listen, &error)))
}

fn open(listen: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = socket2::Socket::new(Domain::for_address(listen), Type::STREAM.nonblocking(), None)?;
    if listen.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    // Accepted sockets inherit both: no delay, and a close that is a reset (see `session`).
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&listen.into())?;
    if share {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// The kernel's words, and the cure.
fn explain(listen: SocketAddr, error: &io::Error) -> String {
    let (ip, port) = (listen.ip(), listen.port());
    let cure = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "another program listens there, `ss -ltnp 'sport = :{port}'` shows it: stop it or move it"
            )
        }
        io::ErrorKind::AddrNotAvailable => format!(
            "the proxy plane needs {ip} on this host: announce = \"address\" puts it there, or `ip address add`"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("ports below net.ipv4.ip_unprivileged_port_start, like {port}, need CAP_NET_BIND_SERVICE")
        }
        _ => return format!("cannot listen: {error}"),
    };
    format!("cannot listen: {error} (hint: {cure})")
}

impl Listener {
    /// Accepts until told to close, then until the queue is empty, then waits for its connections.
    pub(super) async fn run(self, worker: Rc<Worker>) {
        let Self { socket, membership, mut desired, counters, open } = self;
        let sessions = TaskTracker::new();
        let target = Rc::new(RefCell::new(Target::new(membership, counters, worker.index)));
        let start = |client: TcpStream, address| {
            sessions.spawn_local(session::serve(client, address, Rc::clone(&target), Rc::clone(&worker)));
        };

        let deadline = match TcpListener::from_std(socket) {
            Ok(listener) => {
                let deadline = accept_until_closing(&listener, &mut desired, &target, &start).await;
                match listener.into_std() {
                    Ok(socket) => accept_rest(&socket, &start),
                    Err(error) => tracing::warn!(%error, "the accept queue is lost"),
                }
                deadline
            }
            Err(error) => {
                tracing::error!(%error, worker = worker.index, "a listener cannot be watched");
                Instant::now()
            }
        };
        drop(open);

        sessions.close();
        if timeout_at(deadline, sessions.wait()).await.is_err() {
            target.borrow().cut_all();
            sessions.wait().await;
        }
    }
}

/// The time to reset what is left.
async fn accept_until_closing(
    listener: &TcpListener,
    desired: &mut watch::Receiver<Desired>,
    target: &RefCell<Target>,
    start: &impl Fn(TcpStream, SocketAddr),
) -> Instant {
    let mut pause = Duration::ZERO;
    loop {
        let accepted = tokio::select! {
            biased;
            changed = desired.changed() => match changed {
                Ok(()) => None,
                Err(_) => return Instant::now(),
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
            Desired::Closing(deadline) => Some(*deadline),
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
        if let Some(deadline) = closing {
            return deadline;
        }
    }
}

/// Clients in the queue of a socket that is closed would be reset: takes them all first.
fn accept_rest(socket: &Socket, start: &impl Fn(TcpStream, SocketAddr)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_inherit_what_the_listener_has() {
        let [socket] = <[Socket; 1]>::try_from(bind("127.0.0.1:0".parse().unwrap(), 1).unwrap()).unwrap();
        let _client = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        let (accepted, _) = socket.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        assert_eq!(socket2::SockRef::from(&accepted).linger().unwrap(), Some(Duration::ZERO));
    }
}
