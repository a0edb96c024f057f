//! A BPF file system of a test's own.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags};

/// Mounted on a directory that nobody else knows; gone with the value, and all that was pinned there with it.
#[derive(Debug)]
pub struct Bpffs {
    directory: tempfile::TempDir,
}

impl Bpffs {
    /// Mounts one.
    ///
    /// # Errors
    /// The process lacks CAP_SYS_ADMIN.
    pub fn mount() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        rustix::mount::mount("bpf", directory.path(), "bpf", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount a BPF file system on {}", directory.path().display()))?;
        Ok(Self { directory })
    }

    /// A path in its root.
    pub fn join(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(self.directory.path(), UnmountFlags::DETACH) {
            eprintln!("{}: cannot unmount: {error}", self.directory.path().display());
        }
    }
}
