//! Which plane an interface gets, and attaching it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{
    LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpError, XdpMode,
};
use lb_common::names;

use super::bpffs::BpfDir;
use super::cleanup::{self, Report};
use super::error::{KernelError, words};
use super::host::{self, Offload};
use super::links::{self, Hook, Pinned};
use super::syscall;
use crate::config::PlaneChoice;
use crate::model::Plane;
use crate::network::Link;

/// Our place among clsact filters: a priority that nothing else is known to use.
pub(super) const CLSACT_PRIORITY: u16 = 19_522;
pub(super) const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

/// What an interface has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its plane; `None`: switched off there.
    pub plane: Option<Plane>,
    /// Why this one, and not a better one.
    pub reason: String,
}

/// The loaded programs and their links. Dropping it leaves everything attached.
#[derive(Debug)]
pub struct Programs {
    dir: BpfDir,
    pub(super) ebpf: Ebpf,
    /// Why the kernel refused the XDP program.
    xdp: Result<(), String>,
}

impl Programs {
    pub(super) fn new(dir: BpfDir, ebpf: Ebpf, xdp: Result<(), String>) -> Self {
        Self { dir, ebpf, xdp }
    }

    pub(super) fn dir(&self) -> &BpfDir {
        &self.dir
    }

    /// Gives an interface the plane that `choice` asks for. A link that an earlier daemon left there gets this
    /// daemon's program in one step; on another plane it is replaced after the new one is attached, so no
    /// packet finds the interface without a program.
    ///
    /// # Errors
    /// A forced plane cannot be had here, or the old link cannot be updated (it then stays as it is).
    pub fn attach(&mut self, link: &Link, choice: PlaneChoice) -> Result<Attached, KernelError> {
        let (hook, reason) = match choice {
            PlaneChoice::Off | PlaneChoice::Force(Plane::Proxy) => {
                self.keep_only(link.index, None)?;
                let reason = "switched off in the config".to_owned();
                return Ok(Attached { ifindex: link.index, name: link.name.clone(), plane: None, reason });
            }
            PlaneChoice::Auto if link.is_virtual => {
                let reason = "virtual device: generic XDP stalls bulk transfers there, and native XDP on veth \
                              gets packets whose checksums are not filled in";
                (self.attach_tc(link)?, reason.to_owned())
            }
            PlaneChoice::Auto => match self.attach_xdp(link, Hook::Xdp) {
                Ok(()) => (Hook::Xdp, "the driver has native XDP".to_owned()),
                Err(KernelError::Attach { reason, .. }) => {
                    (self.attach_tc(link)?, format!("native XDP is not possible: {reason}"))
                }
                Err(error) => (self.attach_tc(link)?, format!("native XDP is not possible: {error}")),
            },
            PlaneChoice::Force(Plane::Tc) => (self.attach_tc(link)?, "set in the config".to_owned()),
            PlaneChoice::Force(Plane::Xdp) => {
                self.attach_xdp(link, Hook::Xdp)?;
                let reason = if link.is_virtual {
                    "set in the config; a virtual device needs `ethtool -K PEER tx off` at the senders, and an \
                     XDP program on the peer of each veth that frames are redirected to"
                } else {
                    "set in the config"
                };
                (Hook::Xdp, reason.to_owned())
            }
            PlaneChoice::Force(Plane::XdpGeneric) => {
                require_no_offloads(link)?;
                self.attach_xdp(link, Hook::XdpGeneric)?;
                let reason =
                    "set in the config; senders on veth need `ethtool -K PEER tx off tso off gso off`";
                (Hook::XdpGeneric, reason.to_owned())
            }
        };
        self.keep_only(link.index, Some(hook))?;
        let reason =
            if hook == Hook::Clsact { format!("{reason}; clsact, as the kernel has no tcx") } else { reason };
        Ok(Attached { ifindex: link.index, name: link.name.clone(), plane: Some(hook.plane()), reason })
    }

