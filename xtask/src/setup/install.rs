//! Taking one step of the plan.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::facts::{Toolchain, shared_llvm};
use super::plan::{COMPILER_PACKAGES, LINKER_VERSION, Step};
use crate::{process, workspace};

/// Seconds that rustup may take: without a network it would try for minutes.
const RUSTUP_LIMIT: &str = "180";

/// Takes the step.
pub(super) fn take(step: &Step) -> Result<()> {
    match step {
        Step::AddSource { toolchain } => process::run(
            Command::new("timeout")
                .args([RUSTUP_LIMIT, "rustup", "component", "add", "rust-src", "--toolchain"])
                .arg(toolchain),
        ),
        Step::InstallCompiler => packages(COMPILER_PACKAGES),
        Step::InstallLinker(toolchain) => linker(toolchain),
        Step::InstallTools(names) => packages(names),
    }
}

/// Installs Debian packages. Lists may be missing or name versions that are gone, so a first failure asks for new ones.
pub(crate) fn packages(names: &[&str]) -> Result<()> {
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let install = || process::run(apt().args(["install", "-y", "--no-install-recommends"]).args(names));
    install().or_else(|_| {
        process::run(apt().arg("update"))?;
        install()
    })
}

/// Builds bpf-linker against the very libLLVM that rustc loads: it reads that rustc's bitcode for sure, and no
/// LLVM has to be installed. Only the name that linkers look for is missing beside it.
fn linker(toolchain: &Toolchain) -> Result<()> {
    let rustc = toolchain.bin.join("rustc");
    let (library, major) = shared_llvm(&rustc)
        .with_context(|| format!("{} loads no libLLVM that could be linked against", rustc.display()))?;
    let prefix = workspace::bpf_dir().join("llvm");
    let name = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib"))?;
    if name.is_symlink() {
        fs::remove_file(&name)?;
    }
    symlink(&library, &name).with_context(|| format!("cannot make {}", name.display()))?;
    let folder = library.parent().unwrap_or(Path::new("/")).display();
    process::run(
        process::cargo(&toolchain.bin.join("cargo"))
            .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
            .args(["--no-default-features", "--features", &format!("llvm-{major}")])
            .env("RUSTC", rustc)
            .env("LLVM_PREFIX", prefix)
            .env("RUSTFLAGS", format!("-C link-arg=-Wl,-rpath,{folder}")),
    )
}
