//! `cargo xtask demo`: the main job on this machine, from nothing.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{env, io};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::{process, rights, setup, workspace};

/// The daemon that is shipped, and what plays with it. Built apart: together, the daemon would get features of
/// libraries that only the other needs.
const BUILDS: [&[&str]; 2] = [
    &["build", "--release", "--package", "lb-userspace", "--bin", "sluice"],
    &["build", "--release", "--package", "lb-testbed", "--bin", "demo"],
];
/// Where the latter leaves it.
const DEMO: &str = "target/release/demo";

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
    aside(Command::new(env::current_exe()?).arg("build-ebpf"))?;
    for build in BUILDS {
        aside(process::cargo(&process::own_cargo()).args(build))?;
    }
    if let Some((tool, package)) = setup::TOOLS.iter().find(|(tool, _)| !process::installed(tool)) {
        bail!("{tool} is missing (install package {package})");
    }
    let mut demo = Command::new(workspace::root().join(DEMO));
    for plane in &options.planes {
        demo.args(["--plane", plane]);
    }
    demo.args(options.json.then_some("--json")).args(options.keep.then_some("--keep"));
    let error = demo.exec();
    Err(error).with_context(|| format!("cannot run `{}`", process::shown(&demo)))
}

/// Runs it with its output on ours for errors, for standard output belongs to the demo.
fn aside(command: &mut Command) -> Result<()> {
    let shown = process::shown(command);
    eprintln!("$ {shown}");
    let status = command.stdout(io::stderr()).status().with_context(|| format!("cannot run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}
