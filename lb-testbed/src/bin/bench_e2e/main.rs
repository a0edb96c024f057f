//! Balancers beside each other, end to end: `cargo xtask bench e2e`.
//!
//! Every contender has a client, a balancer host and backends of its own, all alike; all stand for the
//! whole run and only one has traffic at a time. In each round every contender is measured once for each
//! load, and is compared with the direct path of the same round: the machine's clock and neighbours drift,
//! ratios of one round do not.

mod arena;
mod balancer;
mod contender;
mod load;
mod report;
mod running;
mod web;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;

use arena::Arena;
use contender::Contender;
use load::{Load, Tool};
use report::{Report, Sample};
use web::Content;

/// Compares Sluice's planes with the direct path and with other balancers, end to end.
#[derive(Parser)]
#[command(name = "cargo xtask bench e2e")]
struct Arguments {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Three rounds of one second
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    short: bool,
    /// Only these contenders, and the direct paths that they are compared with
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,
    /// Only these loads
    #[arg(long, value_delimiter = ',')]
    load: Vec<Load>,
    /// Backends of every contender. The direct path always has one: with more of them on the same CPUs, a
    /// balancer's figures hold their competition too
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    backends: u8,
    /// One JSON document instead of tables
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (rounds, seconds) = if arguments.short { (3, 1) } else { (arguments.rounds, arguments.seconds) };
    let interrupted = interruption()?;
    let (contenders, skipped) = contender::runnable(&arguments.only);
    let loads = if arguments.load.is_empty() { &Load::ALL[..] } else { &arguments.load };
    let tool = Tool::new()?;
    let content = Content::new()?;
    let mut arenas = Vec::new();
    for contender in contenders {
        eprintln!("making the hosts of {contender}");
        arenas.push(Arena::new(contender, arguments.backends, &content)?);
    }
    let mut samples = Vec::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for &load in loads {
            for arena in &mut arenas {
                ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
                let result = arena.measure(load, &tool, Duration::from_secs(seconds))?;
                samples.push(Sample { contender: arena.contender, load, round, result });
            }
            // Nobody always follows the same one.
            arenas.rotate_left(1);
        }
    }
    for arena in arenas {
        arena.close()?;
    }
    let report = Report::new(rounds, seconds, arguments.backends, skipped, &samples)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    let invalid: BTreeSet<_> = report.invalid().collect();
    ensure!(invalid.is_empty(), "requests failed, so these rows are invalid: {invalid:?}");
    Ok(())
}

/// Becomes true at Ctrl-C. By default that would end this process at once and leave namespaces behind.
fn interruption() -> Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            seen.store(true, Ordering::Relaxed);
        }
    });
    Ok(flag)
}
