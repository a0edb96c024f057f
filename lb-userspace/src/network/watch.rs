//! The task that mirrors the kernel's tables and publishes what follows from them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::facts::{self, CAPACITY};
use super::neighbours::{self, RETRY};
use super::socket::{Event, Events, Requests};
use super::tables::{Folded, Tables};
use super::{Facts, NetworkError};

/// A burst of announcements is answered once: this long after its first.
const DAMPING: Duration = Duration::from_millis(20);

/// Pause before a broken socket is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// The mirror, shared with those who ask it questions; locked for pure computations only.
#[derive(Clone, Debug, Default)]
pub(super) struct Mirror(Arc<Mutex<Tables>>);

impl Mirror {
    /// The tables. A panic while they were held leaves them readable.
    pub(super) fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has to be read again before the next publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stale {
    /// Nothing: the tables are up to date.
    Nothing,
    /// The routes.
    Routes,
    /// Everything.
    All,
}

/// The state of the task.
pub(super) struct Watcher {
    requests: Requests,
    events: Events,
    mirror: Mirror,
    targets: watch::Receiver<BTreeSet<IpAddr>>,
    vips: watch::Receiver<BTreeSet<IpAddr>>,
    facts: watch::Sender<Facts>,
    asked: HashMap<(u32, IpAddr), Instant>,
    stale: Stale,
    /// When to publish; none: nothing changed.
    due: Option<Instant>,
    /// Dumps of large tables are expensive: not before this.
    next_dump: Instant,
    warned: Warned,
}

/// What was said already.
#[derive(Default)]
struct Warned {
    neighbour: bool,
    capacity: bool,
}

impl Watcher {
    /// Subscribes, then dumps, so that no change between the two is missed; publishes the first facts.
    pub(super) async fn new(
        mirror: Mirror,
        targets: watch::Receiver<BTreeSet<IpAddr>>,
        vips: watch::Receiver<BTreeSet<IpAddr>>,
    ) -> Result<(Self, watch::Receiver<Facts>), NetworkError> {
        let (facts, receiver) = watch::channel(Facts::default());
        let mut watcher = Self {
            requests: Requests::open()?,
            events: Events::subscribe()?,
            mirror,
            targets,
            vips,
            facts,
            asked: HashMap::new(),
            stale: Stale::All,
            due: None,
            next_dump: Instant::now(),
            warned: Warned::default(),
        };
        watcher.refresh().await?;
        watcher.publish();
        Ok((watcher, receiver))
    }

    /// Runs until nobody hears the facts any more.
    pub(super) async fn run(mut self) {
        loop {
            match self.follow().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "the kernel's network tables cannot be followed; trying again");
                }
            }
            tokio::time::sleep(REOPEN).await;
            if let Err(error) = self.reopen() {
                tracing::warn!(%error, "no netlink sockets");
            }
        }
    }

    fn reopen(&mut self) -> Result<(), NetworkError> {
        self.events = Events::subscribe()?;
        self.requests = Requests::open()?;
        self.mark(Stale::All);
        Ok(())
    }

    async fn follow(&mut self) -> Result<(), NetworkError> {
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut targets_open, mut vips_open) = (true, true);
        loop {
            let due = self.due;
            tokio::select! {
                event = self.events.next() => match event {
                    Some(event) => self.take(event),
                    None => return Err(NetworkError::new(
                        "reading netlink announcements",
                        std::io::Error::other("the socket was closed"),
                    )),
                },
                changed = self.targets.changed(), if targets_open => match changed {
                    Ok(()) => self.mark(Stale::Nothing),
                    Err(_) => targets_open = false,
                },
                changed = self.vips.changed(), if vips_open => match changed {
                    Ok(()) => self.mark(Stale::Nothing),
                    Err(_) => vips_open = false,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.due = None;
                    self.refresh().await?;
                    self.publish();
                    self.keep_neighbours().await;
                }
                _ = retry.tick() => self.keep_neighbours().await,
                () = self.facts.closed() => return Ok(()),
            }
        }
    }

    fn take(&mut self, event: Event) {
        let folded = match event {
            Event::Message(message) => self.mirror.lock().fold(&message),
            Event::Overrun => {
                tracing::info!("netlink announcements were lost; reading all tables again");
                return self.mark(Stale::All);
            }
        };
        match folded {
            Folded::Nothing => {}
            Folded::Changed => self.mark(Stale::Nothing),
            Folded::RoutesStale => self.mark(Stale::Routes),
        }
    }

    fn mark(&mut self, stale: Stale) {
        self.stale = self.stale.max(stale);
        let soon = Instant::now() + DAMPING;
        let due = if stale == Stale::Nothing { soon } else { soon.max(self.next_dump) };
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Dumps what is stale. A table of a million routes takes a second: at most a tenth of the time goes
    /// into dumps.
    async fn refresh(&mut self) -> Result<(), NetworkError> {
        let now = Instant::now();
        if self.stale == Stale::Nothing {
            return Ok(());
        }
        if now < self.next_dump {
            self.due = Some(self.next_dump);
            return Ok(());
        }
        if self.stale == Stale::All {
            let tables = self.requests.dump().await?;
            *self.mirror.lock() = tables;
        } else {
            let routes = self.requests.routes().await?;
            self.mirror.lock().replace_routes(&routes);
        }
        self.stale = Stale::Nothing;
        self.next_dump = now + now.elapsed() * 10;
        Ok(())
    }

    fn publish(&mut self) {
        let computed = {
            let targets = self.targets.borrow_and_update();
            let tables = self.mirror.lock();
            let mut computed = facts::compute(&tables, &targets, CAPACITY);
            computed.facts.on_link = facts::on_link(&tables, &self.vips.borrow_and_update());
            computed
        };
        if computed.left_out > 0 && !self.warned.capacity {
            self.warned.capacity = true;
            tracing::warn!(
                left_out = computed.left_out,
                capacity = CAPACITY,
                "more routes and neighbours than the route map holds; the kernel's FIB is asked for the rest"
            );
        }
        self.facts.send_if_modified(|facts| {
            let modified = *facts != computed.facts;
            if modified {
                *facts = computed.facts;
            }
            modified
        });
    }

    async fn keep_neighbours(&mut self) {
        let upkeep = {
            let tables = self.mirror.lock();
            let wanted = facts::wanted(&tables, &self.targets.borrow());
            neighbours::upkeep(&tables, wanted, &mut self.asked, Instant::now())
        };
        let handle = &self.requests.handle;
        for key in upkeep.keep {
            if let Err(error) = neighbours::keep(handle, key).await
                && !self.warned.neighbour
            {
                self.warned.neighbour = true;
                tracing::warn!(%error, "a neighbour cannot be kept resolved");
            }
        }
        for key in upkeep.give_up {
            if let Err(error) = neighbours::use_once(handle, key).await {
                tracing::debug!(%error, "a neighbour could not be given up");
            }
        }
    }
}
