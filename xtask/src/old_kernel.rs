//! `cargo xtask old-kernel`: the kernel ring on Debian 12's own kernel (Linux 6.1), in a virtual machine.
//!
//! Verifiers differ from version to version, and tcx came with 6.6: what loads here may be refused there. The
//! machine has no disk and no network. Its first process runs the very test binaries that the kernel ring
//! runs here, and what they print comes out of the serial port.

mod guest;
mod image;
mod package;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use crate::{build_ebpf, process, setup, workspace};

/// What the machine is made of: program, Debian package.
const TOOLS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
];

/// How much of the ring to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Only tests whose name holds this text
    #[arg(long)]
    filter: Option<String>,
}

/// The verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| !process::installed(tool)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        setup::packages(&missing)?;
    }
    let toolbox = setup::ready()?;
    build_ebpf::build(&toolbox)?;
    build_ebpf::build_clock(&toolbox)?;
    let tests = tests()?;
    let kernel = package::fetch(&workspace::target_dir().join("old-kernel"))?;
    let image = image::build(&kernel, &tests, options.filter.as_deref())?;
    let counts = guest::run(&kernel.image, &image)?;
    println!("\n{}: {} passed, {} failed", kernel.version, counts.passed, counts.failed);
    ensure!(counts.failed == 0, "{} tests failed on Linux {}", counts.failed, kernel.version);
    ensure!(
        counts.binaries == tests.len() && counts.passed > 0,
        "{} of {} test binaries ran to their end",
        counts.binaries,
        tests.len()
    );
    Ok(())
}

/// A line of cargo's JSON, as far as it matters.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds the kernel ring's tests.
fn tests() -> Result<Vec<PathBuf>> {
    let mut command = process::cargo(&process::own_cargo());
    command.args([
        "test",
        "--package",
        "lb-testbed",
        "--test",
        "kernel_*",
        "--no-run",
        "--message-format",
        "json",
    ]);
    println!("$ {}", process::shown(&command));
    let output = process::output(&mut command).context("building the kernel ring's tests failed")?;
    let messages = output.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let tests: Vec<_> = messages
        .filter(|message| {
            let target = message.target.as_ref();
            target.is_some_and(|target| target.kind == ["test"] && target.name.starts_with("kernel_"))
        })
        .filter_map(|message| message.executable)
        .collect();
    ensure!(!tests.is_empty(), "cargo built no test kernel_*");
    Ok(tests)
}
