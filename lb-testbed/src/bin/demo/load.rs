//! HTTP clients that write down what became of every request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use lb_testbed::client::http;
use lb_testbed::namespace::Namespace;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout_at};

/// How many there are, each with one connection.
pub const CLIENTS: u32 = 64;
/// A client opens a new connection after so many requests: only new ones meet a restored backend.
pub const REQUESTS_PER_CONNECTION: u32 = 20;
/// A request without an answer by then is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the clock, whether the clients run.
const HEARTBEAT: Duration = Duration::from_millis(10);
/// No pause is shorter.
const PAUSE: Duration = Duration::from_millis(200);

/// How fast clients ask.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Again as soon as they are answered.
    Full,
    /// Each of them at this interval, whatever becomes of the requests.
    Every(Duration),
}

/// What became of a request, or of a connection between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Answered.
    Answered,
    /// Sent, or about to be, and not answered: refused, reset or closed.
    Broken,
    /// Not answered in time.
    TimedOut,
    /// Answered by someone who is no backend, or is not the one that this connection has.
    WrongAnswer,
    /// No request: the connection was closed while none was on it. HTTP clients just open another one.
    Cut,
}

/// It, with times since the load began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was begun.
    pub began: Duration,
    /// When it ended.
    pub ended: Duration,
    /// The place in the list of backends of the one that has the connection; none: it never answered on it.
    pub backend: Option<usize>,
    /// What became of it.
    pub end: End,
}

/// A time in which this machine did not run the clients, though they had something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Its end, since the load began.
    pub ended: Duration,
    /// Its length.
    pub took: Duration,
}

/// All that was written down, in the order of the ends.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Of requests and connections.
    pub events: Vec<Event>,
    /// Of the machine.
    pub pauses: Vec<Pause>,
    /// When the last request had ended; zero while clients are at work.
    pub end: Duration,
}

/// Clients at work. Dropping it stops them.
pub struct Load {
    start: Instant,
    record: Arc<Mutex<Record>>,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Load {
    /// Starts the clients in a namespace. `backends` are the names that backends answer with.
    pub fn start(namespace: &Arc<Namespace>, target: SocketAddr, backends: Vec<String>, pace: Pace) -> Self {
        let start = Instant::now();
        let record = Arc::new(Mutex::new(Record::default()));
        let (stop, stopped) = watch::channel(());
        let thread = std::thread::spawn({
            let (namespace, record) = (Arc::clone(namespace), Arc::clone(&record));
            move || {
                namespace.enter()?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let plan = Arc::new(Plan { target, backends, start, record });
                    let mut clients = JoinSet::new();
                    for number in 0..CLIENTS {
                        let ticks = ticks(pace, start, number);
                        clients.spawn(Client::new(Arc::clone(&plan)).live(ticks, stopped.clone()));
                    }
                    tokio::select! {
                        _ = clients.join_all() => {}
                        () = watch_pauses(&plan) => {}
                    }
                });
                Ok(())
            }
        });
        Self { start, record, stop: Some(stop), thread: Some(thread) }
    }

    /// The clock of the events.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Looks at what has happened so far.
    pub fn look<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&lock(&self.record))
    }

    /// Waits for the requests that are under way and says what became of all.
    ///
    /// # Errors
    /// The clients' thread has died.
    pub fn stop(mut self) -> Result<Record> {
        drop(self.stop.take());
        let thread = self.thread.take().ok_or_else(|| anyhow!("it was stopped before"))?;
        thread.join().map_err(|_| anyhow!("the clients' thread has panicked"))??;
        Ok(Record { end: self.now(), ..std::mem::take(&mut *lock(&self.record)) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A timer that is late tells of a machine that had other work than to run the clients.
async fn watch_pauses(plan: &Plan) {
    loop {
        let due = Instant::now() + HEARTBEAT;
        sleep_until(due).await;
        let late = due.elapsed();
        if late > PAUSE {
            lock(&plan.record).pauses.push(Pause { ended: plan.start.elapsed(), took: late });
        }
    }
}

/// Clients that keep a pace begin one after another, not all at once.
fn ticks(pace: Pace, start: Instant, number: u32) -> Option<Interval> {
    let Pace::Every(period) = pace else { return None };
    let mut ticks = interval_at(start + period * number / CLIENTS, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
}

/// What all clients share.
struct Plan {
    target: SocketAddr,
    backends: Vec<String>,
    start: Instant,
    record: Arc<Mutex<Record>>,
}

struct Open {
    connection: http::Connection,
    /// Who answers on it; none: nobody has yet.
    backend: Option<usize>,
    left: u32,
}

struct Client {
    plan: Arc<Plan>,
    open: Option<Open>,
}

impl Client {
    fn new(plan: Arc<Plan>) -> Self {
        Self { plan, open: None }
    }

    async fn live(mut self, mut ticks: Option<Interval>, stopped: watch::Receiver<()>) {
        while stopped.has_changed().is_ok() {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            self.request().await;
        }
    }

    async fn request(&mut self) {
        let began = Instant::now();
        let (backend, end) = match timeout_at(began + PATIENCE, self.exchange(began)).await {
            Ok(Ok(backend)) => (Some(backend), End::Answered),
            Ok(Err(end)) => (self.backend(), end),
            Err(_) => (self.backend(), End::TimedOut),
        };
        if end != End::Answered || self.open.as_ref().is_some_and(|open| open.left == 0) {
            self.open = None;
        }
        self.note(began, backend, end);
    }

    /// Who answers.
    async fn exchange(&mut self, began: Instant) -> Result<usize, End> {
        loop {
            let open = match &mut self.open {
                Some(open) => open,
                empty => {
                    let connection =
                        http::Connection::open(self.plan.target).await.map_err(|_| End::Broken)?;
                    empty.insert(Open { connection, backend: None, left: REQUESTS_PER_CONNECTION })
                }
            };
            match open.connection.get("/").await {
                Ok(answer) => {
                    let known = self.plan.backends.iter().position(|name| *name == answer);
                    open.left -= 1;
                    // A connection has one backend as long as it lives.
                    let backend = known.filter(|known| *open.backend.get_or_insert(*known) == *known);
                    return backend.ok_or(End::WrongAnswer);
                }
                Err(error) if open.backend.is_some() && was_not_sent(&error) => {
                    let backend = open.backend;
                    self.open = None;
                    self.note(began, backend, End::Cut);
                }
                Err(_) => return Err(End::Broken),
            }
        }
    }

    fn backend(&self) -> Option<usize> {
        self.open.as_ref()?.backend
    }

    fn note(&self, began: Instant, backend: Option<usize>, end: End) {
        let Plan { start, record, .. } = &*self.plan;
        lock(record).events.push(Event {
            began: began.duration_since(*start),
            ended: start.elapsed(),
            backend,
            end,
        });
    }
}

/// Whether the connection had ended before the request went out on it.
fn was_not_sent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_canceled() || error.is_closed())
}
