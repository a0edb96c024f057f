//! The daemon killed at every call into the kernel: `cargo xtask bench crash`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use lb_testbed::crash::{self, Plan, Scenario};
use lb_testbed::tracer::Trace;
use lb_userspace::model::Plane;

/// Kills the daemon at its every call of bpf(2) and every message to a netlink socket, while it starts, takes over,
/// reloads and stops. Flows live and begin meanwhile; the next daemon must find its way, and in the end nothing may be left.
#[derive(Parser)]
#[command(name = "cargo xtask bench crash", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    walk: Walk,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Args)]
struct Walk {
    /// Only this, several times; all where missing
    #[arg(long)]
    scenario: Vec<Scenario>,
    /// tc and xdp where missing
    #[arg(long)]
    plane: Option<String>,
    /// The first call
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// From one call to the next that it dies at
    #[arg(long, default_value_t = 1)]
    step: u64,
    /// Flows that live long
    #[arg(long, default_value_t = 200)]
    flows: u64,
    /// New flows a second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Becomes a program that dies at a call
    #[command(hide = true)]
    Trace {
        /// Where `armed` is looked for and `count` is kept
        directory: PathBuf,
        /// The call
        at: u64,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> Result<()> {
    let Arguments { walk, verb } = Arguments::parse();
    match verb {
        Some(Verb::Trace { directory, at, command }) => {
            let mut program = Command::new(&command[0]);
            program.args(&command[1..]);
            match (Trace { directory, at }).exec(program)? {}
        }
        None => run(walk),
    }
}

fn run(walk: Walk) -> Result<()> {
    let Walk { scenario, plane, first, step, flows, rate, json } = walk;
    let planes = match plane.as_deref() {
        None => vec![Plane::Tc, Plane::Xdp],
        Some("tc") => vec![Plane::Tc],
        Some("xdp") => vec![Plane::Xdp],
        Some(other) => anyhow::bail!("--plane {other}: is neither tc nor xdp"),
    };
    let scenarios = if scenario.is_empty() { Scenario::ALL.to_vec() } else { scenario };
    let tracer = vec![std::env::current_exe()?.into_os_string(), "trace".into()];
    let mut reports = Vec::new();
    for plane in planes {
        for scenario in &scenarios {
            let (scenario, tracer) = (*scenario, tracer.clone());
            let report = crash::walk(&Plan { plane, scenario, first, step, tracer, flows, rate })?;
            if !json {
                println!("{report}");
            }
            reports.push(report);
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    }
    let broken = |report: &&crash::Report| report.lost() > 0;
    let lost = reports.iter().filter(broken).count();
    ensure!(lost == 0, "flows were lost in {lost} of {} walks", reports.len());
    Ok(())
}
