//! What the supervisor wires to the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use lb_common::hash::Seed;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::config::problem::Problem;
use crate::controller::request::Request;
use crate::data_plane::kernel::KernelTables;
use crate::health::{Observation, Targets};
use crate::model::status::{InterfacePlane, LocalTraffic};
use crate::model::{Override, Phase};
use crate::network::{Facts, OnLink};
use crate::state::{Saved, Snapshot};

/// Reads the config file again.
pub type ReadConfig = Arc<dyn Fn() -> Result<Config, Vec<Problem>> + Send + Sync>;

/// Reads the text of a config as the file would be read.
pub type ParseConfig = Arc<dyn Fn(&str) -> Result<Config, Vec<Problem>> + Send + Sync>;

/// What the controller is made of.
pub struct Inputs<P> {
    /// The config to begin with.
    pub config: Config,
    /// For reloads.
    pub read_config: ReadConfig,
    /// For plans.
    pub parse_config: ParseConfig,
    /// The kernel planes' maps; `Err`: why there are none.
    pub kernel: Result<Box<dyn KernelTables>, String>,
    /// What is attached where.
    pub planes: watch::Receiver<Vec<InterfacePlane>>,
    /// The proxy plane.
    pub proxy: P,
    /// The flow hash's secret, the same on all planes.
    pub seed: Seed,
    /// The host's network; holds facts already.
    pub facts: watch::Receiver<Facts>,
    /// Health checks.
    pub observations: mpsc::Receiver<Observation>,
    /// From the API, the signals.
    pub requests: mpsc::Receiver<Request>,
    /// What was changed at run time before.
    pub kept: Kept,
    /// What the status document says of the process.
    pub about: About,
    /// Where the controller tells what it needs.
    pub outputs: Outputs,
}

/// What was changed at run time, as the last daemon has left it, and what becomes of further changes.
#[derive(Clone, Debug)]
pub struct Kept {
    /// As it was found.
    pub overrides: Vec<Override>,
    /// Where it was found.
    pub file: PathBuf,
    /// What went wrong with that, in words.
    pub problem: Option<String>,
    /// The last write.
    pub saved: watch::Receiver<Saved>,
}

/// What the status document says of the process.
#[derive(Clone, Debug)]
pub struct About {
    /// Of the daemon.
    pub version: String,
    /// When it was started.
    pub started_at: SystemTime,
    /// Its phase.
    pub phase: watch::Receiver<Phase>,
    /// What happens to sockets of this host.
    pub local: watch::Receiver<LocalTraffic>,
    /// How often somebody else had detached a program that was attached again.
    pub links_repaired: watch::Receiver<u64>,
}

/// Where the controller tells what it needs.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Backends to check.
    pub targets: watch::Sender<Targets>,
    /// Backends whose next hops are to be kept resolved.
    pub neighbours: watch::Sender<BTreeSet<IpAddr>>,
    /// Neighbours that replies waited for, each with the interface. Dropped while the channel is full: the
    /// data path asks again.
    pub wanted: mpsc::Sender<Vec<(IpAddr, u32)>>,
    /// VIPs that should be this host's own. Those that are already may be among them.
    pub vips: watch::Sender<BTreeSet<IpAddr>>,
    /// All VIPs: the facts should say which of them are on a link.
    pub sought: watch::Sender<BTreeSet<IpAddr>>,
    /// VIPs that are found by asking on a link, and which: that should be told to those who ask no more.
    pub found: watch::Sender<BTreeMap<IpAddr, OnLink>>,
    /// What a next daemon should find. Begins with what this one has found.
    pub overrides: watch::Sender<Snapshot>,
    /// How far the planes are.
    pub progress: watch::Sender<Progress>,
}

/// How far the planes are behind what is desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Waiting for the first health checks.
    Starting,
    /// A plane refused something, in words; it is tried again and again.
    Behind(String),
    /// Everything desired is applied.
    Done,
}

/// The channels, after the rest has found its place.
pub(super) struct Channels {
    pub(super) read_config: ReadConfig,
    pub(super) parse_config: ParseConfig,
    pub(super) planes: watch::Receiver<Vec<InterfacePlane>>,
    pub(super) seed: Seed,
    pub(super) facts: watch::Receiver<Facts>,
    pub(super) observations: mpsc::Receiver<Observation>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) file: PathBuf,
    pub(super) saved: watch::Receiver<Saved>,
    pub(super) about: About,
    pub(super) outputs: Outputs,
}
