//! The daemon as it is shipped: what the namespace tests, and whatever measures, should run.

use std::path::PathBuf;

use anyhow::Result;

use crate::{process, workspace};

/// Tells what plays with the daemon where it is.
pub(crate) const VARIABLE: &str = "SLUICE_BIN";

/// Builds `sluice` with optimisation, because the figures of the proxy mean nothing without, and gives its
/// path. The eBPF object is embedded as it stands: build it first.
pub(crate) fn build() -> Result<PathBuf> {
    let arguments = ["build", "--release", "--package", "lb-userspace", "--bin", "sluice"];
    process::run(process::cargo(&process::own_cargo()).args(arguments))?;
    Ok(workspace::target_dir().join("release/sluice"))
}
