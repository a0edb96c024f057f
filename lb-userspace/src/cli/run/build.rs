//! Build and attach: every part made and wired, in the order in which they need each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::block_in_place;

use crate::admin::{Admin, Serving};
use crate::config::{Config, Environment};
use crate::controller::ownership;
use crate::controller::request::Handle;
use crate::controller::task::{About, Controller, Inputs, Kept, Outputs, Progress};
use crate::data_plane::kernel::KernelTables;
use crate::health::Targets;
use crate::kernel::Refusals;
use crate::model::Phase;
use crate::model::status::LocalTraffic;
use crate::network::Network;
use crate::proxy::Proxy;
use crate::state::{Saved, Snapshot, Store};
use crate::supervisor::Supervisor;
use crate::telemetry::Log;

use super::interfaces::{self, Attacher};
use super::vips::{self, Hosted};
use super::{Failure, announce, kernel, refresh, tasks};

/// Requests, observations and wanted neighbours that wait for who takes them.
const QUEUE: usize = 1024;

/// A daemon with all its tasks.
pub(super) struct Daemon {
    pub(super) supervisor: Supervisor,
    pub(super) controller: Handle,
    pub(super) progress: watch::Receiver<Progress>,
    /// Asks for a reload.
    pub(super) refresh: Arc<Notify>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) parts: Parts,
}

/// What has to be taken apart at the end.
pub(super) struct Parts {
    /// The one in force.
    pub(super) config: watch::Receiver<Config>,
    pub(super) network: Arc<Network>,
    pub(super) serving: Serving,
    /// Comes when the controller has ended.
    pub(super) proxy: oneshot::Receiver<Hosted>,
    /// Comes when its task has ended; `None`: there is no kernel plane.
    pub(super) attacher: Option<oneshot::Receiver<Attacher>>,
}

