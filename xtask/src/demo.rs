//! `cargo xtask demo`: the main job on this machine, from nothing.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::{build_ebpf, daemon, process, rights, setup, workspace};

/// What to show.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these planes
    #[arg(long = "plane", value_name = "PLANE", value_delimiter = ',', value_parser = ["tc", "xdp", "proxy"])]
    planes: Vec<String>,
    /// One JSON document instead of text; nothing else goes to the standard output
    #[arg(long)]
    json: bool,
    /// Leave namespaces, backends and daemons, and say how to look around
    #[arg(long)]
    keep: bool,
}

/// The verb. Does not return where the demo starts: that takes this process's place, so that Ctrl-C reaches it
/// alone and the shell waits until it has cleaned up.
pub(crate) fn run(options: &Options) -> Result<()> {
    rights::namespaces().map_err(|reason| anyhow!("the demo lives in network namespaces: {reason}"))?;
    let report = process::progress_to_stderr()?;
    build_ebpf::build(&setup::ready()?)?;
    let daemon = daemon::build()?;
    let build = ["build", "--release", "--package", "lb-testbed", "--bin", "demo"];
    process::run(process::cargo(&process::own_cargo()).args(build))?;
    if let Some((tool, package)) = setup::TOOLS.iter().find(|(tool, _)| !process::installed(tool)) {
        bail!("{tool} is missing (install package {package})");
    }
    let mut demo = Command::new(workspace::target_dir().join("release/demo"));
    for plane in &options.planes {
        demo.args(["--plane", plane]);
    }
    demo.args(options.json.then_some("--json")).args(options.keep.then_some("--keep"));
    let error = demo.env(daemon::VARIABLE, daemon).stdout(report).exec();
    Err(error).with_context(|| format!("cannot run `{}`", process::shown(&demo)))
}
