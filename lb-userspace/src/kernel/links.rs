//! Pinned links: `links/<ifindex>-<hook>`.
//!
//! Interfaces are named by index, which a rename does not change. A link knows its interface by itself: when
//! that is gone the link is dead for good, and its pin is removed even if the index was given out again.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::pin::PinError;
use aya::programs::TcAttachType;
use aya::programs::tc::qdisc_detach_program;
use lb_common::names;

use super::attach::{CLSACT_HANDLE, CLSACT_PRIORITY};
use super::bpffs::{self, BpfDir};
use super::error::{KernelError, words};
use super::syscall;
use crate::model::Plane;
use crate::network::qdiscs;

/// Where on an interface a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the driver.
    Xdp,
    /// In the stack, before tc.
    XdpGeneric,
    /// tc by link, since 6.6.
    Tcx,
    /// tc by qdisc and filter.
    Clsact,
}

impl Hook {
    const ALL: [Self; 4] = [Self::Xdp, Self::XdpGeneric, Self::Tcx, Self::Clsact];

    const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// The plane that it makes.
    pub(super) const fn plane(self) -> Plane {
        match self {
            Self::Xdp => Plane::Xdp,
            Self::XdpGeneric => Plane::XdpGeneric,
            Self::Tcx | Self::Clsact => Plane::Tc,
        }
    }
}

/// One pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pinned {
    /// Of the interface when it was attached.
    pub(super) ifindex: u32,
    /// Where.
    pub(super) hook: Hook,
    /// The file.
    pub(super) path: PathBuf,
}

impl Pinned {
    /// What the pin of this interface and hook is called.
    pub(super) fn new(dir: &BpfDir, ifindex: u32, hook: Hook) -> Self {
        Self { ifindex, hook, path: dir.pin(bpffs::LINKS, &format!("{ifindex}-{}", hook.name())) }
    }

    fn parse(dir: &BpfDir, name: &str) -> Option<Self> {
        let (ifindex, hook) = name.split_once('-')?;
        let hook = Hook::ALL.into_iter().find(|known| known.name() == hook)?;
        Some(Self::new(dir, ifindex.parse().ok()?, hook))
    }

    /// Whether the pin exists and still holds its interface, or marks a filter that is there. Removes a dead one.
    pub(super) fn is_live(&self) -> Result<bool, KernelError> {
        if !self.path.try_exists().map_err(KernelError::file(&self.path, "look for"))? {
            return Ok(false);
        }
        let live = match self.hook {
            // Where the kernel does not say, it is taken to be there.
            Hook::Clsact => {
                interface_name(self.ifindex).is_some()
                    && qdiscs::has_filter(self.ifindex, CLSACT_PRIORITY, CLSACT_HANDLE.into()).unwrap_or(true)
            }
            Hook::Xdp | Hook::XdpGeneric | Hook::Tcx => {
                let link = syscall::open_pin(&self.path).map_err(KernelError::file(&self.path, "open"))?;
                let target = syscall::link_target(link.as_fd())
                    .map_err(KernelError::file(&self.path, "read the link of"))?;
                target.is_some_and(|target| target.ifindex == self.ifindex)
            }
        };
        if !live {
            bpffs::unpin(&self.path)?;
        }
        Ok(live)
    }

    /// Detaches at once and removes the pin.
    pub(super) fn detach(&self) -> Result<(), KernelError> {
        if self.hook == Hook::Clsact {
            if let Some(name) = interface_name(self.ifindex) {
                remove_filters(&name)?;
            }
        } else if let Ok(link) = syscall::open_pin(&self.path) {
            // Fails where the interface is gone; then there is nothing to detach.
            if let Err(error) = syscall::detach_link(link.as_fd()) {
                tracing::debug!(pin = %self.path.display(), %error, "link was detached before");
            }
        }
        bpffs::unpin(&self.path).map(drop)
    }
}

/// Ends the name of a pin that marks a clsact qdisc as made by us.
const QDISC: &str = "-qdisc";

/// The mark of the clsact qdisc on an interface.
pub(super) fn qdisc_mark(dir: &BpfDir, ifindex: u32) -> PathBuf {
    dir.pin(bpffs::LINKS, &format!("{ifindex}{QDISC}"))
}

/// The interfaces on which we made a clsact qdisc, and that are still there.
pub(super) fn qdiscs(dir: &BpfDir) -> Result<Vec<u32>, KernelError> {
    let names = bpffs::names(&dir.path().join(bpffs::LINKS))?;
    let marked = names.iter().filter_map(|name| name.strip_suffix(QDISC)?.parse().ok());
    Ok(marked.filter(|ifindex| interface_name(*ifindex).is_some()).collect())
}

/// All pins that still hold their interface; removes dead ones, and what a crash left half-made.
pub(super) fn list(dir: &BpfDir) -> Result<Vec<Pinned>, KernelError> {
    let directory = dir.path().join(bpffs::LINKS);
    let mut links = Vec::new();
    for name in bpffs::names(&directory)? {
        match Pinned::parse(dir, &name) {
            Some(link) if link.is_live()? => links.push(link),
            Some(_) => {}
            None if name.ends_with(QDISC) => {}
            None => {
                bpffs::unpin(&directory.join(name))?;
            }
        }
    }
    Ok(links)
}

/// Pins an object under a name that may be taken: beside it first, then by rename, so the name always holds
/// something.
pub(super) fn pin_over(
    path: &Path,
    pin: impl FnOnce(&Path) -> Result<(), PinError>,
) -> Result<(), KernelError> {
    // A BPF file system allows no dots in names.
    let mut beside = path.as_os_str().to_owned();
    beside.push("-new");
    let beside = PathBuf::from(beside);
    bpffs::unpin(&beside)?;
    pin(&beside).map_err(|error| KernelError::File {
        path: beside.clone(),
        doing: "pin",
        source: std::io::Error::other(words(&error)),
    })?;
    std::fs::rename(&beside, path).map_err(KernelError::file(path, "rename the new pin to"))
}

/// The interface's name in this network namespace.
fn interface_name(ifindex: u32) -> Option<String> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .ok()?;
    rustix::net::netdevice::index_to_name(socket, ifindex).ok()
}

/// Removes the clsact filters that carry our program's name.
fn remove_filters(interface: &str) -> Result<(), KernelError> {
    match qdisc_detach_program(interface, TcAttachType::Ingress, names::PROGRAM_TC) {
        Ok(()) => Ok(()),
        Err(aya::programs::tc::TcError::IoError(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        Err(error) => Err(KernelError::Attach {
            interface: interface.to_owned(),
            plane: Plane::Tc,
            reason: format!("the clsact filter {} cannot be removed: {}", names::PROGRAM_TC, words(&error)),
            cure: format!("tc filter del dev {interface} ingress"),
        }),
    }
}
