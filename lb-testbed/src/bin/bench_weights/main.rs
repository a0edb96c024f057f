//! What adaptive weights are worth: `cargo xtask bench weights`.

mod queue;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use lb_testbed::backend::Kind;
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::client::churn::{Churn, Plan};
use lb_testbed::eventually::eventually;
use lb_testbed::median::Median;
use lb_testbed::topology::VIP4;
use lb_userspace::model::Plane;
use queue::Queue;
use serde::Serialize;

/// Three backends that serve one request at a time, of which the last takes four times as long for it, and a steady stream
/// of new connections that it can just bear a third of: with static weights, then with adaptive ones, in turn.
#[derive(Parser)]
#[command(name = "cargo xtask bench weights")]
struct Arguments {
    /// Pairs of runs
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Of the two fast backends for one request, in milliseconds
    #[arg(long, default_value_t = 4)]
    service_ms: u64,
    /// New connections a second
    #[arg(long, default_value_t = 165)]
    rate: u32,
    /// Before every measurement, in seconds
    #[arg(long, default_value_t = 30)]
    settle: u64,
    /// Of every measurement, in seconds
    #[arg(long, default_value_t = 20)]
    measure: u64,
    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
struct Run {
    weights: &'static str,
    median_ms: f64,
    p99_ms: f64,
    lost: u64,
    /// The slow backend's part of the new connections.
    slow_share: f64,
    /// Slots that moved from the first connection on, over all slots of the table.
    moved_share: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    runs: Vec<Run>,
    /// p99 with adaptive weights over p99 with static ones, of each pair.
    p99_ratio: Median,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut runs = Vec::new();
    let mut ratios = Vec::new();
    for _ in 0..arguments.rounds {
        let [fixed, adaptive] = [run(&arguments, "static")?, run(&arguments, "adaptive")?];
        if !arguments.json {
            println!("{fixed:?}\n{adaptive:?}");
        }
        ratios.push(adaptive.p99_ms / fixed.p99_ms);
        runs.extend([fixed, adaptive]);
    }
    let p99_ratio = Median::of(&ratios);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&Report { runs, p99_ratio })?);
    } else {
        let Median { median, min, max } = p99_ratio;
        println!("p99 adaptive / static: {median:.2} ({min:.2} to {max:.2})");
    }
    Ok(())
}

fn run(arguments: &Arguments, weights: &'static str) -> Result<Run> {
    let mut bed = Bed::prepare(Setup { vips: vec![VIP4], kind: Kind::Http, ..Setup::on(Plane::Tc) })?;
    let service = Duration::from_millis(arguments.service_ms);
    let mut queues = Vec::new();
    for ((host, server), factor) in bed.topology.backends.iter().zip(&mut bed.servers).zip([1, 1, 4]) {
        server.kill();
        queues.push(Queue::start(&host.namespace, server.id(), server.address(), service * factor)?);
    }
    let config = bed
        .config(&[100; 3])
        .replace("table_size = 4099\n", &format!("table_size = 4099\nweights = \"{weights}\"\n"))
        .replace("check = \"tcp\"\ninterval = \"500ms\"\ntimeout = \"500ms\"", CHECK);
    bed.sluice.write_config(&config)?;
    bed.sluice.start()?;
    let plan = Plan {
        target: bed.target(),
        kind: Kind::Http,
        rate: arguments.rate,
        known: bed.known(),
        deadline: Duration::from_secs(10),
    };
    let load = |seconds| {
        let churn = Churn::start(&bed.topology.client.namespace, plan.clone());
        let time = Duration::from_secs(seconds);
        let start = Instant::now();
        eventually("the load goes on", time * 2, || Ok((start.elapsed() >= time).then_some(())))?;
        churn.stop()
    };
    // Until then backends come up.
    eventually("all are up", Duration::from_secs(10), || {
        let backends = bed.pool()?.backends;
        Ok(backends.iter().all(|backend| backend.slots > 0).then_some(()))
    })?;
    let before = bed.pool()?.moved_slots;
    load(arguments.settle)?;
    let report = load(arguments.measure)?;
    let pool = bed.pool()?;
    let slow = report.backends.get("b3").copied().unwrap_or(0);
    Ok(Run {
        weights,
        median_ms: report.median_ms,
        p99_ms: report.p99_ms,
        lost: report.lost,
        slow_share: slow as f64 / report.flows.max(1) as f64,
        moved_share: (pool.moved_slots - before) as f64 / f64::from(pool.table_size),
    })
}

/// One that sees what clients see.
const CHECK: &str = "check = \"http\"\npath = \"/\"\ninterval = \"1s\"\ntimeout = \"1s\"";
