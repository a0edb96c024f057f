//! `cargo xtask ci`: exactly what CI runs.

mod deny;

use anyhow::Result;

use crate::{build_ebpf, process, setup, test};

/// The verb.
pub(crate) fn run() -> Result<()> {
    step("toolchain");
    let toolbox = setup::ready()?;

    step("format");
    cargo(&["fmt", "--all", "--check"])?;

    step("eBPF object");
    build_ebpf::build(&toolbox)?;

    // Never --all-features: that would build the kernel binary, with its own panic handler, for the host.
    step("clippy, host");
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;

    step("clippy, BPF target");
    if !build_ebpf::clippy(&toolbox)? {
        println!(
            "skipped: no clippy beside the eBPF compiler; lb-ebpf's library was linted for the host, its kernel \
             binary was not (cure: `rustup component add clippy`, or on Debian `apt-get install rust-web-clippy`)"
        );
    }

    step("dependencies");
    deny::run()?;

    step("tests");
    test::run(&test::Options::default())
}

fn step(name: &str) {
    println!("\n== ci: {name}");
}

fn cargo(arguments: &[&str]) -> Result<()> {
    process::run(process::cargo(&process::own_cargo()).args(arguments))
}
