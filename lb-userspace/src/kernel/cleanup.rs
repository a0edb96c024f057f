//! Removes everything that sluice pinned and attached, and nothing else.

use std::io;
use std::path::{Path, PathBuf};

use super::bpffs::{self, BpfDir};
use super::error::KernelError;
use super::{links, local};

/// What `cleanup` removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Links and filters detached, by interface index and plane, and the programs for sockets of this host.
    pub links: Vec<String>,
    /// Interfaces whose clsact qdisc we made. It is still there: to be removed where it is empty.
    pub qdiscs: Vec<u32>,
    /// Programs unpinned.
    pub programs: usize,
    /// Maps unpinned, the arrays of the Maglev tables included.
    pub maps: usize,
    /// Whether the directory itself is gone.
    pub directory: bool,
    /// What was found there and is not ours: left alone.
    pub left: Vec<PathBuf>,
}

/// Detaches and unpins all that is under `bpf_dir`. Needs neither the object nor a daemon, and nothing to be
/// there; whatever moment an earlier process died at, nothing is left afterwards.
///
/// # Errors
/// A daemon is running on the directory, others than root can change it, or the kernel refuses.
pub fn cleanup(bpf_dir: &Path) -> Result<Report, KernelError> {
    match BpfDir::open(bpf_dir)? {
        Some(dir) => remove(&dir),
        None => Ok(Report::default()),
    }
}

/// Links come first: a program must not run on maps that are being emptied.
pub(super) fn remove(dir: &BpfDir) -> Result<Report, KernelError> {
    let mut report = Report { qdiscs: links::qdiscs(dir)?, ..Report::default() };
    if local::detach(dir)? > 0 {
        report.links.push("the programs for sockets of this host".to_owned());
    }
    for link in links::list(dir)? {
        link.detach()?;
        report.links.push(format!("{} on interface {}", link.hook.plane(), link.ifindex));
    }
    for subdirectory in bpffs::SUBDIRECTORIES {
        let path = dir.path().join(subdirectory);
        for name in bpffs::names(&path)? {
            let removed = usize::from(bpffs::unpin(&path.join(name))?);
            match subdirectory {
                bpffs::PROGRAMS => report.programs += removed,
                bpffs::LINKS | bpffs::LOCAL => {}
                _ => report.maps += removed,
            }
        }
        remove_directory(&path)?;
    }
    report.left = bpffs::names(dir.path())?.into_iter().map(|name| dir.path().join(name)).collect();
    if report.left.is_empty() {
        report.directory = remove_directory(dir.path())?;
    }
    Ok(report)
}

/// `false`: it was not there, or is a mount point.
fn remove_directory(path: &Path) -> Result<bool, KernelError> {
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {
            Ok(false)
        }
        Err(error) => Err(KernelError::file(path, "remove")(error)),
    }
}
