//! Where things stand in the workspace.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace's root. Cargo names xtask's folder at run time; the one it was built in is the second choice.
pub(crate) fn root() -> PathBuf {
    let xtask =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    xtask.parent().map(Path::to_path_buf).unwrap_or(xtask)
}

/// Where cargo builds for the host.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// Everything that the BPF target's builds leave. `lb-userspace/build.rs` knows this place.
pub(crate) fn bpf_dir() -> PathBuf {
    root().join("target/bpf")
}
