//! A group of flows that live long, on one thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::flow::{self, Manner, Observer, Order};
use super::{Outcome, bound};
use crate::eventually::eventually;
use crate::namespace::Namespace;

/// So many connect at the same time. A router holds back some hundred packets for a host whose MAC address it
/// does not know yet, and drops the others: SYNs that come again after a second.
const CONNECTING: usize = 50;

/// A group of flows.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where they connect.
    pub target: SocketAddr,
    /// How many.
    pub flows: u64,
    /// Between two records of a flow; none: silent until [`LongFlows::speak`].
    pub interval: Option<Duration>,
    /// Ids of the backends that may greet.
    pub known: BTreeSet<String>,
    /// An answer that takes longer is a stall: usually 5 s.
    pub stall: Duration,
}

/// A broken flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Our side of it; none: it never connected.
    pub client: Option<SocketAddr>,
    /// The backend that greeted it; empty: none did.
    pub backend: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Milliseconds since the group was opened.
    pub at_ms: f64,
}

/// How a group stands, or how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How many there are.
    pub flows: u64,
    /// How many of them are broken.
    pub broken: u64,
    /// No larger share can be ruled out (95 %), see [`bound::upper`].
    pub broken_share_below: f64,
    /// Flows by outcome.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// By backend that greeted, flows by outcome.
    pub backends: BTreeMap<String, BTreeMap<Outcome, u64>>,
    /// The slowest answer, in milliseconds.
    pub slowest_ms: f64,
    /// Every broken flow, in the order of the flows.
    pub ends: Vec<End>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flows, broken, broken_share_below, backends, slowest_ms, .. } = self;
        let percent = broken_share_below * 100.0;
        write!(f, "{broken} of {flows} flows broken (at most {percent:.3} %), {backends:?}")?;
        write!(
            f,
            ", slowest answer {slowest_ms:.1} ms, first ends {:?}",
            &self.ends[..self.ends.len().min(5)]
        )
    }
}

/// One flow as it is seen from outside.
#[derive(Clone, Debug)]
struct Seen {
    outcome: Outcome,
    client: Option<SocketAddr>,
    backend: String,
    at: Instant,
    slowest: Duration,
    spoken: u64,
}

/// A running group. Dropping it cuts its flows.
#[derive(Debug)]
pub struct LongFlows {
    start: Instant,
    stall: Duration,
    seen: Arc<Mutex<Vec<Seen>>>,
    orders: watch::Sender<Order>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl LongFlows {
    /// Opens all flows, from within the namespace; returns when each is greeted or broken.
    ///
    /// # Errors
    /// Threads or namespaces fail; never what happens to the flows.
    pub fn open(namespace: &Arc<Namespace>, plan: Plan) -> anyhow::Result<Self> {
        let start = Instant::now();
        let unseen = Seen {
            outcome: Outcome::Connecting,
            client: None,
            backend: String::new(),
            at: start,
            slowest: Duration::ZERO,
            spoken: 0,
        };
        let seen = Arc::new(Mutex::new(vec![unseen; usize::try_from(plan.flows)?]));
        let (orders, receiver) = watch::channel(Order::default());
        let stall = plan.stall;
        let thread = std::thread::spawn({
            let (namespace, seen) = (Arc::clone(namespace), Arc::clone(&seen));
            move || {
                namespace.enter()?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(run_all(plan, &seen, &receiver));
                Ok(())
            }
        });
        let flows = Self { start, stall, seen, orders, thread: Some(thread) };
        flows.until("every flow is greeted or broken", |flow| flow.outcome != Outcome::Connecting)?;
        Ok(flows)
    }

    /// Milliseconds since the group was opened: the clock of [`End::at_ms`].
    pub fn now_ms(&self) -> f64 {
        self.start.elapsed().as_secs_f64() * 1000.0
    }

    /// Has every flow exchange one record now; returns when each has, or is broken.
    ///
    /// # Errors
    /// The flows' thread has died.
    pub fn speak(&self) -> anyhow::Result<()> {
        let mut asked = 0;
        self.orders.send_modify(|order| {
            order.speak += 1;
            asked = order.speak;
        });
        self.until("every flow has spoken or is broken", |flow| {
            flow.outcome != Outcome::Open || flow.spoken >= asked
        })
    }

    /// How the group stands now.
    pub fn report(&self) -> Report {
        report(&lock(&self.seen), self.start)
    }

    /// Has every flow exchange a last record and end, and says how all of them did.
    ///
    /// # Errors
    /// The flows' thread has died.
    pub fn finish(mut self) -> anyhow::Result<Report> {
        self.orders.send_modify(|order| order.finish = true);
        self.until("every flow has ended", |flow| {
            !matches!(flow.outcome, Outcome::Open | Outcome::Connecting)
        })?;
        if let Some(thread) = self.thread.take()
            && let Ok(outcome) = thread.join()
        {
            outcome?;
        }
        Ok(self.report())
    }

    fn until(&self, what: &str, condition: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
        // A record that stalls, and then the end; or so many rounds of connecting.
        let rounds = lock(&self.seen).len() / CONNECTING;
        let deadline = self.stall * (3 + rounds as u32) + Duration::from_secs(10);
        eventually(what, deadline, || {
            if lock(&self.seen).iter().all(&condition) {
                return Ok(Some(()));
            }
            if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                bail!("the flows' thread has ended");
            }
            Ok(None)
        })
        .with_context(|| self.report().to_string())
    }
}

