//! The proxy plane: TCP services carried in user space, where the kernel planes cannot.
//!
//! Thread per core. Every worker has a listener of its own for each listen address (the kernel spreads clients
//! over them), and a connection never leaves the worker that accepted it. Workers share what a change brings
//! (see `membership`), read when a client is accepted, and counters, of which each writes its own part.

mod counters;
mod listener;
mod membership;
mod pools;
mod relay;
mod schedule;
mod session;
mod splice;
mod target;
mod transfer;
mod worker;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use lb_common::hash::Seed;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::data_plane::PlaneError;
use crate::data_plane::proxy::{ProxyAction, ProxyPlane, ProxyService, ProxyTraffic};

use counters::Counters;
use listener::{Desired, Listener};
use membership::Membership;
use worker::{Command, Thread};

/// How long `Close` waits until no worker accepts any more. They do so at once, unless one hangs.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Whether bulk goes through pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splice {
    /// Where reads are large.
    Adaptive,
    /// Never: everything is copied.
    Off,
}

/// The proxy plane. Dropped, it resets every connection; see [`Proxy::stop`].
#[derive(Debug)]
pub struct Proxy {
    workers: Vec<Thread>,
    listens: BTreeMap<SocketAddr, Listen>,
    seed: Seed,
}

/// One listen address.
#[derive(Debug)]
struct Listen {
    membership: Arc<Membership>,
    desired: watch::Sender<Desired>,
    counters: Counters,
    /// Hangs up when every worker has closed its socket.
    open: Receiver<Infallible>,
}

impl Proxy {
    /// Starts `cores` workers (at least one) that serve nothing yet. `seed` is the flow hash's, the same as in
    /// the kernel planes.
    pub fn start(cores: usize, seed: Seed) -> io::Result<Self> {
        Self::start_with(cores, seed, Splice::Adaptive)
    }

    /// As [`Proxy::start`], with a choice.
    pub fn start_with(cores: usize, seed: Seed, splice: Splice) -> io::Result<Self> {
        let cores = cores.max(1);
        let mut proxy = Self { workers: Vec::with_capacity(cores), listens: BTreeMap::new(), seed };
        for index in 0..cores {
            proxy.workers.push(Thread::start(index, cores, splice == Splice::Adaptive)?);
        }
        Ok(proxy)
    }

    /// Stops accepting, waits until all connections have ended, and resets those that are left after `drain`.
    /// Blocks as long as that takes.
    pub fn stop(mut self, drain: Duration) {
        self.shut_down(later(Instant::now(), drain));
    }

    fn shut_down(&mut self, deadline: Instant) {
        for listen in std::mem::take(&mut self.listens).into_values() {
            listen.desired.send_replace(Desired::Closing(deadline));
        }
        for worker in &self.workers {
            // Fails only where the worker has ended.
            let _ = worker.commands.send(Command::Stop(deadline));
        }
        for worker in self.workers.drain(..) {
            if worker.handle.join().is_err() {
                tracing::error!("a proxy worker had panicked");
            }
        }
    }

    fn listen(&mut self, address: SocketAddr, service: &ProxyService) -> Result<(), PlaneError> {
        if self.listens.contains_key(&address) {
            return Err(PlaneError::new(object(address), "is served already"));
        }
        let membership = self.membership(address, service, None)?;
        let sockets = listener::bind(address, self.workers.len())?;
        let counters = Counters::new(self.workers.len());
        let (desired, receiver) = watch::channel(Desired::Open(Arc::clone(&membership)));
        let (open, closed) = mpsc::channel();
        for (worker, socket) in self.workers.iter().zip(sockets) {
            let listener = Listener {
                socket,
                membership: Arc::clone(&membership),
                desired: receiver.clone(),
                counters: counters.clone(),
                open: open.clone(),
            };
            if worker.commands.send(Command::Listen(listener)).is_err() {
                return Err(PlaneError::new(object(address), "a proxy worker has ended; restart the daemon"));
            }
        }
        self.listens.insert(address, Listen { membership, desired, counters, open: closed });
        Ok(())
    }

    fn update(&mut self, address: SocketAddr, service: &ProxyService) -> Result<(), PlaneError> {
        let old = self.listens.get(&address).map(|listen| Arc::clone(&listen.membership));
        let membership = self.membership(address, service, old.as_deref())?;
        let Some(listen) = self.listens.get_mut(&address) else {
            return Err(PlaneError::new(object(address), "is not served"));
        };
        listen.desired.send_replace(Desired::Open(Arc::clone(&membership)));
        membership.cut_leavers(&listen.membership.backends);
        listen.membership = membership;
        Ok(())
    }

    fn close(&mut self, address: SocketAddr, drain: Duration) -> Result<(), PlaneError> {
        let Some(listen) = self.listens.remove(&address) else { return Ok(()) };
        listen.desired.send_replace(Desired::Closing(later(Instant::now(), drain)));
        match listen.open.recv_timeout(CLOSE_PATIENCE) {
            Err(mpsc::RecvTimeoutError::Disconnected) => Ok(()),
            _ => Err(PlaneError::new(object(address), "a proxy worker hangs; restart the daemon")),
        }
    }

    fn membership(
        &self,
        address: SocketAddr,
        service: &ProxyService,
        old: Option<&Membership>,
    ) -> Result<Arc<Membership>, PlaneError> {
        let old = old.map(|old| old.backends.as_slice()).unwrap_or_default();
        Membership::new(old, address, service, self.seed, self.workers.len())
            .map(Arc::new)
            .map_err(|error| PlaneError::new(format!("pool {:?}", service.pool), error))
    }
}

/// `start + wait`, or some decades later where that is beyond the clock.
fn later(start: Instant, wait: Duration) -> Instant {
    const DECADES: Duration = Duration::from_secs(1 << 30);
    start.checked_add(wait).unwrap_or_else(|| start + DECADES)
}

fn object(listen: SocketAddr) -> String {
    format!("listen {listen}")
}

impl ProxyPlane for Proxy {
    fn apply(&mut self, action: &ProxyAction) -> Result<(), PlaneError> {
        match action {
            ProxyAction::Listen { listen, service } => self.listen(*listen, service),
            ProxyAction::Update { listen, service } => self.update(*listen, service),
            ProxyAction::Close { listen, drain } => self.close(*listen, *drain),
        }
    }

    fn traffic(&self) -> BTreeMap<SocketAddr, (ProxyTraffic, BTreeMap<SocketAddr, ProxyTraffic>)> {
        self.listens
            .iter()
            .map(|(&address, listen)| {
                let backends = &listen.membership.backends;
                let backends = backends.iter().map(|backend| (backend.address, backend.counters.sum()));
                (address, (listen.counters.sum(), backends.collect()))
            })
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shut_down(Instant::now());
    }
}
