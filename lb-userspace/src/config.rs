//! The checked form of `config.toml`: impossible states are gone, defaults are filled in.
//!
//! A text becomes a [`Config`] in three steps: `syntax` and `tree` hold it exactly as TOML says it, with the
//! environment's overrides laid over it; `file` reads every key of every table; `check` compares objects with
//! each other. Each step goes on after a problem, so that all of them are reported at once.
//!
//! Strings may hold `${NAME}`, the value of an environment variable (`$${` is a literal `${`). A variable
//! `SLUICE_SECTION__KEY`, such as `SLUICE_DAEMON__LOG` or `SLUICE_SERVICE__0__FORWARD`, replaces the value
//! of its key; its own text is taken as it is.

mod address;
mod changes;
mod check;
mod expand;
mod file;
mod health;
mod http;
mod outlier;
pub mod problem;
mod proxied;
mod questions;
mod report;
mod scalar;
mod section;
mod source;
mod syntax;
mod tls;
mod tree;
mod values;
mod weights;
mod words;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{Plane, Pool, Service};

pub use changes::{changes, frozen};
use problem::{Fault, Problem};
pub use proxied::{NeedsProxy, needs_proxy};

/// Why no config could hold a backend at this address, in words.
pub fn no_backend_at(address: SocketAddr) -> Option<String> {
    let zone = matches!(address, SocketAddr::V6(address) if address.scope_id() != 0);
    match address::judge(address) {
        Err(fault) => Some(fault.reason),
        Ok(_) => zone.then(|| "has a zone, and a zone means something on one host only".to_owned()),
    }
}

/// A larger file is no config: 64 MiB hold more backends than the kernel's maps.
const LARGEST: u64 = 64 * 1024 * 1024;

/// Environment variables by name.
pub type Environment = BTreeMap<String, String>;

/// The environment of this process. What is not UTF-8 cannot be meant and is shown with replacement
/// characters where it is used.
pub fn environment() -> Environment {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect()
}

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

impl Config {
    /// Reads a file and checks it.
    ///
    /// # Errors
    /// Every problem at once, those of the file in the order of its lines, then those of overrides.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, Vec<Problem>> {
        let name = path.display().to_string();
        let text = read(path).map_err(|fault| vec![Problem::whole(&name, fault)])?;
        Self::parse(&name, &text, environment)
    }

    /// Checks the text of a file that messages call `file`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(file: &str, text: &str, environment: &Environment) -> Result<Self, Vec<Problem>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let is_said = |line: &str| !line.trim_start().is_empty() && !line.trim_start().starts_with('#');
        if !text.lines().any(is_said) {
            let fault = Fault::new("the file is empty").hint("the shipped config.toml shows every key");
            return Err(vec![Problem::whole(file, fault)]);
        }
        let source = source::Source::new(file, text);
        let syntax::Parsed { root, mut problems } = syntax::parse(&source);
        let Some(mut root) = root else { return Err(problems) };
        let overrides = tree::lay_over(&mut root, environment);
        let report = report::Report::new(&source, environment);
        let read = file::read(section::Section::new(&report, String::new(), Some(&root)));
        let config = check::check(&report, read);
        // A key whose line could not be read is not missing.
        let known: Vec<String> = problems.iter().map(|problem| problem.path.clone()).collect();
        problems.extend(report.take().into_iter().filter(|problem| !known.contains(&problem.path)));
        problems.extend(overrides);
        problems.sort_by_key(|problem| (problem.line.is_none(), problem.line, problem.column));
        match config {
            Ok(config) if problems.is_empty() => Ok(config),
            _ => Err(problems),
        }
    }
}

fn read(path: &Path) -> Result<String, Fault> {
    let cannot = |error: std::io::Error| {
        let fault = Fault::new(format!("cannot read the file: {error}"));
        match error.kind() {
            std::io::ErrorKind::NotFound => fault.hint("name the config with -c FILE"),
            std::io::ErrorKind::PermissionDenied => fault.hint("run as a user who may read it"),
            _ => fault,
        }
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Fault::new("the file is larger than 64 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(good).filter(|&&byte| byte == b'\n').count() + 1;
        Fault::new(format!("the file is not UTF-8: line {line} holds other bytes")).hint("save it as UTF-8")
    })
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
    /// After the deadline of a drain, old flows are cut evenly over this time.
    pub drain_spread: Duration,
    /// Reload when the file changes.
    pub watch: bool,
    /// Health checks that run at the same time, over all pools.
    pub checks_at_once: u32,
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
    /// Backends that the maps have room for, 1024 to 128 Ki.
    pub backends: u32,
    /// The hash seed; `None`: random, kept with the pins.
    pub hash_seed: Option<lb_common::hash::Seed>,
    /// Whether pings to the VIPs of kernel planes are answered.
    pub ping: bool,
    /// Whether sockets of this host that name a VIP are led to backends, where that is possible.
    pub local: bool,
}

impl Kernel {
    /// The plane that decides whether there are kernel planes; with a list of interfaces the strictest of theirs.
    pub fn strictest(&self) -> PlaneChoice {
        let Interfaces::List(listed) = &self.interfaces else { return self.plane };
        let choices = || listed.iter().map(|interface| interface.plane);
        choices()
            .find(|choice| matches!(choice, PlaneChoice::Force(_)))
            .or_else(|| choices().find(|choice| *choice == PlaneChoice::Auto))
            .unwrap_or(PlaneChoice::Off)
    }
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
