//! The kernel object that the tests load.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The object that `cargo xtask build-ebpf` made, or the one that `SLUICE_EBPF_OBJECT` names.
///
/// # Errors
/// It is not there.
pub fn bytes() -> Result<Vec<u8>> {
    let path = std::env::var_os("SLUICE_EBPF_OBJECT").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/sluice.o"),
        PathBuf::from,
    );
    std::fs::read(&path)
        .with_context(|| format!("{}: no kernel object (cure: cargo xtask build-ebpf)", path.display()))
}
