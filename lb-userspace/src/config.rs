//! The checked form of `config.toml`: impossible states are gone, defaults are filled in.

pub mod problem;
mod proxied;
pub use proxied::{NeedsProxy, needs_proxy};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{Plane, Pool, Service};

/// A config that can be put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[daemon]`.
    pub daemon: Daemon,
    /// `[admin]`.
    pub admin: Admin,
    /// `[kernel]`.
    pub kernel: Kernel,
    /// `[[service]]`, in file order.
    pub services: Vec<Service>,
    /// `[[pool]]`, in file order.
    pub pools: Vec<Pool>,
}

/// `[daemon]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Where runtime changes are kept.
    pub state_dir: PathBuf,
    /// Where links, programs and maps are pinned.
    pub bpf_dir: PathBuf,
    /// A `tracing` filter.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Deadline of a drain and of a graceful stop.
    pub drain_timeout: Duration,
    /// Reload when the file changes.
    pub watch: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Path of the unix socket.
    pub socket: PathBuf,
    /// Optional loopback TCP listener.
    pub listen: Option<SocketAddr>,
    /// Holds the token that allows changes over TCP.
    pub token_file: Option<PathBuf>,
}

/// `[kernel]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Which kernel plane.
    pub plane: PlaneChoice,
    /// Where it is attached.
    pub interfaces: Interfaces,
    /// Capacity of the flow table, 1024 to 64 Mi.
    pub flows: u32,
    /// The hash seed; `None`: random, kept with the pins.
    pub hash_seed: Option<lb_common::hash::Seed>,
}

/// Which kernel plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaneChoice {
    /// Per interface: native XDP on NICs, tc on virtual devices.
    Auto,
    /// This one or an error (never [`Plane::Proxy`]).
    Force(Plane),
    /// None: every service is proxied.
    Off,
}

/// Where kernel planes are attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// Where the routes to services and backends point.
    Auto,
    /// There and nowhere else.
    List(Vec<Interface>),
}

/// One named interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Overrides `kernel.plane` there.
    pub plane: PlaneChoice,
}

/// TEMP.
pub fn changes(old: &Config, new: &Config) -> Vec<String> {
    if old == new { Vec::new() } else { vec!["changed".into()] }
}
/// TEMP.
pub fn frozen(old: &Config, new: &Config) -> Vec<problem::Problem> {
    if old.kernel.flows == new.kernel.flows {
        return Vec::new();
    }
    vec![problem::Problem {
        file: String::new(),
        line: None,
        column: None,
        path: "kernel.flows".into(),
        value: None,
        reason: "needs a restart".into(),
        hint: None,
    }]
}