    /// Attaches the tc program by a clsact qdisc and filter, for kernels without tcx (before 6.6). The filter
    /// needs no pin to stay; one of the program marks where it is.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_clsact(&mut self, link: &Link) -> Result<(), KernelError> {
        let mark = Pinned::new(&self.dir, link.index, Hook::Clsact);
        let marked = mark.is_live()?;
        let program = tc(&mut self.ebpf)?;
        // First the mark: `cleanup` must find every filter.
        links::pin_over(&mark.path, |path| program.pin(path))?;
        match qdisc_add_clsact(&link.name) {
            Ok(()) => links::pin_over(&links::qdisc_mark(&self.dir, link.index), |path| program.pin(path))?,
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(refused(link, Plane::Tc, &error.into())),
        }
        let mut attached = Err(ProgramError::NotAttached);
        if marked {
            let old = SchedClassifierLink::attached(
                &link.name,
                TcAttachType::Ingress,
                CLSACT_PRIORITY,
                CLSACT_HANDLE,
                None,
            );
            attached =
                old.map_err(|error| TcError::from(error).into()).and_then(|old| program.attach_to_link(old));
        }
        if attached.is_err() {
            let options =
                NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, ..NlOptions::default() };
            let options = TcAttachOptions::Netlink(options);
            attached = program.attach_with_options(&link.name, TcAttachType::Ingress, options);
        }
        let id = attached.map_err(|error| refused(link, Plane::Tc, &error))?;
        let filter = program.take_link(id).map_err(|error| refused(link, Plane::Tc, &error))?;
        // Dropping it would remove the filter.
        std::mem::forget(filter);
        Ok(())
    }

    /// The interfaces (by index) that have programs of ours now, each with its plane.
    ///
    /// # Errors
    /// A pin cannot be read.
    pub fn attached(&self) -> Result<BTreeMap<u32, Plane>, KernelError> {
        let links = links::list(&self.dir)?;
        Ok(links.iter().map(|link| (link.ifindex, link.hook.plane())).collect())
    }

    /// Detaches from every interface that is not in `keep`; returns the indexes of those.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach_except(&mut self, keep: &BTreeSet<u32>) -> Result<BTreeSet<u32>, KernelError> {
        let mut detached = BTreeSet::new();
        for link in links::list(&self.dir)? {
            if !keep.contains(&link.ifindex) {
                link.detach()?;
                detached.insert(link.ifindex);
            }
        }
        Ok(detached)
    }

    /// Detaches and unpins everything, as [`cleanup`](super::cleanup()) does without a daemon.
    ///
    /// # Errors
    /// The kernel refuses, or the directory cannot be emptied.
    pub fn remove(self) -> Result<Report, KernelError> {
        drop(self.ebpf);
        cleanup::remove(&self.dir)
    }

    /// Detaches what this interface has besides `hook`.
    fn keep_only(&self, ifindex: u32, hook: Option<Hook>) -> Result<(), KernelError> {
        links::list(&self.dir)?
            .iter()
            .filter(|link| link.ifindex == ifindex && Some(link.hook) != hook)
            .try_for_each(Pinned::detach)
    }

    fn attach_xdp(&mut self, link: &Link, hook: Hook) -> Result<(), KernelError> {
        if let Err(reason) = &self.xdp {
            return Err(attach_error(
                link,
                hook.plane(),
                reason.clone(),
                "use plane = \"tc\" or \"auto\"".into(),
            ));
        }
        let pinned = Pinned::new(&self.dir, link.index, hook);
        let live = pinned.is_live()?;
        let program = xdp(&mut self.ebpf)?;
        if live {
            return update(link, &pinned, program.fd().map(AsFd::as_fd));
        }
        let (mode, other) = match hook {
            Hook::XdpGeneric => (XdpMode::Skb, Hook::Xdp),
            _ => (XdpMode::Driver, Hook::XdpGeneric),
        };
        // The kernel refuses both modes on one interface at a time.
        Pinned::new(&self.dir, link.index, other).detach()?;
        let attached = program
            .attach_to_if_index(link.index, mode)
            .and_then(|id| program.take_link(id))
            .map_err(|error| refused(link, hook.plane(), &error))?;
        pin(link, &pinned, FdLink::try_from(attached))
    }

    fn attach_tc(&mut self, link: &Link) -> Result<Hook, KernelError> {
        let pinned = Pinned::new(&self.dir, link.index, Hook::Tcx);
        let live = pinned.is_live()?;
        let program = tc(&mut self.ebpf)?;
        if live {
            update(link, &pinned, program.fd().map(AsFd::as_fd))?;
            return Ok(Hook::Tcx);
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let attached = program
            .attach_with_options(&link.name, TcAttachType::Ingress, options)
            .and_then(|id| program.take_link(id));
        match attached {
            Ok(attached) => {
                pin(link, &pinned, FdLink::try_from(attached))?;
                Ok(Hook::Tcx)
            }
            // An attach type that the kernel does not know.
            Err(error) if errno(&error) == Some(libc::EINVAL) => {
                self.attach_clsact(link)?;
                Ok(Hook::Clsact)
            }
            Err(error) => Err(refused(link, Plane::Tc, &error)),
        }
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, KernelError> {
    match ebpf.program_mut(names::PROGRAM_XDP) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => Err(KernelError::Object { reason: format!("it has no XDP program {}", names::PROGRAM_XDP) }),
    }
}

fn tc(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, KernelError> {
    match ebpf.program_mut(names::PROGRAM_TC) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => Err(KernelError::Object { reason: format!("it has no tc program {}", names::PROGRAM_TC) }),
    }
}

/// Puts a program under a pinned link.
fn update(
    link: &Link,
    pinned: &Pinned,
    program: Result<BorrowedFd<'_>, ProgramError>,
) -> Result<(), KernelError> {
    let plane = pinned.hook.plane();
    let program = program.map_err(|error| refused(link, plane, &error))?;
    let fd = syscall::open_pin(&pinned.path).map_err(KernelError::file(&pinned.path, "open"))?;
    syscall::update_link(fd.as_fd(), program).map_err(|error| {
        let reason = format!("its program cannot be replaced, the old one goes on: {error}");
        attach_error(
            link,
            plane,
            reason,
            format!("stop sluice and remove the link: rm {}", pinned.path.display()),
        )
    })
}

/// Pins a new link, after a look whether it is where it should be; else it ends here.
fn pin<E: std::error::Error + 'static>(
    link: &Link,
    pinned: &Pinned,
    attached: Result<FdLink, E>,
) -> Result<(), KernelError> {
    let plane = pinned.hook.plane();
    let attached = attached.map_err(|error| {
        attach_error(
            link,
            plane,
            words(&error),
            "the kernel has no links for it: Linux 5.13 is needed".into(),
        )
    })?;
    attached.pin(&pinned.path).map_err(|error| KernelError::File {
        path: pinned.path.clone(),
        doing: "pin the link to",
        source: std::io::Error::other(words(&error)),
    })?;
    // tcx attaches by name, and names can move.
    if pinned.is_live()? {
        return Ok(());
    }
    let reason = format!("it is not interface {} any more", link.index);
    Err(attach_error(link, plane, reason, "reload to look again".into()))
}

