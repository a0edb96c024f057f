//! A controller between recorders, on tokio's paused clock: time passes only while everything waits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use lb_common::address::{TCP, UDP};
use lb_common::{BackendId, NextHop, Slot, SocketKey};
use lb_userspace::config::Config;
use lb_userspace::config::problem::Problem;
use lb_userspace::controller::request::Handle;
use lb_userspace::controller::{About, Controller, Inputs, Kept, Outputs, Progress, StartError};
use lb_userspace::data_plane::kernel::KernelState;
use lb_userspace::data_plane::recorder::{KernelRecorder, ProxyRecorder};
use lb_userspace::health::{Observation, Role, Targets};
use lb_userspace::model::status::{BackendStatus, InterfacePlane, LastCheck, LocalTraffic, PoolStatus};
use lb_userspace::model::{Override, Phase, Plane, Report};
use lb_userspace::network::{Facts, OnLink};
use lb_userspace::state::{Saved, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub const A: &str = "10.0.0.1:80";
pub const B: &str = "10.0.0.2:80";
pub const C: &str = "10.0.0.3:80";

/// One service over three checked backends.
pub const WEB: &str = r#"
[daemon]
drain_timeout = "30s"
drain_spread = "0s"

[[service]]
name = "web"
listen = "192.0.2.10:80"
pool = "web"
down_grace = "10s"
timeouts = { established = "1h" }

[[pool]]
name = "web"
table_size = 13
health = { check = "tcp", interval = "1s", timeout = "1s" }
backend = [
    { address = "10.0.0.1:80" },
    { address = "10.0.0.2:80" },
    { address = "10.0.0.3:80" },
]
"#;

/// [`WEB`] with a UDP service for the same pool.
pub fn web_and_dns() -> String {
    let dns = r#"
[[service]]
name = "dns"
listen = "192.0.2.10:53"
protocol = "udp"
pool = "web"
timeouts = { udp = "20s" }
"#;
    WEB.replace("[[pool]]\n", &format!("{dns}\n[[pool]]\n"))
}

type Reading = Arc<Mutex<Result<Config, Vec<Problem>>>>;

pub struct World {
    pub kernel: KernelRecorder,
    pub proxy: ProxyRecorder,
    pub handle: Handle,
    pub facts: watch::Sender<Facts>,
    pub planes: watch::Sender<Vec<InterfacePlane>>,
    pub targets: watch::Receiver<Targets>,
    pub neighbours: watch::Receiver<BTreeSet<IpAddr>>,
    pub vips: watch::Receiver<BTreeSet<IpAddr>>,
    pub found: watch::Receiver<BTreeMap<IpAddr, OnLink>>,
    pub wanted: mpsc::Receiver<Vec<(IpAddr, u32)>>,
    pub progress: watch::Receiver<Progress>,
    /// What a next daemon should find.
    pub overrides: watch::Receiver<Snapshot>,
    /// What became of it; at first every write is done before it is asked for.
    pub saved: watch::Sender<Saved>,
    observations: mpsc::Sender<Observation>,
    reading: Reading,
    stop: CancellationToken,
    task: JoinHandle<Option<ProxyRecorder>>,
}

pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    Config::parse("config.toml", text, &BTreeMap::new())
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn hop(interface: u32) -> NextHop {
    NextHop { destination: [1, 2, 3], source: [4, 5, 6], ifindex: interface, mtu: 1500 }
}

/// A host with tc on eth0 that reaches every backend of these tests.
pub fn facts() -> Facts {
    let backends = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "2001:db8::1", "2001:db8::2"];
    Facts {
        local: ["172.16.0.1".parse().unwrap()].into(),
        hops: backends.into_iter().map(|ip| (ip.parse().unwrap(), hop(2))).collect(),
        ..Facts::default()
    }
}

pub fn tc() -> Vec<InterfacePlane> {
    vec![InterfacePlane { interface: "eth0".into(), plane: Some(Plane::Tc), reason: "veth".into() }]
}

impl World {
    /// Over the maps `kernel`; no backend is judged yet.
    pub fn with(config: &str, kernel: KernelRecorder) -> Result<Self, StartError> {
        Self::build(config, kernel, tc())
    }

    /// Whose interfaces have these planes.
    pub fn build(
        config: &str,
        kernel: KernelRecorder,
        planes: Vec<InterfacePlane>,
    ) -> Result<Self, StartError> {
        Self::restore(config, kernel, planes, Vec::new())
    }

