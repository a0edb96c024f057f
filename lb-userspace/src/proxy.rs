//! The proxy plane: services carried in user space, where the kernel planes cannot.
//!
//! Thread per core. Every worker has a listener of its own for each listen address (the kernel spreads clients
//! over them), and a connection never leaves the worker that accepted it. Workers share what a change brings
//! (see `membership`), read when a client is accepted, and counters, of which each writes its own part.

mod bind;
mod counters;
mod datagrams;
mod listener;
mod membership;
mod pools;
mod ports;
mod registry;
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
use crate::data_plane::flows::FlowSource;
use crate::data_plane::proxy::{ProxyAction, ProxyCounters, ProxyPlane, ProxyService};
use crate::model::{Listen, Protocol};

use counters::Counters;
use listener::{Desired, End, Listener};
use membership::Membership;
use registry::Connections;
use worker::{Command, Thread};

/// How long to wait until every worker has done what it was told. They do so at once, unless one hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Refused connections that are remembered until somebody asks.
const REFUSALS: usize = 64;

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
    listens: BTreeMap<Listen, Listening>,
    /// UDP: no longer served, while their last clients still are. The sockets are open.
    leaving: BTreeMap<Listen, Leaving>,
    seed: Seed,
    refusals: Option<Refusals>,
    /// Whether it was said that ports may run out.
    warned: bool,
}

/// Backends that refuse connections, one entry for each; what finds no room is left out.
pub type Refusals = tokio::sync::mpsc::Receiver<SocketAddr>;

/// A listen address that is served.
#[derive(Debug)]
struct Listening {
    membership: Arc<Membership>,
    desired: watch::Sender<Desired>,
    counters: Counters,
    /// Hangs up when no worker takes new clients any more.
    open: Receiver<Infallible>,
    /// Hangs up when every worker has closed its socket.
    bound: Receiver<Infallible>,
}