impl Daemon {
    /// Makes everything. The admin socket comes first: where another daemon has it, nothing else is touched.
    pub(super) async fn build(
        file: &Path,
        environment: Environment,
        config: Config,
        log: Log,
    ) -> Result<Self, Failure> {
        let (phase, phases) = watch::channel(Phase::Starting);
        let (controller, requests) = Handle::channel(QUEUE);
        let serving = Admin::bind(&config.admin)?.start(controller.clone(), phases.clone())?;

        let (targets, wanted_targets) = watch::channel(Targets::default());
        let (neighbours, wanted_neighbours) = watch::channel(BTreeSet::new());
        let (vips, wanted_vips) = watch::channel(BTreeSet::new());
        let (sought, sought_vips) =
            watch::channel(config.services.iter().flat_map(ownership::vips).collect::<BTreeSet<_>>());
        let (found, found_vips) = watch::channel(BTreeMap::new());
        let (wanted, wanted_once) = mpsc::channel(QUEUE);
        let (observer, observations) = mpsc::channel(QUEUE);
        let (planes, attached) = watch::channel(Vec::new());
        let (local, local_seen) = watch::channel(LocalTraffic::default());
        let (repaired, links_repaired) = watch::channel(0);
        let (progress, progress_seen) = watch::channel(Progress::Starting);

        // Before the network: pins that are refused leave that as it is, too.
        let mut plane = block_in_place(|| kernel::open(&config))?;
        let seed = match &plane {
            Ok(plane) => plane.seed,
            Err(_) => config.kernel.hash_seed.unwrap_or_else(rand::random),
        };
        if let Ok(plane) = &mut plane {
            // Old flows of backends that the config has no more still come through the interfaces that lead there.
            let adopted = block_in_place(|| plane.tables.backends()).map_err(anyhow::Error::new)?;
            neighbours.send_replace(adopted);
        }
        let (facts, network) = Network::start(wanted_neighbours.clone(), sought_vips).await?;
        let network = Arc::new(network);
        let (tables, attacher): (Result<Box<dyn KernelTables>, String>, _) = match plane {
            Ok(plane) => {
                let inputs = interfaces::Inputs {
                    backends: wanted_neighbours,
                    facts: facts.clone(),
                    network: Arc::clone(&network),
                };
                let outputs = interfaces::Outputs { planes, local, repaired };
                let attach = || Attacher::start(plane.programs, &config, inputs, outputs);
                (Ok(Box::new(plane.tables)), Some(block_in_place(attach)?))
            }
            Err(reason) => {
                local.send_replace(LocalTraffic { cgroup: None, reason: reason.clone() });
                (Err(reason), None)
            }
        };
        let counted = tables.is_ok().then(|| Refusals::open(&config.daemon.bpf_dir));
        let counted = counted.transpose().map_err(anyhow::Error::new)?;
        let opened = block_in_place(|| Store::open(&config.daemon.state_dir));
        if let Some(problem) = &opened.problem {
            tracing::error!("{problem}");
        }
        let snapshot = Snapshot { version: 0, overrides: Arc::new(opened.overrides.clone()) };
        let (overrides, snapshots) = watch::channel(snapshot);
        let (saves, saved) = watch::channel(Saved::default());
        let store = opened.store;
        let kept = Kept { overrides: opened.overrides, file: store.file(), problem: opened.problem, saved };
        let cores = std::thread::available_parallelism().context("the cores cannot be counted")?.get();
        let mut proxy = Proxy::start(cores, seed).context("the proxy plane cannot be started")?;
        let refused = proxy.refusals();
        let proxy = Hosted {
            proxy,
            vips: wanted_vips.clone(),
            network: Arc::clone(&network),
            runtime: tokio::runtime::Handle::current(),
        };
        let inputs = Inputs {
            config,
            read_config: {
                let (file, environment) = (file.to_owned(), environment.clone());
                Arc::new(move || Config::load(&file, &environment))
            },
            parse_config: {
                let name = file.display().to_string();
                Arc::new(move |text| Config::parse(&name, text, &environment))
            },
            kernel: tables,
            planes: attached,
            proxy,
            seed,
            facts: facts.clone(),
            observations,
            requests,
            kept,
            about: About {
                version: env!("CARGO_PKG_VERSION").into(),
                started_at: SystemTime::now(),
                phase: phases,
                local: local_seen,
                links_repaired,
            },
            outputs: Outputs { targets, neighbours, wanted, vips, sought, found, overrides, progress },
        };
        let task = block_in_place(|| Controller::new(inputs)).map_err(anyhow::Error::new)?;

        // From here on nothing fails: the tasks begin.
        let config = task.in_force();
        let asked = Arc::new(Notify::new());
        let mut supervisor = Supervisor::new();
        let stop = supervisor.token();
        let (sender, proxy) = oneshot::channel();
        supervisor.spawn("controller", tasks::control(task, sender, stop.clone()));
        supervisor.spawn("state", tasks::keep(store, snapshots, saves, stop.clone()));
        let attacher = attacher.map(|attacher| {
            let (sender, receiver) = oneshot::channel();
            let follow = tasks::attach(attacher, config.clone(), sender, stop.clone());
            supervisor.spawn("interfaces", follow);
            receiver
        });
        let observer = (observer, config.borrow().daemon.checks_at_once);
        let (suspects, suspected) = mpsc::channel(QUEUE);
        let network_too = Arc::clone(&network);
        supervisor.spawn(
            "health",
            tasks::check(wanted_targets, facts.clone(), observer, suspected, network_too, stop.clone()),
        );
        if let Some(refused) = refused {
            supervisor.spawn("suspicions", tasks::suspect(refused, counted, suspects, stop.clone()));
        }
        let resolve = tasks::resolve(wanted_once, Arc::clone(&network), stop.clone());
        supervisor.spawn("neighbours", resolve);
        supervisor.spawn("vips", vips::keep(wanted_vips, facts, Arc::clone(&network), stop.clone()));
        supervisor.spawn("announcements", announce::tell(found_vips, Arc::clone(&network), stop.clone()));
        let reload = refresh::on_demand(Arc::clone(&asked), controller.clone(), stop.clone());
        supervisor.spawn("reload", reload);
        let watch = refresh::on_change(file.to_owned(), config.clone(), Arc::clone(&asked), stop.clone());
        supervisor.spawn("watch", watch);
        supervisor.spawn("log", refresh::follow_filter(log, config.clone(), stop));

        let parts = Parts { config, network, serving, proxy, attacher };
        Ok(Self { supervisor, controller, progress: progress_seen, refresh: asked, phase, parts })
    }
}
