//! What many services and backends cost: `cargo xtask bench many`.

mod arena;
mod daemon;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use arena::{Arena, Size};
use clap::{Args, Parser, Subcommand};
use daemon::{Daemon, Memory, Used};
use lb_testbed::machine::Machine;
use lb_testbed::median::Median;
use lb_testbed::tracer::Trace;
use serde::Serialize;

/// A daemon with many services, each with a pool of backends of its own, behind a gateway in a namespace: how long it takes
/// to start, to take over, to read everything back, to reload, and to change one backend, and how much memory. No traffic.
#[derive(Parser)]
#[command(name = "cargo xtask bench many", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    plan: Plan,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Args)]
struct Plan {
    #[command(flatten)]
    size: Size,
    /// Weights that are changed, one after another
    #[arg(long, default_value_t = 50)]
    changes: u32,
    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Becomes a program whose calls into the kernel are counted
    #[command(hide = true)]
    Trace {
        /// Where `armed` is looked for and `count` is kept
        directory: PathBuf,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// What was measured. Times in milliseconds.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    size: Size,
    /// From the process to its readiness, where nothing was.
    start: Used,
    /// The same over what another daemon left.
    takeover: Used,
    /// Reading everything back and comparing it.
    audit_ms: f64,
    /// A reload of the same file.
    reload_same: Used,
    /// A reload with another weight of one backend.
    reload_one: Used,
    /// From the request for another weight of one backend to the answer.
    change_ms: Median,
    /// CPU time of the daemon for each of them.
    change_cpu_ms: f64,
    /// Tables that one of them replaced.
    change_tables: usize,
    /// Calls of bpf(2), and messages to netlink sockets, that changed something in one of them.
    change_calls: u64,
    /// `sluice status --json`, from the command to its end.
    status_ms: f64,
    /// What it printed, in bytes.
    status_bytes: usize,
    /// The longest that `/health` took to answer meanwhile, and within 35 s of rest with an audit.
    health_ms: f64,
    memory: Memory,
}

fn main() -> Result<()> {
    let Arguments { plan, verb } = Arguments::parse();
    match verb {
        Some(Verb::Trace { directory, command }) => {
            let mut program = Command::new(&command[0]);
            program.args(&command[1..]);
            match (Trace { directory, at: u64::MAX }).exec(program)? {}
        }
        None => run(&plan),
    }
}

fn run(plan: &Plan) -> Result<()> {
    let Plan { size, changes, json } = plan;
    let mut daemon = Daemon::new(Arena::new(*size)?)?;
    let told = |what: &str| eprintln!("{what}");
    told("starting");
    let start = daemon.start()?;
    let memory = daemon.memory()?;
    let watch = daemon.watch_health();
    told("changing one weight after another");
    let (change, change_tables) = (daemon.change(0, 50)?, daemon.tables()?);
    ensure!(change.ms > 0.0);
    let mut times = Vec::new();
    let cpu = daemon.cpu_ms()?;
    for number in 0..*changes {
        times.push(daemon.change(number % size.services, 60 + (number % 7) as u16)?.ms);
    }
    let change_cpu_ms = (daemon.cpu_ms()? - cpu) / f64::from(*changes);
    let before = change_tables;
    let now = daemon.tables()?;
    ensure!(before.len() == now.len(), "{} tables, then {}", before.len(), now.len());
    let before = now;
    daemon.change(1, 33)?;
    let change_tables = daemon.tables()?.difference(&before).count();
    told("reloading");
    let reload_same = daemon.reload()?;
    daemon.reweigh()?;
    let reload_one = daemon.reload()?;
    let begin = Instant::now();
    let status_bytes = daemon.status()?;
    let status_ms = begin.elapsed().as_secs_f64() * 1e3;
    told("resting until an audit is over");
    daemon.rest(Duration::from_secs(35))?;
    let health_ms = watch.longest()?;
    daemon.kill()?;
    told("taking over");
    let takeover = daemon.start()?;
    daemon.kill()?;
    told("counting calls");
    let change_calls = daemon.count_calls(|daemon| daemon.change(2, 44).map(drop))?;
    daemon.kill()?;
    let audit_ms = daemon.audit()?;
    let report = Report {
        machine: Machine::read()?,
        size: *size,
        start,
        takeover,
        audit_ms,
        reload_same,
        reload_one,
        change_ms: Median::of(&times),
        change_cpu_ms,
        change_tables,
        change_calls,
        status_ms,
        status_bytes,
        health_ms,
        memory,
    };
    match json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => println!("{report}"),
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size { services, backends, table_size } = self.size;
        let Median { median, min, max } = self.change_ms;
        let Memory { resident_mib, peak_mib, maps_mib, tables_mib } = self.memory;
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "{services} services, {backends} backends each, tables of {table_size} slots")?;
        writeln!(f, "start: {}", self.start)?;
        writeln!(f, "take-over: {}", self.takeover)?;
        writeln!(f, "audit: {:.0} ms", self.audit_ms)?;
        writeln!(f, "reload of the same file: {}", self.reload_same)?;
        writeln!(f, "reload, one weight: {}", self.reload_one)?;
        writeln!(
            f,
            "change of one weight: {median:.1} ms ({min:.1} to {max:.1}), {:.1} ms of CPU time; {} table(s), {} calls",
            self.change_cpu_ms, self.change_tables, self.change_calls
        )?;
        writeln!(f, "status: {:.0} ms, {} bytes", self.status_ms, self.status_bytes)?;
        writeln!(f, "/health: {:.1} ms at most", self.health_ms)?;
        write!(
            f,
            "memory: {resident_mib:.0} MiB of the daemon ({peak_mib:.0} at its peak), {maps_mib:.0} MiB of maps, \
             {tables_mib:.0} of them tables"
        )
    }
}
