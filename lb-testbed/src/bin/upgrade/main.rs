//! Another build of the daemon and back, under load: `cargo xtask upgrade`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use lb_testbed::backend::process;
use lb_testbed::laboratory::{Laboratory, Scale};
use lb_testbed::process::Sluice;
use lb_userspace::model::Plane;

/// Begins with one build, replaces it by the other and that by the first again, in both orders, while long flows and new ones
/// go through. Fails where a flow is broken, whether the pins are taken over or refused.
#[derive(Parser)]
struct Arguments {
    /// The other build
    #[arg(long)]
    other: Option<PathBuf>,
    /// Flows that live long
    #[arg(long, default_value_t = 500)]
    flows: u64,
    /// New flows begun in a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Be a backend
    #[command(hide = true)]
    Serve { id: String, address: SocketAddr },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.role {
        Some(Role::Serve { id, address }) => process::serve(id, *address),
        None => replace(&arguments),
    }
}

fn replace(arguments: &Arguments) -> Result<()> {
    let (this, other) = (Sluice::binary(), arguments.other.clone().unwrap_or_else(Sluice::binary));
    let scale =
        Scale { flows: arguments.flows, rate: arguments.rate, rest: Duration::from_secs(2), ..Scale::SHORT };
    let program = std::env::current_exe()?;
    let orders: [(&str, &Path, &Path); 2] =
        [("other, this, other", &other, &this), ("this, other, this", &this, &other)];
    let mut broken = 0;
    for plane in [Plane::Tc, Plane::Xdp] {
        for (order, first, second) in orders {
            let mut laboratory = Laboratory::open_with(plane, scale, &program, first)?;
            let (report, refused) = laboratory.replace(first, second)?;
            match refused {
                None => {
                    println!("{order}: the second took over from the first, and the first from the second");
                }
                Some(reason) => println!("{order}: the second refused: {reason}"),
            }
            println!("  {report}");
            broken += report.broken;
        }
    }
    ensure!(broken == 0, "{broken} flows are broken");
    Ok(())
}
