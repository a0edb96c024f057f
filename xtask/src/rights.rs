//! What this process may do here. Asked of the kernel by trying, because capabilities alone mislead within
//! user namespaces and under seccomp.

use std::process::{Command, Stdio};

use anyhow::Context;
use aya::maps::{Array, MapData};

/// Whether eBPF maps can be made; else why not.
pub(crate) fn bpf() -> Result<(), String> {
    let probe = Array::<MapData, u32>::create(1, 0).context("needs root, or CAP_BPF and CAP_NET_ADMIN");
    probe.map(drop).map_err(|error| format!("eBPF cannot be used here: {error:#}"))
}

/// Whether network namespaces can be made; else why not.
pub(crate) fn namespaces() -> Result<(), String> {
    let status = Command::new("unshare")
        .args(["--net", "--mount", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("cannot run unshare (package util-linux): {error}"))?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| "no right to make network namespaces (needs root)".to_owned())
}
