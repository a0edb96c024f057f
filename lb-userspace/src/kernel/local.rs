//! Sockets of this host that name a VIP: programs on the cgroup that holds all processes.
//!
//! Links are pinned as `local/<program>`, one each. They see the sockets of every network namespace below their
//! cgroup and act for ours alone, so daemons in several namespaces stand beside each other.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program};
use lb_common::names::PROGRAMS_LOCAL;

use super::attach::Programs;
use super::bpffs::{self, BpfDir};
use super::error::{KernelError, words};
use super::{cgroup, host, syscall};

/// Why sockets of this host are left alone.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// There is no cgroup to attach to.
    #[error("{0}")]
    NoCgroup(#[from] cgroup::NoCgroup),
    /// The kernel cannot tell network namespaces apart.
    #[error("the kernel gives no cookie of the network namespace ({0}): Linux 5.14 is needed")]
    NoCookie(std::io::Error),
    /// The kernel refuses a program.
    #[error("{program} cannot be attached to {}: {reason}", cgroup.display())]
    Refused {
        /// Its name.
        program: &'static str,
        /// The place.
        cgroup: PathBuf,
        /// The kernel's words.
        reason: String,
    },
    /// The pin directory cannot be used.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl Programs {
    /// Leads sockets of this network namespace to backends, and returns the cgroup where that happens. Links of an
    /// earlier daemon get this one's programs in one step each. After an error nothing is attached.
    ///
    /// # Errors
    /// The host has no such cgroup, or the kernel refuses.
    pub fn attach_local(&mut self) -> Result<PathBuf, LocalError> {
        let attached = self.attach_all();
        if attached.is_err() {
            self.detach_local()?;
        }
        attached
    }

    /// Whether every program for sockets is attached to a cgroup now.
    pub fn is_local(&self) -> bool {
        PROGRAMS_LOCAL.iter().all(|name| {
            let link = syscall::open_pin(&self.dir().pin(bpffs::LOCAL, name));
            link.is_ok_and(|link| {
                syscall::link_cgroup(link.as_fd()).is_ok_and(|cgroup| cgroup.is_some_and(|id| id != 0))
            })
        })
    }

    /// Leaves sockets of this host alone; those that were led to a backend stay with it.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn detach_local(&self) -> Result<(), KernelError> {
        detach(self.dir()).map(drop)
    }

    fn attach_all(&mut self) -> Result<PathBuf, LocalError> {
        host::netns_cookie().map_err(LocalError::NoCookie)?;
        let (cgroup, directory) = cgroup::root()?;
        for name in PROGRAMS_LOCAL {
            let pin = self.dir().pin(bpffs::LOCAL, name);
            let program = self.local_program(name)?;
            attach(program, &directory, &pin).map_err(|reason| LocalError::Refused {
                program: name,
                cgroup: cgroup.clone(),
                reason,
            })?;
        }
        Ok(cgroup)
    }

    fn local_program(&mut self, name: &str) -> Result<&mut CgroupSockAddr, KernelError> {
        match self.ebpf.program_mut(name) {
            Some(Program::CgroupSockAddr(program)) => Ok(program),
            _ => Err(KernelError::Object { reason: format!("it has no program {name} for sockets") }),
        }
    }
}

/// Puts a program under its link, making the link where there is none on this cgroup. The error is in words.
fn attach(program: &mut CgroupSockAddr, cgroup: &File, pin: &Path) -> Result<(), String> {
    fn say(error: impl std::error::Error + 'static) -> String {
        words(&error)
    }
    // Loaded already where the config was switched off and on again.
    if program.fd().is_err() {
        program.load().map_err(say)?;
    }
    if let Ok(link) = syscall::open_pin(pin) {
        // The kernel's number of a cgroup is that of its directory.
        let is_there = syscall::link_cgroup(link.as_fd()).map_err(say)?;
        if is_there == Some(cgroup.metadata().map_err(say)?.ino()) {
            return syscall::update_link(link.as_fd(), program.fd().map_err(say)?.as_fd()).map_err(say);
        }
        remove(pin).map_err(say)?;
    }
    // A link stands beside those of others in any mode, and the kernel takes none for it.
    let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(say)?;
    let link = program.take_link(id).map_err(say)?;
    FdLink::try_from(link).map_err(say)?.pin(pin).map(drop).map_err(say)
}

/// Removes all links, those that give backends the VIP's name last; returns how many there were.
pub(super) fn detach(dir: &BpfDir) -> Result<usize, KernelError> {
    let mut removed = 0;
    for name in PROGRAMS_LOCAL.iter().rev() {
        removed += usize::from(remove(&dir.pin(bpffs::LOCAL, name))?);
    }
    Ok(removed)
}

/// Detaches at once and unpins; `false`: there was no such link.
fn remove(pin: &Path) -> Result<bool, KernelError> {
    if let Ok(link) = syscall::open_pin(pin)
        && let Err(error) = syscall::detach_link(link.as_fd())
    {
        tracing::debug!(pin = %pin.display(), %error, "link was detached before");
    }
    bpffs::unpin(pin)
}