/// A listen address that is not.
#[derive(Debug)]
struct Leaving {
    desired: watch::Sender<Desired>,
    bound: Receiver<Infallible>,
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
        let (refusals, refused) = tokio::sync::mpsc::channel(REFUSALS);
        let (workers, refused) = (Vec::with_capacity(cores), Some(refused));
        let mut proxy =
            Self { workers, listens: [].into(), leaving: [].into(), seed, refusals: refused, warned: false };
        for index in 0..cores {
            let refusals = refusals.clone();
            proxy.workers.push(Thread::start(index, cores, splice == Splice::Adaptive, refusals)?);
        }
        Ok(proxy)
    }

    /// Who refuses connections; to be taken once.
    pub fn refusals(&mut self) -> Option<Refusals> {
        self.refusals.take()
    }

    /// Stops accepting, waits until all connections have ended, and resets those that are left after `drain`, one after
    /// another over `spread`. Blocks as long as that takes.
    pub fn stop(mut self, drain: Duration, spread: Duration) {
        self.shut_down(End { deadline: later(Instant::now(), drain), spread });
    }

    fn shut_down(&mut self, end: End) {
        for listening in std::mem::take(&mut self.listens).into_values() {
            listening.desired.send_replace(Desired::Closing(end));
        }
        for worker in &self.workers {
            // Fails only where the worker has ended.
            let _ = worker.commands.send(Command::Stop(later(end.deadline, end.spread)));
        }
        for worker in self.workers.drain(..) {
            if worker.handle.join().is_err() {
                tracing::error!("a proxy worker had panicked");
            }
        }
    }

    fn listen(&mut self, listen: Listen, service: &ProxyService) -> Result<(), PlaneError> {
        if self.listens.contains_key(&listen) {
            return Err(PlaneError::new(object(listen), "is served already"));
        }
        let membership = self.membership(listen, service, None)?;
        if let Some(leaving) = self.leaving.remove(&listen) {
            // Two groups of sockets on one address would share the clients.
            leaving.desired.send_replace(Desired::Closing(End::now()));
            wait(listen, &leaving.bound)?;
        }
        if listen.protocol == Protocol::Tcp && !std::mem::replace(&mut self.warned, true) {
            ports::shortage().into_iter().for_each(|why| tracing::warn!("the proxy plane has {why}"));
        }
        let sockets = bind::bind(listen, self.workers.len())?;
        let counters = Counters::new(self.workers.len());
        let (desired, receiver) = watch::channel(Desired::Open(Arc::clone(&membership)));
        let ((open, closed), (bound, unbound)) = (mpsc::channel(), mpsc::channel());
        for (worker, socket) in self.workers.iter().zip(sockets) {
            let listener = Listener {
                socket,
                membership: Arc::clone(&membership),
                desired: receiver.clone(),
                counters: counters.clone(),
                open: open.clone(),
                bound: bound.clone(),
            };
            if worker.commands.send(Command::Listen(listener)).is_err() {
                return Err(PlaneError::new(object(listen), "a proxy worker has ended; restart the daemon"));
            }
        }
        let listening = Listening { membership, desired, counters, open: closed, bound: unbound };
        self.listens.insert(listen, listening);
        Ok(())
    }

    fn update(&mut self, listen: Listen, service: &ProxyService) -> Result<(), PlaneError> {
        let old = self.listens.get(&listen).map(|listening| Arc::clone(&listening.membership));
        let membership = self.membership(listen, service, old.as_deref())?;
        let Some(listening) = self.listens.get_mut(&listen) else {
            return Err(PlaneError::new(object(listen), "is not served"));
        };
        listening.desired.send_replace(Desired::Open(Arc::clone(&membership)));
        membership.cut_leavers(&listening.membership.backends);
        listening.membership = membership;
        Ok(())
    }

    fn close(&mut self, listen: Listen, drain: Duration) -> Result<(), PlaneError> {
        self.leaving.retain(|_, leaving| leaving.bound.try_recv() == Err(mpsc::TryRecvError::Empty));
        let Some(listening) = self.listens.remove(&listen) else { return Ok(()) };
        let Listening { desired, open, bound, .. } = listening;
        let end = End { deadline: later(Instant::now(), drain), spread: Duration::ZERO };
        desired.send_replace(Desired::Closing(end));
        self.leaving.insert(listen, Leaving { desired, bound });
        wait(listen, &open)
    }

    fn membership(
        &self,
        listen: Listen,
        service: &ProxyService,
        old: Option<&Membership>,
    ) -> Result<Arc<Membership>, PlaneError> {
        let old = old.map(|old| old.backends.as_slice()).unwrap_or_default();
        Membership::new(old, listen, service, self.seed, self.workers.len())
            .map(Arc::new)
            .map_err(|error| PlaneError::new(format!("pool {:?}", service.pool), error))
    }
}

/// `start + wait`, or some decades later where that is beyond the clock.
fn later(start: Instant, wait: Duration) -> Instant {
    const DECADES: Duration = Duration::from_secs(1 << 30);
    start.checked_add(wait).unwrap_or_else(|| start + DECADES)
}

/// Waits until all workers have hung up.
fn wait(listen: Listen, workers: &Receiver<Infallible>) -> Result<(), PlaneError> {
    match workers.recv_timeout(PATIENCE) {
        Err(mpsc::RecvTimeoutError::Disconnected) => Ok(()),
        _ => Err(PlaneError::new(object(listen), "a proxy worker hangs; restart the daemon")),
    }
}

fn object(listen: Listen) -> String {
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

    fn connections(&self) -> Box<dyn FlowSource> {
        Box::new(Connections { workers: self.workers.iter().map(|worker| worker.commands.clone()).collect() })
    }

    fn traffic(&self) -> ProxyCounters {
        self.listens
            .iter()
            .map(|(&listen, listening)| {
                let backends = &listening.membership.backends;
                let backends = backends.iter().map(|backend| (backend.address, backend.counters.sum()));
                (listen, (listening.counters.sum(), backends.collect()))
            })
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shut_down(End::now());
    }
}
