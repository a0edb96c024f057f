//! New flows at a steady rate, each judged by one exchange.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::anyhow;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::flow::{self, Manner};
use super::{bound, http};
use crate::backend::Kind;
use crate::namespace::Namespace;
use crate::record;

/// A stream of new flows.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where they connect.
    pub target: SocketAddr,
    /// What is spoken there.
    pub kind: Kind,
    /// Flows a second, at least 1.
    pub rate: u32,
    /// Ids of the backends that may answer.
    pub known: BTreeSet<String>,
    /// A flow that has not had its answer within this is lost.
    pub deadline: Duration,
}

/// A flow that was lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// When it began, in milliseconds since the stream was started.
    pub at_ms: f64,
    /// Why.
    pub why: String,
}

/// What became of the flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Flows begun.
    pub flows: u64,
    /// How many of them were lost.
    pub lost: u64,
    /// No larger share can be ruled out (95 %), see [`bound::upper`].
    pub lost_share_below: f64,
    /// Answers by backend.
    pub backends: BTreeMap<String, u64>,
    /// From the start of the flow to its answer, in milliseconds: the median.
    pub median_ms: f64,
    /// The same: of 99 in 100.
    pub p99_ms: f64,
    /// The same: the slowest.
    pub slowest_ms: f64,
    /// Every lost flow.
    pub losses: Vec<Loss>,
}

/// A running stream. Dropping it stops it.
#[derive(Debug)]
pub struct Churn {
    start: Instant,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<Report>>>,
}

impl Churn {
    /// Starts one from within the namespace.
    pub fn start(namespace: &Arc<Namespace>, plan: Plan) -> Self {
        let (stop, stopped) = oneshot::channel();
        let namespace = Arc::clone(namespace);
        let start = Instant::now();
        let thread = std::thread::spawn(move || {
            namespace.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(run(plan, start, stopped)))
        });
        Self { start, stop: Some(stop), thread: Some(thread) }
    }

    /// Milliseconds since it was started: the clock of [`Loss::at_ms`].
    pub fn now_ms(&self) -> f64 {
        milliseconds(self.start.elapsed())
    }

    /// Begins no more flows, waits for those that are under way, and says what became of all.
    ///
    /// # Errors
    /// Its thread has died.
    pub fn stop(mut self) -> anyhow::Result<Report> {
        drop(self.stop.take());
        let thread = self.thread.take().ok_or_else(|| anyhow!("it was stopped before"))?;
        thread.join().map_err(|_| anyhow!("the churn's thread has panicked"))?
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// When a flow began, and the backend with the time it took, or why it was lost.
type Outcome = (Instant, Result<(String, Duration), String>);

async fn run(plan: Plan, start: Instant, mut stopped: oneshot::Receiver<()>) -> Report {
    let plan = Arc::new(plan);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / plan.rate.max(1));
    let mut flows = JoinSet::new();
    let mut ended: Vec<Outcome> = Vec::new();
    let mut conn = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                conn += 1;
                flows.spawn(one(conn, Arc::clone(&plan)));
            }
            Some(Ok(outcome)) = flows.join_next() => ended.push(outcome),
            _ = &mut stopped => break,
        }
    }
    while let Some(outcome) = flows.join_next().await {
        ended.extend(outcome.ok());
    }
    report(&ended, conn, start)
}

async fn one(conn: u64, plan: Arc<Plan>) -> Outcome {
    let start = Instant::now();
    let exchange = async {
        match plan.kind {
            Kind::Echo => echo(conn, &plan).await,
            Kind::Http => http_id(&plan).await,
        }
    };
    let outcome = match timeout(plan.deadline, exchange).await {
        Ok(Ok(backend)) => Ok((backend, start.elapsed())),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no answer within {:?}", plan.deadline)),
    };
    (start, outcome)
}

async fn echo(conn: u64, plan: &Plan) -> Result<String, String> {
    let manner = Manner { known: plan.known.clone(), interval: None, stall: plan.deadline };
    let mut stream = TcpStream::connect(plan.target).await.map_err(|error| error.to_string())?;
    drop(stream.set_nodelay(true));
    let failed = |outcome| format!("{outcome:?}");
    let backend = flow::greeting(&mut stream, &manner).await.map_err(failed)?;
    flow::exchange(&mut stream, record::record(conn, 0), plan.deadline).await.map_err(failed)?;
    Ok(backend)
}

async fn http_id(plan: &Plan) -> Result<String, String> {
    let answer = async { http::Connection::open(plan.target).await?.get("/").await };
    let id = answer.await.map_err(|error: anyhow::Error| format!("{error:#}"))?;
    if plan.known.contains(&id) { Ok(id) } else { Err(format!("answered by {id:?}, which is no backend")) }
}

fn report(ended: &[Outcome], flows: u64, start: Instant) -> Report {
    let mut backends = BTreeMap::new();
    let mut losses = Vec::new();
    let mut times = Vec::new();
    for (begun, outcome) in ended {
        match outcome {
            Ok((backend, took)) => {
                *backends.entry(backend.clone()).or_default() += 1;
                times.push(milliseconds(*took));
            }
            Err(why) => {
                let at_ms = milliseconds(begun.duration_since(start));
                losses.push(Loss { at_ms, why: why.clone() });
            }
        }
    }
    times.sort_by(f64::total_cmp);
    // A flow whose task panicked is in no list: it counts as lost.
    let lost = flows - times.len() as u64;
    Report {
        flows,
        lost,
        lost_share_below: bound::upper(lost, flows),
        backends,
        median_ms: quantile(&times, 0.5),
        p99_ms: quantile(&times, 0.99),
        slowest_ms: quantile(&times, 1.0),
        losses,
    }
}

/// Of sorted values; 0 where there are none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