/// Generic XDP sees packets after the receive offloads and cannot forward what they merged.
fn require_no_offloads(link: &Link) -> Result<(), KernelError> {
    let mut on = Vec::new();
    for offload in [Offload::Gro, Offload::Gso, Offload::Tso, Offload::Lro] {
        match host::offload(&link.name, offload) {
            Ok(true) => on.push(offload.name()),
            Ok(false) => {}
            // A driver without it.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => {
                let reason = format!("cannot read its offload {}: {error}", offload.name());
                return Err(attach_error(link, Plane::XdpGeneric, reason, "use plane = \"tc\"".into()));
            }
        }
    }
    if on.is_empty() {
        return Ok(());
    }
    let reason =
        format!("its offloads {} are on, which stall bulk transfers under generic XDP", on.join(", "));
    let switches: Vec<String> = on.iter().map(|name| format!("{name} off")).collect();
    let cure = format!("ethtool -K {} {}, or use plane = \"tc\"", link.name, switches.join(" "));
    Err(attach_error(link, Plane::XdpGeneric, reason, cure))
}

fn attach_error(link: &Link, plane: Plane, reason: String, cure: String) -> KernelError {
    KernelError::Attach { interface: link.name.clone(), plane, reason, cure }
}

fn refused(link: &Link, plane: Plane, error: &ProgramError) -> KernelError {
    let name = &link.name;
    let other = "use plane = \"tc\"";
    let (cause, cure) = match (plane, errno(error)) {
        (_, Some(libc::EPERM)) => {
            ("not permitted", "run as root, or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN".to_owned())
        }
        (_, Some(libc::ENODEV)) => ("the interface is gone", "reload to look again".to_owned()),
        (Plane::Xdp | Plane::XdpGeneric, Some(libc::EBUSY | libc::EEXIST)) => (
            "another XDP program is attached",
            format!("end the process that owns it, or `ip link set dev {name} xdp off`"),
        ),
        (Plane::Xdp, Some(libc::EOPNOTSUPP)) => ("the driver has no native XDP", other.to_owned()),
        (Plane::Xdp, Some(libc::ERANGE)) => (
            "an MTU (of a veth its peer's) is too large for XDP",
            format!("`ip link set dev {name} mtu 1500`, or {other}"),
        ),
        (Plane::Xdp, Some(libc::EINVAL)) => (
            "the driver refuses XDP as it is set up now",
            format!(
                "`ethtool -K {name} lro off` and an MTU of at most 1500 help with most drivers; or {other}"
            ),
        ),
        _ => ("the kernel refuses", "use another plane".to_owned()),
    };
    attach_error(link, plane, format!("{cause} ({})", words(error)), cure)
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::NetlinkError(error)
        | ProgramError::XdpError(XdpError::NetlinkError(error))
        | ProgramError::TcError(TcError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    }
}
