//! Backends come and go, the daemon comes and goes: `cargo xtask bench churn`.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use lb_testbed::backend::process;
use lb_testbed::laboratory::event::Event;
use lb_testbed::laboratory::report::Report;
use lb_testbed::laboratory::{Laboratory, Scale};
use lb_userspace::model::Plane;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Has things happen to the balancer while long flows and a stream of new ones go through it, and judges every flow.
/// Fails where one is broken that the event did not have to break; or where none is, though a bug was planted.
#[derive(Parser)]
#[command(name = "cargo xtask bench churn")]
struct Arguments {
    /// How often each event happens
    #[arg(long, default_value_t = 5)]
    times: u32,
    /// Flows that live long
    #[arg(long)]
    flows: Option<u64>,
    /// New flows begun in a second
    #[arg(long)]
    rate: Option<u32>,
    /// Seconds instead of minutes for each event, and fewer flows
    #[arg(long)]
    short: bool,
    /// Only these events
    #[arg(long, value_delimiter = ',')]
    events: Vec<Event>,
    /// Only these planes: tc, xdp, proxy
    #[arg(long = "plane", value_name = "PLANE", value_delimiter = ',', value_parser = plane)]
    planes: Vec<Plane>,
    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Be a backend
    #[command(hide = true)]
    Serve { id: String, address: SocketAddr },
}

fn plane(text: &str) -> Result<Plane, String> {
    let known = [Plane::Tc, Plane::Xdp, Plane::Proxy];
    known.into_iter().find(|plane| plane.to_string() == text).ok_or_else(|| "tc, xdp or proxy".to_owned())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.role {
        Some(Role::Serve { id, address }) => process::serve(id, *address),
        None => measure(&arguments),
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    // A file for each end of a flow.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    let scale = if arguments.short { Scale::SHORT } else { Scale::FULL };
    let scale = Scale {
        flows: arguments.flows.unwrap_or(scale.flows),
        rate: arguments.rate.unwrap_or(scale.rate),
        ..scale
    };
    let events = if arguments.events.is_empty() { Event::value_variants() } else { &arguments.events };
    let planes = match arguments.planes.as_slice() {
        [] => &[Plane::Tc, Plane::Xdp, Plane::Proxy],
        planes => planes,
    };
    let program = std::env::current_exe()?;
    let mut reports = Vec::new();
    for plane in planes {
        let mut laboratory = Laboratory::open(*plane, scale, &program)?;
        for event in events.iter().filter(|event| event.is_for(*plane)) {
            for _ in 0..arguments.times {
                let report = laboratory.run(*event)?;
                eprintln!("{report}");
                reports.push(report);
            }
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else {
        print(&reports);
    }
    let wrong = reports.iter().filter(|report| !report.is_as_it_should()).count();
    ensure!(wrong == 0, "{wrong} of {} runs are not as they should be", reports.len());
    Ok(())
}

/// A row for each plane and event.
fn print(reports: &[Report]) {
    println!(
        "| plane | event | runs | long flows | new flows | broken | at most | excused | slowest answer |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for runs in reports.chunk_by(|one, next| (one.plane, one.event) == (next.plane, next.event)) {
        let sum = |figure: fn(&Report) -> u64| runs.iter().map(figure).sum::<u64>();
        let (long, new, broken) = (sum(|run| run.long), sum(|run| run.new), sum(|run| run.broken));
        let slowest = runs.iter().map(|run| run.slowest_ms).fold(0.0, f64::max);
        println!(
            "| {} | {} | {} | {long} | {new} | {broken} | {:.4} % | {} | {slowest:.0} ms |",
            runs[0].plane,
            runs[0].event,
            runs.len(),
            lb_testbed::client::bound::upper(broken, long + new) * 100.0,
            sum(|run| run.excused.values().sum()),
        );
    }
    for runs in reports.chunk_by(|one, next| (one.plane, one.event) == (next.plane, next.event)) {
        let mut times: Vec<_> = runs.iter().flat_map(|run| run.detected_ms.iter().copied()).collect();
        times.sort_by(f64::total_cmp);
        let quantile = |share: f64| times[(times.len() as f64 * share).ceil() as usize - 1];
        if !times.is_empty() {
            println!(
                "{} {}: {} deaths, without slots after {:.0} ms (median), {:.0} ms (p99), {:.0} ms (slowest)",
                runs[0].plane,
                runs[0].event,
                times.len(),
                quantile(0.5),
                quantile(0.99),
                quantile(1.0)
            );
        }
    }
}
