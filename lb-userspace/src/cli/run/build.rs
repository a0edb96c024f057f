//! Build and attach: every part made and wired, in the order in which they need each other.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::block_in_place;

use crate::admin::{Admin, Serving};
use crate::config::{self, Config};
use crate::controller::request::Handle;
use crate::controller::task::{About, Controller, Inputs, Outputs, Progress, ReadConfig};
use crate::data_plane::kernel::KernelTables;
use crate::health::Checker;
use crate::model::Phase;
use crate::network::Network;
use crate::proxy::Proxy;
use crate::supervisor::Supervisor;
use crate::telemetry::Log;

use super::interfaces::{self, Attacher};
use super::vips::{self, Hosted};
use super::{Failure, kernel, refresh};

/// Requests, observations and wanted neighbours that wait for the controller.
const QUEUE: usize = 1024;

/// A daemon with all its tasks.
pub(super) struct Daemon {
    pub(super) supervisor: Supervisor,
    pub(super) controller: Handle,
    pub(super) progress: watch::Receiver<Progress>,
    /// Asks for a reload.
    pub(super) refresh: Arc<Notify>,
    pub(super) parts: Parts,
    phase: watch::Sender<Phase>,
}

/// What has to be taken apart at the end.
pub(super) struct Parts {
    /// The last good one.
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
    pub(super) async fn build(file: &Path, config: Config, log: Log) -> Result<Self, Failure> {
        let (phase, phases) = watch::channel(Phase::Starting);
        let (controller, requests) = Handle::channel(QUEUE);
        let serving = Admin::bind(&config.admin)?.start(controller.clone(), phases.clone())?;

        let (neighbours, wanted_neighbours) = watch::channel(BTreeSet::new());
        let (vips, wanted_vips) = watch::channel(BTreeSet::new());
        let (planes, attached) = watch::channel(Vec::new());
        let (targets, wanted_targets) = watch::channel(Vec::new());
        let (wanted, wanted_once) = mpsc::channel(QUEUE);
        let (observer, observations) = mpsc::channel(QUEUE);
        let (progress, progress_seen) = watch::channel(Progress::Starting);
        let (current, configs) = watch::channel(config.clone());

        let (facts, network) = Network::start(wanted_neighbours.clone()).await?;
        let network = Arc::new(network);
        let mut supervisor = Supervisor::new();
        let stop = supervisor.token();

        let plane = block_in_place(|| kernel::open(&config))?;
        let seed = match &plane {
            Ok(plane) => plane.seed,
            Err(_) => config.kernel.hash_seed.unwrap_or_else(rand::random),
        };
        let mut attacher = None;
        let tables: Result<Box<dyn KernelTables>, String> = match plane {
            Ok(plane) => {
                let inputs = interfaces::Inputs {
                    config: configs.clone(),
                    backends: wanted_neighbours,
                    facts: facts.clone(),
                    network: Arc::clone(&network),
                };
                let mut started = block_in_place(|| Attacher::start(plane.programs, inputs, planes))?;
                let (sender, receiver) = oneshot::channel();
                attacher = Some(receiver);
                let stop = stop.clone();
                supervisor.spawn("interfaces", async move {
                    let outcome = started.run(stop).await;
                    // Nobody waits for it where the start has failed.
                    let _ = sender.send(started);
                    outcome
                });
                Ok(Box::new(plane.tables))
            }
            Err(reason) => Err(reason),
        };

        let cores = std::thread::available_parallelism().context("the cores cannot be counted")?.get();
        let proxy = Hosted {
            proxy: Proxy::start(cores, seed).context("the proxy plane cannot be started")?,
            vips: wanted_vips.clone(),
            network: Arc::clone(&network),
            runtime: tokio::runtime::Handle::current(),
        };
        let about =
            About { version: env!("CARGO_PKG_VERSION").into(), started_at: SystemTime::now(), phase: phases };
        let inputs = Inputs {
            config,
            read_config: read_config(file, current, log),
            kernel: tables,
            planes: attached,
            proxy,
            seed,
            facts: facts.clone(),
            observations,
            requests,
            about,
            outputs: Outputs { targets, neighbours, wanted, vips, progress },
        };
        let task = block_in_place(|| Controller::new(inputs)).map_err(anyhow::Error::new)?;
        let (sender, proxy) = oneshot::channel();
        supervisor.spawn("controller", {
            let stop = stop.clone();
            async move {
                if let Some(proxy) = task.run(stop).await {
                    // Nobody waits for it where the start has failed.
                    let _ = sender.send(proxy);
                }
                Ok(())
            }
        });
        supervisor.spawn("health", {
            let (stop, mut wanted) = (stop.clone(), wanted_targets);
            async move {
                let mut checker = Checker::start(observer);
                loop {
                    checker.set_targets(wanted.borrow_and_update().clone());
                    // A closed channel: the controller has ended, and is the one to name.
                    if !matches!(stop.run_until_cancelled(wanted.changed()).await, Some(Ok(()))) {
                        stop.cancelled().await;
                        return Ok(());
                    }
                }
            }
        });
        supervisor.spawn("neighbours", {
            let (stop, network, mut wanted) = (stop.clone(), Arc::clone(&network), wanted_once);
            async move {
                while let Some(Some(wanted)) = stop.run_until_cancelled(wanted.recv()).await {
                    if let Err(error) = network.resolve(wanted).await {
                        tracing::warn!(%error, "a neighbour that replies wait for cannot be resolved");
                    }
                }
                stop.cancelled().await;
                Ok(())
            }
        });
        supervisor.spawn("vips", vips::keep(wanted_vips, facts, Arc::clone(&network), stop.clone()));
        let asked = Arc::new(Notify::new());
        supervisor.spawn("reload", refresh::on_demand(Arc::clone(&asked), controller.clone(), stop.clone()));
        supervisor
            .spawn("watch", refresh::on_change(file.to_owned(), configs.clone(), Arc::clone(&asked), stop));
        let parts = Parts { config: configs, network, serving, proxy, attacher };
        Ok(Self { supervisor, controller, progress: progress_seen, refresh: asked, parts, phase })
    }

    /// Tells everybody who watches.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// The tasks, what they leave, and what tells the phase.
    pub(super) fn into_parts(self) -> (Supervisor, Parts, watch::Sender<Phase>) {
        (self.supervisor, self.parts, self.phase)
    }
}

/// Reads the file again, and tells what others than the controller take from it.
fn read_config(file: &Path, current: watch::Sender<Config>, log: Log) -> ReadConfig {
    let file = file.to_owned();
    Arc::new(move || {
        let config = Config::load(&file, &config::environment())?;
        if let Err(error) = log.set_filter(&config.daemon.log) {
            tracing::warn!("{error}");
        }
        current.send_replace(config.clone());
        Ok(config)
    })
}
