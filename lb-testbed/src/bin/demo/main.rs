//! The main job, shown on real traffic: `cargo xtask demo`.
//!
//! For every plane that this host offers: a client, the balancer and three HTTP backends, each in a network
//! namespace of its own; the real daemon; clients that count what they get while a backend is killed and
//! restored and, on the kernel planes, the daemon itself is killed.

mod choice;
mod figures;
mod interrupt;
mod keep;
mod load;
mod script;
mod stage;
mod tally;
mod text;
mod web;
mod wrk;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lb_testbed::backend::{self, Kind};

use choice::Choice;
use figures::{Document, Outcome, Shown};
use interrupt::Interrupt;
use text::Voice;

/// Shows Sluice's main job on real traffic, in network namespaces.
#[derive(Parser)]
#[command(name = "cargo xtask demo")]
struct Arguments {
    /// Only these planes
    #[arg(long = "plane", value_name = "PLANE", value_delimiter = ',')]
    planes: Vec<Choice>,
    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
    /// Leave namespaces, backends and daemons, and say how to look around
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Be a backend
    #[command(hide = true)]
    Serve { id: String, address: SocketAddr },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.role {
        Some(Role::Serve { id, address }) => backend::serve(Kind::Http, id.clone(), *address).map(|()| true),
        None => show(&arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The demo; whether all went as it should.
fn show(arguments: &Arguments) -> Result<bool> {
    let interrupt = Interrupt::catch()?;
    let voice = Voice { json: arguments.json };
    voice.say(&text::opening());
    let mut planes = Vec::new();
    for plane in Choice::all(&arguments.planes) {
        let outcome = match script::play(plane, arguments.keep, &interrupt, voice) {
            Err(error) if !interrupt.came() => Outcome::Failed { reason: format!("{error:#}") },
            outcome => outcome?,
        };
        voice.say(&text::outcome(plane, &outcome));
        planes.push(Shown { plane, outcome });
    }
    let document = Document::new(planes);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    }
    voice.say(&text::closing(&document));
    Ok(document.ok)
}
