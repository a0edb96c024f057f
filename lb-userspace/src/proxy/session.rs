//! One connection, from accept to its end: pick a backend, connect, relay.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::health::is_local;

use super::counters::Shard;
use super::membership::Backend;
use super::registry::Entry;
use super::target::{Choice, Target};
use super::transfer::{End, relay};
use super::worker::Worker;

/// Backends that are tried before a client is sent away.
const TRIES: usize = 3;

/// Serves one accepted client. Both sockets are such that closing them is a reset, until the connection has run
/// to its end: so a cut, a deadline or a panic needs to do nothing but drop this future.
pub(super) async fn serve(
    client: TcpStream,
    address: SocketAddr,
    target: Rc<RefCell<Target>>,
    worker: Rc<Worker>,
) {
    let counters = target.borrow().counters.clone();
    let counters = counters.shard(worker.index);
    let _open = counters.open();
    let entry = worker.registry.enter(target.borrow().listen(), address);
    let mut tried = Vec::new();
    while tried.len() < TRIES {
        let Some(choice) = target.borrow_mut().pick(address, &tried) else { break };
        let attempt = attempt(&client, &choice, counters, &entry, &worker);
        let outcome = tokio::select! {
            biased;
            () = choice.backend.cut(Backend::rank()) => return,
            outcome = attempt => outcome,
        };
        let Err(error) = outcome else { return };
        tracing::debug!(backend = %choice.backend.address, %error, "cannot connect");
        if is_local(&error) {
            worker.complaints.make(&error, Instant::now());
        } else {
            let shard = choice.backend.counters.shard(worker.index);
            shard.fail();
            match error.kind() {
                io::ErrorKind::TimedOut => shard.time_out(),
                // Where nobody listens, or too many are told already, the next check will see.
                io::ErrorKind::ConnectionRefused => drop(worker.refusals.try_send(choice.backend.address)),
                _ => {}
            }
        }
        tried.push(choice.backend.address);
    }
    counters.fail();
}

/// Connects, then relays to the end; an error says that it could not connect.
async fn attempt(
    client: &TcpStream,
    choice: &Choice,
    counters: &Shard,
    entry: &Entry<'_>,
    worker: &Rc<Worker>,
) -> io::Result<()> {
    let started = Instant::now();
    let backend = tokio::select! {
        connected = timeout(choice.connect_timeout, connect(choice.backend.address)) => connected??,
        // The client has given up.
        _ = client.ready(Interest::ERROR) => return Ok(()),
    };
    let shard = choice.backend.counters.shard(worker.index);
    shard.connected(started.elapsed());
    let _open = shard.open();
    entry.connected(choice.backend.address);
    let end = relay(client, &backend, &worker.pools, worker.splice, choice.patience, [counters, shard]).await;
    match end {
        End::Closed => {
            for socket in [client, &backend] {
                // It fails only on a socket that has nothing left to lose.
                let _ = SockRef::from(socket).set_linger(None);
            }
        }
        End::Broken | End::Idle => {
            tracing::debug!(backend = %choice.backend.address, ?end, "connection reset");
        }
    }
    Ok(())
}

async fn connect(backend: SocketAddr) -> io::Result<TcpStream> {
    let socket = if backend.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    socket.set_zero_linger()?;
    socket.connect(backend).await
}
