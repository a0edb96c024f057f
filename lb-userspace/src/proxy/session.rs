//! One connection, from accept to its end: pick a backend, connect, relay.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::counters::Shard;
use super::target::{Choice, Target};
use super::transfer::{End, relay};
use super::worker::Worker;

/// Backends that are tried before a client is sent away.
const TRIES: usize = 3;

/// Serves one accepted client. However this future ends - it returns, it is dropped, it panics - a connection
/// that did not run to its end is reset on both sides.
pub(super) async fn serve(
    client: TcpStream,
    address: SocketAddr,
    target: Rc<RefCell<Target>>,
    worker: Rc<Worker>,
) {
    let client = Resetting::new(client);
    let counters = target.borrow().counters.clone();
    let counters = counters.shard(worker.index);
    let _open = counters.open();
    let mut tried = Vec::new();
    while tried.len() < TRIES {
        let Some(choice) = target.borrow_mut().pick(address, &tried) else { break };
        let attempt = attempt(&client, &choice, counters, &worker);
        let Some(Err(error)) = choice.backend.cut.run_until_cancelled(attempt).await else { return };
        tracing::debug!(backend = %choice.backend.address, %error, "cannot connect");
        choice.backend.counters.shard(worker.index).fail();
        tried.push(choice.backend.address);
    }
    counters.fail();
}

/// Connects, then relays to the end; an error says that it could not connect.
async fn attempt(
    client: &Resetting,
    choice: &Choice,
    counters: &Shard,
    worker: &Rc<Worker>,
) -> io::Result<()> {
    let backend = tokio::select! {
        connected = timeout(choice.connect_timeout, TcpStream::connect(choice.backend.address)) => connected??,
        // The client has given up.
        _ = client.ready(Interest::ERROR) => return Ok(()),
    };
    let backend = Resetting::new(backend);
    backend.set_nodelay(true)?;
    let shard = choice.backend.counters.shard(worker.index);
    let _open = shard.open();
    let end = relay(client, &backend, &worker.pools, worker.splice, choice.patience, [counters, shard]).await;
    match end {
        End::Closed => {
            client.keep();
            backend.keep();
        }
        End::Broken | End::Idle => {
            tracing::debug!(backend = %choice.backend.address, ?end, "connection reset");
        }
    }
    Ok(())
}

/// A socket that is reset when it is dropped, unless its stream has ended in both directions.
struct Resetting {
    stream: TcpStream,
    ended: std::cell::Cell<bool>,
}

impl Resetting {
    fn new(stream: TcpStream) -> Self {
        Self { stream, ended: false.into() }
    }

    fn keep(&self) {
        self.ended.set(true);
    }
}

impl Deref for Resetting {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl Drop for Resetting {
    fn drop(&mut self) {
        if !self.ended.get()
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "cannot reset");
        }
    }
}
