//! Health checks: one probe per backend, judged by rise and fall.

mod agent;
mod exec;
mod grpc;
mod http;
mod judge;
mod probe;
mod task;
mod tls;
mod udp;
mod way;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::model::status::LastCheck;
use crate::model::{self, Check, Report};
pub use probe::is_local;
use task::Task;

/// Between two checks of a backend that clients ask for.
const SUSPICION: Duration = Duration::from_millis(200);

/// One backend to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its pool.
    pub pool: String,
    /// Its address.
    pub address: SocketAddr,
    /// Whether it was up when a previous daemon checked it: a first failure is then not the only one needed.
    pub was_up: bool,
    /// How.
    pub health: model::Health,
}

/// All backends to check, by pool. The list of a pool that does not change stays the same object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets(BTreeMap<String, Arc<Vec<Target>>>);

impl Targets {
    /// Those of a pool.
    pub fn of(&self, pool: &str) -> &[Target] {
        self.0.get(pool).map(|targets| targets.as_slice()).unwrap_or_default()
    }

    /// Those of all pools.
    pub fn iter(&self) -> impl Iterator<Item = &Target> {
        self.0.values().flat_map(|targets| targets.iter())
    }
}

impl FromIterator<(String, Arc<Vec<Target>>)> for Targets {
    fn from_iter<I: IntoIterator<Item = (String, Arc<Vec<Target>>)>>(pools: I) -> Self {
        Self(pools.into_iter().collect())
    }
}

impl From<Vec<Target>> for Targets {
    fn from(targets: Vec<Target>) -> Self {
        let mut pools: BTreeMap<String, Arc<Vec<Target>>> = BTreeMap::new();
        for target in targets {
            Arc::make_mut(pools.entry(target.pool.clone()).or_default()).push(target);
        }
        Self(pools)
    }
}

/// Which of the questions about a backend this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The check, which decides whether it is up.
    Check,
    /// An agent that is asked beside it. Only what it says counts.
    Agent,
}

/// What became of one check.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The backend's pool.
    pub pool: String,
    /// The backend's address.
    pub address: SocketAddr,
    /// Who was asked.
    pub role: Role,
    /// The judgement after this check. The first check decides alone, unless the target was up before. Of
    /// [`Role::Agent`] it means nothing.
    pub up: bool,
    /// The check itself.
    pub check: LastCheck,
    /// What an agent says.
    pub report: Report,
}

/// Checks backends and reports every check. Dropping it ends all checks.
///
/// A backend is checked at once, then at intervals that are shorter than configured by up to the jitter, so that
/// checks spread out and `fall * interval + timeout` is the longest that a failure goes unnoticed. A check that
/// this host is too short of descriptors, ports or memory to make is not reported: it says nothing of the backend.
#[derive(Debug)]
pub struct Checker {
    observations: mpsc::Sender<Observation>,
    running: Arc<Semaphore>,
    targets: Targets,
    /// By pool.
    probes: HashMap<String, HashMap<(SocketAddr, Role), Probe>>,
    /// Who was checked for a suspicion, and when.
    suspected: HashMap<SocketAddr, Instant>,
}

/// A backend's task and how to tell it of a new config.
#[derive(Debug)]
struct Probe {
    health: watch::Sender<model::Health>,
    lost: watch::Sender<String>,
    _task: AbortOnDropHandle<()>,
}

impl Checker {
    /// Without targets yet; `at_once` checks of all pools together run at the same time. Probes wait while
    /// `observations` is full, and end when it is closed.
    pub fn start(observations: mpsc::Sender<Observation>, at_once: usize) -> Self {
        let running = Arc::new(Semaphore::new(at_once));
        let (targets, probes, suspected) = (Targets::default(), HashMap::new(), HashMap::new());
        Self { observations, running, targets, probes, suspected }
    }

    /// Checks these backends from now on and no others; of those with [`Check::None`] only the agent is asked, if
    /// there is one. Needs a tokio runtime.
    ///
    /// A backend that stays keeps its judgement; where its health config changed it is checked at once.
    /// Observations of a backend that left may still be in the channel.
    pub fn set_targets(&mut self, targets: Targets) {
        let last = std::mem::replace(&mut self.targets, targets.clone());
        self.probes.retain(|pool, _| targets.0.contains_key(pool));
        for (pool, targets) in targets.0 {
            if last.0.get(&pool) != Some(&targets) {
                self.set_pool(pool, &targets);
            }
        }
    }

