//! `cargo xtask build-ebpf`: the kernel object, checked, and what each of its programs costs.

mod code;
mod object;
mod verifier;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Toolbox};
use crate::{process, rights, workspace};

/// `--btf` brings the type information that maps of maps and the verifier's log need.
/// `--disable-expand-memcpy-in-order` takes back bpf-linker's default, which turns small copies into calls of
/// `memcpy`, some tens of nanoseconds a packet.
const RUSTFLAGS: &str = "-C debuginfo=2 -C link-arg=--btf -C link-arg=--disable-expand-memcpy-in-order";

/// The binary of lb-ebpf that is the data path.
const KERNEL: &str = "kernel";

/// The feature of lb-ebpf that its binaries for the BPF target need.
const FEATURE: &str = "kernel";
/// The feature that makes another balancer of the data path, which the flood tests are proven by.
const CONTROL: &str = "flood-control";
/// The feature that lets a test say what time it is.
const CLOCK: &str = "test-clock";

/// The verb.
pub(crate) fn run() -> Result<()> {
    build(&setup::ready()?)
}

/// Builds and checks the object, and puts it where a build of `sluice` embeds it from.
pub(crate) fn build(toolbox: &Toolbox) -> Result<()> {
    let bytes = compile(toolbox, KERNEL, FEATURE)?;
    let object = object::Object::parse(&bytes).context("the object is broken")?;
    object.refuse_panics()?;
    let costs = object.costs()?;
    let measured = match rights::bpf() {
        Ok(()) => Ok(verifier::measure(&bytes)?),
        Err(reason) => Err(reason),
    };
    install(&bytes, &object_path())?;
    report(&costs, measured.as_ref().map_err(String::as_str));
    Ok(())
}

/// Builds the benchmark's runner and floor programs, and puts them where `bench_kernel` finds them.
pub(crate) fn build_bench(toolbox: &Toolbox) -> Result<()> {
    install(&compile(toolbox, "bench", FEATURE)?, &workspace::bpf_dir().join("bench.o"))
}

/// Builds the control of the flood tests, and puts it where they find it.
pub(crate) fn build_control(toolbox: &Toolbox) -> Result<()> {
    install(&compile(toolbox, KERNEL, CONTROL)?, &workspace::bpf_dir().join("control.o"))
}

/// Builds the object that the schedules are run on, and puts it where they find it.
pub(crate) fn build_clock(toolbox: &Toolbox) -> Result<()> {
    install(&compile(toolbox, KERNEL, CLOCK)?, &workspace::bpf_dir().join("clock.o"))
}

/// Builds one binary of lb-ebpf and reads it.
fn compile(toolbox: &Toolbox, binary: &str, feature: &str) -> Result<Vec<u8>> {
    process::run(cargo(toolbox, "build", binary, feature).arg("--target-dir").arg(workspace::bpf_dir()))?;
    let built = workspace::bpf_dir().join("bpfel-unknown-none/bpf").join(binary);
    fs::read(&built).with_context(|| format!("cannot read {}", built.display()))
}

/// Lints the kernel binary; `false`: its toolchain has no clippy.
pub(crate) fn clippy(toolbox: &Toolbox) -> Result<bool> {
    if !toolbox.toolchain.bin.join("cargo-clippy").is_file() {
        return Ok(false);
    }
    let target = workspace::bpf_dir().join("clippy");
    for feature in [FEATURE, CONTROL, CLOCK] {
        let mut command = cargo(toolbox, "clippy", KERNEL, feature);
        process::run(command.arg("--target-dir").arg(&target).args(["--", "-D", "warnings"]))?;
    }
    Ok(true)
}

/// Where the object is left.
fn object_path() -> PathBuf {
    workspace::bpf_dir().join("sluice.o")
}

/// A cargo command on a binary of lb-ebpf. Neither rustup nor the user's own settings have a say in it: the
/// compiler is named by its path. `RUSTC_BOOTSTRAP` opens `-Z build-std` to a stable compiler.
fn cargo(toolbox: &Toolbox, verb: &str, binary: &str, feature: &str) -> Command {
    let bin = &toolbox.toolchain.bin;
    let mut command = process::cargo(&bin.join("cargo"));
    command
        .args([verb, "--profile", "bpf", "-Z", "build-std=core", "--target", "bpfel-unknown-none"])
        .args(["--package", "lb-ebpf", "--bin", binary, "--features", feature])
        .env("RUSTC", bin.join("rustc"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolbox.linker.path)
        .env("PATH", path_from(bin));
    for name in
        ["CARGO_BUILD_TARGET", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"]
    {
        command.env_remove(name);
    }
    command
}

/// `PATH` with the toolchain's folder before all others: there cargo finds the clippy that belongs to it.
fn path_from(bin: &Path) -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&rest));
    std::env::join_paths(folders).unwrap_or(rest)
}

/// Leaves an equal file alone: a newer one would make cargo build `sluice` again.
fn install(bytes: &[u8], path: &Path) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn report(costs: &[object::Cost], measured: Result<&verifier::Measured, &str>) {
    println!("\n{}", object_path().display());
    println!(
        "{:<19} {:>12} {:>8} {:>6} {:>10} {:>8} {:>12}",
        "program", "instructions", "stack, B", "limit", "verified", "limit", "verifier, ms"
    );
    for cost in costs {
        let program = measured.ok().and_then(|programs| programs.get(&cost.program));
        let (verified, took) = program.map_or(("-".to_owned(), "-".to_owned()), |program| {
            (program.instructions.to_string(), format!("{:.1}", program.took.as_secs_f64() * 1e3))
        });
        println!(
            "{:<19} {:>12} {:>8} {:>6} {verified:>10} {:>8} {took:>12}",
            cost.program,
            cost.instructions,
            cost.stack,
            object::STACK_LIMIT,
            verifier::LIMIT
        );
    }
    if let Err(reason) = measured {
        println!("the verifier was not asked: {reason}");
    }
    println!();
}
