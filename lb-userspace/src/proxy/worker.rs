//! One thread with a runtime of its own. A connection lives and dies on the worker that accepted it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Sender, sync_channel};
use std::thread;

use rustix::process::{Resource, getrlimit};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::data_plane::flows::Listing;

use super::listener::Listener;
use super::pools::Pools;
use super::ports::Complaints;
use super::registry::Registry;

/// Tasks that run before the kernel is asked for events again. Tokio's own choice (61) would let that many
/// bulk transfers delay a small request.
const EVENT_INTERVAL: u32 = 16;

/// Pipes lent at a time, at most: so that a descriptor limit of 1 Mi does not let one worker take all of the
/// user's pipe memory.
const MOST_PIPES: usize = 1024;

/// What connections share on one worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) pools: Rc<Pools>,
    pub(super) splice: bool,
    /// That may still be opened for clients of UDP services.
    pub(super) sockets: Arc<Semaphore>,
    pub(super) registry: Registry,
    /// Who refuses a connection is named here.
    pub(super) refusals: mpsc::Sender<SocketAddr>,
    pub(super) complaints: Complaints,
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Serves until the listener is told to close.
    Listen(Listener),
    /// Offers its connections.
    List(Listing, Sender<Listing>),
    /// Ends when all connections have ended; cuts those that are left at the deadline.
    Stop(Instant),
}

/// A running worker.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) commands: UnboundedSender<Command>,
    pub(super) handle: thread::JoinHandle<()>,
}

impl Thread {
    /// Starts worker `index` of `workers`.
    pub(super) fn start(
        index: usize,
        workers: usize,
        splice: bool,
        refusals: mpsc::Sender<SocketAddr>,
    ) -> io::Result<Self> {
        let (commands, receiver) = unbounded_channel();
        let (started, outcome) = sync_channel(1);
        let handle = thread::Builder::new().name(format!("proxy-{index}")).spawn(move || {
            let share = descriptors() / workers.max(1);
            let worker = Worker {
                index,
                // A pipe holds two.
                pools: Pools::new((share / 8).min(MOST_PIPES)),
                splice,
                sockets: Arc::new(Semaphore::new((share / 4).min(Semaphore::MAX_PERMITS))),
                registry: Registry::default(),
                refusals,
                complaints: Complaints::default(),
            };
            // The runtime belongs to its thread; only this says whether it could be made.
            match Builder::new_current_thread()
                .enable_all()
                .event_interval(EVENT_INTERVAL)
                .build_local(LocalOptions::default())
            {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(run(Rc::new(worker), receiver));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
        outcome.recv().map_err(|_| io::Error::other("the worker ended while it started"))??;
        Ok(Self { commands, handle })
    }
}

/// How many the process may have. A quarter may be pipe ends and a quarter the sockets of UDP clients, shared
/// evenly by the workers: listeners and connections need the others.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Runs what it is told. What has not ended at the deadline is dropped with the runtime, and thereby reset.
async fn run(worker: Rc<Worker>, mut commands: UnboundedReceiver<Command>) {
    let listeners = TaskTracker::new();
    let deadline = loop {
        match commands.recv().await {
            Some(Command::Listen(listener)) => {
                listeners.spawn_local(listener.run(Rc::clone(&worker)));
            }
            Some(Command::List(mut listing, reply)) => {
                worker.registry.list(&mut listing);
                // Who asked may have given up.
                let _ = reply.send(listing);
            }
            Some(Command::Stop(deadline)) => break deadline,
            None => break Instant::now(),
        }
    };
    listeners.close();
    let _ = timeout_at(deadline, listeners.wait()).await;
}
