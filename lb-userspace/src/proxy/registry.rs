//! The open connections of one worker, for those who want to see them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::data_plane::PlaneError;
use crate::data_plane::flows::{FlowSource, Listing, SeenFlow};
use crate::model::Listen;
use crate::model::flows::FlowState;

use super::worker::Command;

/// How long a worker may take to look through its connections.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections by a number that is never given out again.
#[derive(Debug, Default)]
pub(super) struct Registry {
    open: RefCell<HashMap<u64, Rc<Connection>>>,
    next: Cell<u64>,
}

/// What is known of a connection.
#[derive(Debug)]
struct Connection {
    listen: Listen,
    client: SocketAddr,
    /// `None`: not connected yet.
    backend: Cell<Option<SocketAddr>>,
    begun: Instant,
}

impl Registry {
    /// Shows a connection for as long as the result lives.
    pub(super) fn enter(&self, listen: Listen, client: SocketAddr) -> Entry<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        let connection =
            Rc::new(Connection { listen, client, backend: Cell::new(None), begun: Instant::now() });
        self.open.borrow_mut().insert(number, Rc::clone(&connection));
        Entry { registry: self, number, connection }
    }

    /// Offers every connection.
    pub(super) fn list(&self, listing: &mut Listing) {
        for connection in self.open.borrow().values() {
            let backend = connection.backend.get();
            listing.offer(SeenFlow {
                listen: connection.listen,
                client: connection.client,
                backend,
                state: if backend.is_some() { FlowState::Established } else { FlowState::HalfOpen },
                expires: None,
                age: Some(connection.begun.elapsed()),
            });
        }
    }
}

/// A connection that is shown.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    registry: &'a Registry,
    number: u64,
    connection: Rc<Connection>,
}

impl Entry<'_> {
    /// Its backend is connected.
    pub(super) fn connected(&self, backend: SocketAddr) {
        self.connection.backend.set(Some(backend));
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.registry.open.borrow_mut().remove(&self.number);
    }
}

/// The connections of all workers. Each looks through its own, so that none needs a lock to open one.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) workers: Vec<UnboundedSender<Command>>,
}

impl FlowSource for Connections {
    fn list(&self, listing: &mut Listing) -> Result<(), PlaneError> {
        for (index, worker) in self.workers.iter().enumerate() {
            let (reply, answer): (Sender<Listing>, _) = channel();
            // One that has ended has no connections.
            let _ = worker.send(Command::List(listing.part(), reply));
            match answer.recv_timeout(PATIENCE) {
                Ok(part) => listing.join(part),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    return Err(PlaneError::new(format!("proxy worker {index}"), "does not answer"));
                }
            }
        }
        Ok(())
    }
}
