//! Floods at full size: `cargo xtask bench flood`.

use anyhow::Result;
use clap::Parser;
use lb_testbed::siege::{self, Plan, Variant};
use lb_userspace::model::Plane;

/// Lays siege to the balancer: floods of SYNs and of bare ACKs, each of ten times as many flows as the flow table holds,
/// while idle flows wait and honest ones come. Once for each plane and for whatever the kernel may have to remember;
/// last comes the control, which must lose flows.
#[derive(Parser)]
#[command(name = "cargo xtask bench flood")]
struct Arguments {
    /// Entries of the flow table
    #[arg(long, default_value_t = lb_common::limits::FLOWS)]
    flows: u32,
    /// Flows that wait
    #[arg(long, default_value_t = 2000)]
    idle: u64,
    /// Segments of a flood in a second, at most
    #[arg(long, default_value_t = 200_000)]
    rate: u32,
    /// Honest flows begun in a second
    #[arg(long, default_value_t = 100)]
    honest: u32,
    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let Arguments { flows, idle, rate, honest, json } = Arguments::parse();
    let mut reports = Vec::new();
    for plane in [Plane::Tc, Plane::Xdp] {
        for variant in Variant::ALL {
            let report = siege::lay(Plan { plane, variant, flows, idle, rate, honest })?;
            if !json {
                println!("{report}\n  served within a second: {:.2} %", report.served() * 100.0);
            }
            reports.push(report);
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    }
    Ok(())
}
