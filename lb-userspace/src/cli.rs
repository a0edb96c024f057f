//! The command line: arguments, and one module for each verb that is more than a request.

mod check;
mod cleanup;
mod drain;
pub mod explain;
mod failure;
pub mod flows;
mod output;
pub mod plan;
pub mod remote;
mod run;
pub mod status;
mod table;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::admin::api::Flows;
use crate::kernel::object;

pub use failure::Failure;

/// A layer-4 load balancer: eBPF where the kernel can, a splice proxy where it cannot.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, long_version = long_version(), arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Socket of the daemon; for `run`, instead of the config's [default: /run/sluice/admin.sock]
    #[arg(long, global = true, value_name = "PATH", env = SOCKET_VARIABLE)]
    pub socket: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const SOCKET: &str = "/run/sluice/admin.sock";
/// Overrides `admin.socket`, as such variables do for every key.
const SOCKET_VARIABLE: &str = "SLUICE_ADMIN__SOCKET";
const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 config invalid, 4 no rights";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the daemon
    Run {
        /// The config.
        #[command(flatten)]
        config: ConfigFile,
        /// Take everything out of the kernel at the end, instead of leaving it to forward
        #[arg(long)]
        detach: bool,
    },
    /// Check a config file and print every problem
    Check {
        /// The config.
        #[command(flatten)]
        config: ConfigFile,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Show what a config file would change, before anything does
    Plan {
        /// The config.
        #[command(flatten)]
        config: ConfigFile,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Take out of the kernel what a daemon with this config has left there
    Cleanup {
        /// The config.
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Show planes, services, pools and drops
    Status {
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Read the config file again and put it in force
    Reload,
    /// Show which backend a client's flow goes to, and why
    Explain {
        /// Address and port of the client
        client: SocketAddr,
        /// Service, or one of its listen addresses
        service: String,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// List the flows that are remembered: tracked ones and the proxy's connections
    Flows {
        /// Only of this service, or of one of its listen addresses
        #[arg(long)]
        service: Option<String>,
        /// Only of this client, an address with or without a port
        #[arg(long, value_name = "ADDRESS")]
        client: Option<String>,
        /// Only to this backend, an address with or without a port
        #[arg(long, value_name = "ADDRESS")]
        backend: Option<String>,
        /// So many at most, up to 100000 [default: 1000]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Change a backend of the running daemon
    #[command(subcommand)]
    Backend(Backend),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The file of `-c`.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// Config file
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub path: PathBuf,
}

/// How a verb answers.
#[derive(Debug, Args)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to change of a backend.
#[derive(Debug, Subcommand)]
pub enum Backend {
    /// Add it to its pool, or set the weight of one that is there
    Add {
        /// Which one.
        #[command(flatten)]
        target: Target,
        /// 0 to 65535; 0: no new flows [default: 100]
        #[arg(long)]
        weight: Option<u16>,
    },
    /// Take it from its pool; old flows stay until they end or the drain time-out passes
    Remove {
        /// Which one.
        #[command(flatten)]
        target: Target,
        /// Cut its flows at once
        #[arg(long)]
        now: bool,
    },
    /// No new flows; old ones are cut when the drain time-out passes
    Drain {
        /// Which one.
        #[command(flatten)]
        target: Target,
    },
    /// Take a drain back
    Undrain {
        /// Which one.
        #[command(flatten)]
        target: Target,
    },
    /// Set its weight
    Weight {
        /// Which one.
        #[command(flatten)]
        target: Target,
        /// 0 to 65535; 0: no new flows, old ones stay
        weight: u16,
    },
}

/// Which backend.
#[derive(Debug, Args)]
pub struct Target {
    /// Its pool
    pub pool: String,
    /// Its address and port
    pub address: SocketAddr,
}

/// For `--version`: what this binary can do depends on how it was built.
fn long_version() -> &'static str {
    match object::object() {
        Some(_) => concat!(env!("CARGO_PKG_VERSION"), "\nplanes: xdp, xdp-generic, tc, proxy"),
        None => concat!(env!("CARGO_PKG_VERSION"), "\nplanes: proxy (built without the eBPF object)"),
    }
}

impl Cli {
    /// Does what the verb says.
    pub fn run(self) -> Result<(), Failure> {
        let Self { socket: asked, verb } = self;
        let socket = asked.as_deref().unwrap_or_else(|| Path::new(SOCKET));
        match verb {
            Verb::Run { config, detach } => run::run(&config.path, asked.as_deref(), detach),
            Verb::Check { config, output } => check::check(&config.path, output.json),
            Verb::Plan { config, output } => plan::plan(socket, &config.path, output.json),
            Verb::Cleanup { config } => cleanup::cleanup(&config.path),
            Verb::Status { output } => remote::status(socket, output.json),
            Verb::Reload => remote::reload(socket),
            Verb::Explain { client, service, output } => {
                remote::explain(socket, client, service, output.json)
            }
            Verb::Flows { service, client, backend, limit, output } => {
                remote::flows(socket, &Flows { service, client, backend, limit }, output.json)
            }
            Verb::Backend(verb) => remote::backend(socket, verb),
            Verb::Completions { shell } => completions(shell),
        }
    }
}

/// What a verb needs that waits for something now and then.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