impl Drop for LongFlows {
    fn drop(&mut self) {
        // Closes the channel: the thread ends without another word to the flows.
        self.orders = watch::channel(Order::default()).0;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run_all(plan: Plan, seen: &Arc<Mutex<Vec<Seen>>>, orders: &watch::Receiver<Order>) {
    let manner = Arc::new(Manner { known: plan.known, interval: plan.interval, stall: plan.stall });
    let door = Arc::new(Semaphore::new(CONNECTING));
    let mut flows = JoinSet::new();
    for conn in 0..plan.flows {
        let slot =
            Slot { seen: Arc::clone(seen), index: conn as usize, door: Arc::clone(&door), permit: None };
        flows.spawn(run_one(plan.target, conn, Arc::clone(&manner), orders.clone(), slot));
    }
    let mut orders = orders.clone();
    loop {
        tokio::select! {
            ended = flows.join_next() => if ended.is_none() { return },
            changed = orders.changed() => if changed.is_err() { return },
        }
    }
}

async fn run_one(
    target: SocketAddr,
    conn: u64,
    manner: Arc<Manner>,
    mut orders: watch::Receiver<Order>,
    mut slot: Slot,
) {
    slot.permit = Arc::clone(&slot.door).acquire_owned().await.ok();
    let outcome = match tokio::time::timeout(manner.stall, TcpStream::connect(target)).await {
        Ok(Ok(mut stream)) => {
            drop(stream.set_nodelay(true));
            slot.update(|flow| flow.client = stream.local_addr().ok());
            flow::run(&mut stream, conn, &manner, &mut orders, &mut slot).await
        }
        Ok(Err(_)) | Err(_) => Outcome::NotConnected,
    };
    slot.update(|flow| {
        flow.outcome = outcome;
        flow.at = Instant::now();
    });
}

/// A flow's place in the list.
struct Slot {
    seen: Arc<Mutex<Vec<Seen>>>,
    index: usize,
    door: Arc<Semaphore>,
    /// Held while it connects and until it is greeted.
    permit: Option<OwnedSemaphorePermit>,
}

impl Slot {
    fn update(&self, change: impl FnOnce(&mut Seen)) {
        if let Some(flow) = lock(&self.seen).get_mut(self.index) {
            change(flow);
        }
    }
}

impl Observer for Slot {
    fn greeted(&mut self, backend: &str) {
        self.permit = None;
        self.update(|flow| {
            flow.outcome = Outcome::Open;
            backend.clone_into(&mut flow.backend);
        });
    }

    fn exchanged(&mut self, took: Duration, spoken: u64) {
        self.update(|flow| {
            flow.slowest = flow.slowest.max(took);
            flow.spoken = spoken;
        });
    }
}

fn report(seen: &[Seen], start: Instant) -> Report {
    let mut outcomes = BTreeMap::new();
    let mut backends: BTreeMap<String, BTreeMap<Outcome, u64>> = BTreeMap::new();
    let mut ends = Vec::new();
    for flow in seen {
        *outcomes.entry(flow.outcome).or_default() += 1;
        *backends.entry(flow.backend.clone()).or_default().entry(flow.outcome).or_default() += 1;
        if flow.outcome.is_broken() {
            ends.push(End {
                client: flow.client,
                backend: flow.backend.clone(),
                outcome: flow.outcome,
                at_ms: flow.at.duration_since(start).as_secs_f64() * 1000.0,
            });
        }
    }
    let (flows, broken) = (seen.len() as u64, ends.len() as u64);
    let slowest = seen.iter().map(|flow| flow.slowest).max().unwrap_or_default();
    Report {
        flows,
        broken,
        broken_share_below: bound::upper(broken, flows),
        outcomes,
        backends,
        slowest_ms: slowest.as_secs_f64() * 1000.0,
        ends,
    }
}
