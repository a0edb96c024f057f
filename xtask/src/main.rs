//! The project's verbs: `cargo xtask <verb>`.

mod bench;
mod build_ebpf;
mod ci;
mod daemon;
mod demo;
mod old_kernel;
mod process;
mod rights;
mod rules;
mod setup;
mod test;
mod upgrade;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sluice's verbs")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make this machine able to build the eBPF object; quick where nothing is missing
    Setup,
    /// Build the eBPF object, check it, and print what each program costs
    BuildEbpf,
    /// Show the main job: backends killed and restored under real traffic, in network namespaces
    Demo(demo::Options),
    /// Run every test ring that this host can run
    Test(test::Options),
    /// Measure: what a packet costs, what clients notice, what floods and changes break (docs/benchmarks.md)
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run the kernel ring on Debian 12's kernel (6.1), in a virtual machine
    OldKernel(old_kernel::Options),
    /// Take each rule of the data path's state out of the code: a test must fail (ten minutes)
    Rules(rules::Options),
    /// Replace the daemon of another revision by this one and back under load, in namespaces
    Upgrade(upgrade::Options),
    /// Exactly what CI runs
    Ci,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Setup => setup::run(),
        Verb::BuildEbpf => build_ebpf::run(),
        Verb::Demo(options) => demo::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::Bench(bench) => bench::run(&bench),
        Verb::OldKernel(options) => old_kernel::run(&options),
        Verb::Rules(options) => rules::run(&options),
        Verb::Upgrade(options) => upgrade::run(&options),
        Verb::Ci => ci::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
