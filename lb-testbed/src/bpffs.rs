//! A BPF file system of a test's own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags};

/// Mounted on a directory that nobody else knows; gone with the value, and all that was pinned there with it.
#[derive(Debug)]
pub struct Bpffs {
    directory: tempfile::TempDir,
    /// Waits for the end of this process, which it sees by its standard input.
    keeper: Option<Child>,
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
        Ok(Self { directory, keeper: None })
    }

    /// The same for a value in a static, which is never dropped: a child unmounts it when this process has ended.
    ///
    /// # Errors
    /// As above, or there is no shell.
    pub fn mount_for_good() -> Result<Self> {
        let mut bpffs = Self::mount()?;
        let script = "trap '' INT; read -r _; umount -l \"$0\" && rmdir \"$0\"";
        let mut keeper = Command::new("sh");
        keeper.args(["-c", script]).arg(bpffs.directory.path()).stdin(Stdio::piped()).stdout(Stdio::null());
        bpffs.keeper = Some(keeper.spawn().context("cannot run sh")?);
        Ok(bpffs)
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
