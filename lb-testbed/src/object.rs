//! The kernel object that the tests load.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The object that `cargo xtask build-ebpf` made, or the one that `SLUICE_EBPF_OBJECT` names.
///
/// # Errors
/// It is not there.
pub fn bytes() -> Result<Vec<u8>> {
    read("SLUICE_EBPF_OBJECT", "sluice.o", "cargo xtask build-ebpf")
}

/// The same with a clock that tests move, or the one that `SLUICE_CLOCK_OBJECT` names.
///
/// # Errors
/// It is not there.
pub fn with_clock() -> Result<Vec<u8>> {
    read("SLUICE_CLOCK_OBJECT", "clock.o", "cargo xtask test --ring kernel")
}

fn read(variable: &str, file: &str, cure: &str) -> Result<Vec<u8>> {
    let built = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf").join(file);
    let path = std::env::var_os(variable).map_or_else(built, PathBuf::from);
    std::fs::read(&path).with_context(|| format!("{}: no kernel object (cure: {cure})", path.display()))
}
