//! The binary `sluice`: parse the arguments, do the verb, say how it ended.

use std::process::ExitCode;

use clap::Parser;
use lb_userspace::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}