    fn set_pool(&mut self, pool: String, targets: &[Target]) {
        let mut wanted = HashMap::new();
        for Target { address, was_up, health, .. } in targets {
            if let Some(agent) = &health.agent {
                wanted.insert((*address, Role::Agent), (*was_up, model::Health::clone(agent)));
            }
            if health.check != Check::None {
                wanted.insert((*address, Role::Check), (*was_up, health.clone()));
            }
        }
        let probes = self.probes.entry(pool.clone()).or_default();
        probes.retain(|backend, probe| {
            let Some((_, health)) = wanted.remove(backend) else { return false };
            probe.health.send_if_modified(|old| {
                let changed = *old != health;
                *old = health;
                changed
            });
            true
        });
        for ((address, role), (was_up, health)) in wanted {
            let (sender, health) = watch::channel(health);
            let (loser, lost) = watch::channel(String::new());
            let task = Task {
                pool: pool.clone(),
                address,
                role,
                was_up,
                health,
                lost,
                running: self.running.clone(),
                observations: self.observations.clone(),
            };
            let task = AbortOnDropHandle::new(tokio::spawn(task.run(probe::probe)));
            probes.insert((address, role), Probe { health: sender, lost: loser, _task: task });
        }
    }

    /// Takes in that the way to a host was lost, and why: those who are checked there are down at once, until they
    /// have risen again. Their next checks are made as always.
    pub fn lose(&self, host: IpAddr, why: &str) {
        for probe in self.checked_at(host) {
            probe.lost.send_replace(why.to_owned());
        }
    }

    /// Checks those at once who are checked at this host.
    pub fn recheck(&self, host: IpAddr) {
        for probe in self.checked_at(host) {
            // A config that is as it was.
            probe.health.send_modify(|_| ());
        }
    }

    /// Checks a backend at once of which clients say that it refuses them. That may be forged, so it costs a check and
    /// nothing else, and not more than a few in a second.
    pub fn suspect(&mut self, backend: SocketAddr) {
        self.suspected.retain(|_, at| at.elapsed() < SUSPICION);
        if self.suspected.contains_key(&backend) {
            return;
        }
        self.suspected.insert(backend, Instant::now());
        for probe in self.probes.values().filter_map(|probes| probes.get(&(backend, Role::Check))) {
            // A config that is as it was.
            probe.health.send_modify(|_| ());
        }
    }

    fn checked_at(&self, host: IpAddr) -> impl Iterator<Item = &Probe> {
        let probes = self.probes.values().flatten();
        let here =
            probes.filter(move |((address, _), probe)| probe.health.borrow().endpoint(*address).ip() == host);
        here.map(|(_, probe)| probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(port: u16) -> Target {
        let interval = Duration::from_secs(3600);
        let health = model::Health {
            check: Check::Tcp,
            interval,
            fast_interval: interval,
            fall: 1,
            ..Default::default()
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Target { pool: "web".to_owned(), address, was_up: true, health }
    }

    #[tokio::test]
    async fn a_suspicion_costs_a_check_and_not_many() {
        // Nobody listens there, and nobody can while the socket lives.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = held.local_addr().unwrap().port();
        let (sender, mut observations) = mpsc::channel(64);
        let mut checker = Checker::start(sender, 4);
        checker.set_targets(vec![target(port)].into());
        observations.recv().await.unwrap();
        let (address, stranger) = (target(port).address, target(port ^ 1).address);
        for _ in 0..100 {
            checker.suspect(stranger);
            checker.suspect(address);
        }
        assert!(!observations.recv().await.unwrap().check.ok);
        let more = tokio::time::timeout(SUSPICION / 4, observations.recv()).await;
        assert!(more.is_err(), "{more:?}");
        let begin = Instant::now();
        while tokio::time::timeout(SUSPICION / 20, observations.recv()).await.is_err() {
            checker.suspect(address);
            assert!(begin.elapsed() < 100 * SUSPICION, "never again");
        }
    }
}
