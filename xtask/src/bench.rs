//! `cargo xtask bench`: builds what is to be measured, and measures it.

use std::os::fd::OwnedFd;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};

use crate::{build_ebpf, process, rights, setup};

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Nanoseconds per packet in the kernel, by BPF_PROG_TEST_RUN [--short] [--json]
    Kernel(Passed),
    /// The planes beside the direct path, HAProxy, nginx and nftables, in namespaces [--help]
    E2e(Passed),
}

/// What the benchmark itself reads.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    arguments: Vec<String>,
}

/// The daemon as it is shipped.
const BUILD_SLUICE: &[&str] = &["build", "--release", "--package", "lb-userspace", "--bin", "sluice"];

/// The verb.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    rights::bpf().map_err(|reason| anyhow!(reason))?;
    let report = progress_to_stderr()?;
    let toolbox = setup::ready()?;
    build_ebpf::build(&toolbox)?;
    let (binary, passed) = match bench {
        Bench::Kernel(passed) => {
            build_ebpf::build_bench(&toolbox)?;
            ("bench_kernel", passed)
        }
        Bench::E2e(passed) => {
            rights::namespaces().map_err(|reason| anyhow!(reason))?;
            process::run(process::cargo(&process::own_cargo()).args(BUILD_SLUICE))?;
            ("bench_e2e", passed)
        }
    };
    let mut command = process::cargo(&process::own_cargo());
    command.args(["run", "--release", "--package", "lb-testbed", "--bin", binary, "--"]);
    process::run(command.args(&passed.arguments).stdout(Stdio::from(report)))
}

/// From here on, standard output goes where standard error goes: what is built on the way is no part of the
/// report, which somebody may parse. Returns where the report goes.
fn progress_to_stderr() -> Result<OwnedFd> {
    let report = rustix::io::dup(rustix::stdio::stdout()).context("duplicating standard output")?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).context("redirecting standard output")?;
    Ok(report)
}