    /// With what a last daemon has kept.
    pub fn restore(
        config: &str,
        kernel: KernelRecorder,
        planes: Vec<InterfacePlane>,
        kept: Vec<Override>,
    ) -> Result<Self, StartError> {
        let config = parse(config).unwrap();
        let reading: Reading = Arc::new(Mutex::new(Ok(config.clone())));
        let read = reading.clone();
        let (planes, planes_receiver) = watch::channel(planes);
        let (facts, facts_receiver) = watch::channel(facts());
        let (observations, observations_receiver) = mpsc::channel(16);
        let (handle, requests) = Handle::channel(16);
        let (targets, targets_receiver) = watch::channel(Targets::default());
        let (neighbours, neighbours_receiver) = watch::channel(BTreeSet::new());
        let (vips, vips_receiver) = watch::channel(BTreeSet::new());
        let (sought, _) = watch::channel(BTreeSet::new());
        let (found, found_receiver) = watch::channel(BTreeMap::new());
        let (wanted, wanted_receiver) = mpsc::channel(16);
        let (progress, progress_receiver) = watch::channel(Progress::Starting);
        let snapshot = Snapshot { version: 0, overrides: Arc::new(kept.clone()) };
        let (overrides, overrides_receiver) = watch::channel(snapshot);
        let (saves, saved) = watch::channel(Saved { version: u64::MAX, failure: None });
        let kept = Kept { overrides: kept, file: "/state/changes".into(), problem: None, saved };
        let proxy = ProxyRecorder::default();
        let controller = Controller::new(Inputs {
            config,
            parse_config: Arc::new(parse),
            read_config: Arc::new(move || read.lock().unwrap().clone()),
            kernel: Ok(Box::new(kernel.clone())),
            planes: planes_receiver,
            proxy: proxy.clone(),
            seed: [1, 2],
            facts: facts_receiver,
            observations: observations_receiver,
            requests,
            kept,
            about: About {
                version: "0.0.0".into(),
                started_at: SystemTime::UNIX_EPOCH,
                phase: watch::channel(Phase::Ready).1,
                local: watch::channel(LocalTraffic::default()).1,
                links_repaired: watch::channel(0).1,
            },
            outputs: Outputs { targets, neighbours, wanted, vips, sought, found, overrides, progress },
        })?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(controller.run(stop.clone()));
        Ok(Self {
            kernel,
            proxy,
            handle,
            facts,
            planes,
            targets: targets_receiver,
            neighbours: neighbours_receiver,
            vips: vips_receiver,
            found: found_receiver,
            wanted: wanted_receiver,
            progress: progress_receiver,
            overrides: overrides_receiver,
            saved: saves,
            observations,
            reading,
            stop,
            task,
        })
    }

    /// With empty maps, all backends up and everything applied.
    pub async fn start(config: &str) -> Self {
        let world = Self::with(config, KernelRecorder::new(KernelState::default())).unwrap();
        world.all_up().await;
        world.done().await;
        world.kernel.take_actions();
        world.proxy.take_actions();
        world
    }

    /// A first successful check of every backend.
    pub async fn all_up(&self) {
        let targets = self.targets.borrow().clone();
        for target in targets.iter() {
            self.observe(&target.pool, target.address, true).await;
        }
    }

    pub async fn observe(&self, pool: &str, address: SocketAddr, up: bool) {
        self.took(pool, address, up, 1.0).await;
    }

    /// A check that took so many milliseconds.
    pub async fn took(&self, pool: &str, address: SocketAddr, up: bool, took_ms: f64) {
        let detail = if up { "connected" } else { "connection refused" };
        let check = LastCheck { ok: up, at: String::new(), took_ms, detail: detail.into() };
        let (pool, role, report) = (pool.to_owned(), Role::Check, Report::default());
        self.observed(Observation { pool, address, role, up, check, report }).await;
    }

    pub async fn observed(&self, observation: Observation) {
        self.observations.send(observation).await.unwrap();
    }

    pub async fn up(&self, backend: &str) {
        self.observe("web", address(backend), true).await;
        self.done().await;
    }

    pub async fn down(&self, backend: &str) {
        self.observe("web", address(backend), false).await;
        self.done().await;
    }

    /// Waits until the controller has taken in what was sent to it and everything is applied.
    pub async fn done(&self) {
        let is_done = || {
            let taken = self.observations.capacity() == self.observations.max_capacity();
            taken && *self.progress.borrow() == Progress::Done
        };
        loop {
            self.eventually("everything is applied", is_done).await;
            // Answered after the reconcile that is under way, which may fail.
            self.handle.status().await.unwrap();
            if is_done() {
                return;
            }
        }
    }

    pub async fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < deadline, "still not so after 60 s: {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets time pass for the controller.
    pub async fn pass(&self, time: Duration) {
        sleep(time).await;
        self.handle.status().await.unwrap();
    }

    pub fn set_config(&self, text: &str) {
        *self.reading.lock().unwrap() = parse(text);
    }

    pub fn id(&self, backend: &str) -> BackendId {
        self.kernel.id_of(address(backend)).unwrap_or_else(|| panic!("{backend} is not in the maps"))
    }

    /// The slots of the table that a TCP service's listen address leads to.
    pub fn slots(&self, listen: &str) -> Vec<Slot> {
        self.slots_of(SocketKey::new(address(listen), TCP))
    }

    fn slots_of(&self, service: SocketKey) -> Vec<Slot> {
        let state = self.kernel.state();
        state.tables[&state.services[&service].table].to_vec()
    }

    pub fn web(&self) -> Vec<Slot> {
        self.slots("192.0.2.10:80")
    }

    pub fn dns(&self) -> Vec<Slot> {
        self.slots_of(SocketKey::new(address("192.0.2.10:53"), UDP))
    }

    /// The id under which a backend serves UDP.
    pub fn udp_id(&self, backend: &str) -> Option<BackendId> {
        let state = self.kernel.state();
        state.endpoints.get(&SocketKey::new(address(backend), UDP)).map(|endpoint| endpoint.backend)
    }

    pub async fn pool(&self, name: &str) -> PoolStatus {
        let status = self.handle.status().await.unwrap();
        status.pools.iter().find(|pool| pool.name == name).cloned().unwrap()
    }

    pub async fn backend(&self, backend: &str) -> BackendStatus {
        let pool = self.pool("web").await;
        pool.backends.iter().find(|status| status.address == address(backend)).cloned().unwrap()
    }

    /// Ends the controller; what it leaves in the maps.
    pub async fn stop(self) -> KernelRecorder {
        self.stop.cancel();
        assert!(self.task.await.unwrap().is_some(), "the proxy plane is handed back");
        self.kernel
    }
}

pub fn named(slots: &[Slot], id: BackendId) -> usize {
    slots.iter().filter(|slot| slot.current() == id || slot.fallback() == id).count()
}
