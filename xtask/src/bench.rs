//! `cargo xtask bench`: builds what is to be measured, and measures it.

use std::process::Stdio;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};

use crate::{build_ebpf, daemon, process, rights, setup};

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Nanoseconds per packet in the kernel, by BPF_PROG_TEST_RUN [--short] [--json]
    Kernel(Passed),
    /// The planes beside the direct path, HAProxy, nginx and nftables, in namespaces [--help]
    E2e(Passed),
    /// Floods of SYNs and of ACKs, ten times the flow table each, while flows wait and others come, in namespaces
    /// [--help]
    Flood(Passed),
    /// Backends and the daemon come and go while long flows and new ones go through, in namespaces [--help]
    Churn(Passed),
    /// The daemon killed at every call into the kernel, while it starts, takes over, reloads and stops, in namespaces
    /// [--help]
    Crash(Passed),
    /// Start, take-over, reload and one change with many services and backends, in a namespace [--help]
    Many(Passed),
    /// Adaptive weights beside static ones, over three backends of which one is slow, in namespaces [--help]
    Weights(Passed),
}

/// What the benchmark itself reads.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    arguments: Vec<String>,
}

/// The verb.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    rights::bpf().map_err(|reason| anyhow!(reason))?;
    let report = process::progress_to_stderr()?;
    let toolbox = setup::ready()?;
    build_ebpf::build(&toolbox)?;
    let (binary, passed) = match bench {
        Bench::Kernel(passed) => ("bench_kernel", passed),
        Bench::E2e(passed) => ("bench_e2e", passed),
        Bench::Flood(passed) => ("bench_flood", passed),
        Bench::Churn(passed) => ("bench_churn", passed),
        Bench::Crash(passed) => ("crash_points", passed),
        Bench::Many(passed) => ("bench_many", passed),
        Bench::Weights(passed) => ("bench_weights", passed),
    };
    match bench {
        Bench::Kernel(_) => build_ebpf::build_bench(&toolbox)?,
        Bench::Flood(_) => build_ebpf::build_control(&toolbox)?,
        Bench::E2e(_) | Bench::Churn(_) | Bench::Crash(_) | Bench::Many(_) | Bench::Weights(_) => {}
    }
    if !matches!(bench, Bench::Kernel(_)) {
        rights::namespaces().map_err(|reason| anyhow!(reason))?;
        daemon::build()?;
    }
    let mut command = process::cargo(&process::own_cargo());
    command.args(["run", "--release", "--package", "lb-testbed", "--bin", binary, "--"]);
    process::run(command.args(&passed.arguments).stdout(Stdio::from(report)))
}
