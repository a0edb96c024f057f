//! Services that no kernel plane can serve, as far as the config alone tells.

use std::fmt;
use std::net::SocketAddr;

use crate::model::{Forward, Pool, Scheduler, Service};

use super::{Interfaces, Kernel, PlaneChoice};

/// Why a service can only be proxied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeedsProxy {
    /// The config says so.
    Asked,
    /// No kernel plane is attached anywhere.
    KernelOff,
    /// The pool's scheduler is the proxy plane's alone.
    Scheduler(Scheduler),
    /// A listen address or a backend is on the loopback interface, whose packets the kernel neither takes
    /// from outside nor sends there.
    Loopback(SocketAddr),
    /// The pool has no backend of this listen address's family, and NAT keeps the family.
    Family(SocketAddr),
}

impl fmt::Display for NeedsProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("forward = \"proxy\""),
            Self::KernelOff => f.write_str("kernel.plane is \"off\""),
            Self::Scheduler(scheduler) => {
                write!(f, "only the proxy plane has the scheduler {:?}", scheduler.name())
            }
            Self::Loopback(address) => write!(f, "{address} is a loopback address"),
            Self::Family(listen) => {
                let family = if listen.is_ipv4() { "IPv4" } else { "IPv6" };
                write!(f, "the pool has no {family} backend for {listen}, and NAT keeps the address family")
            }
        }
    }
}

/// Why `service` can only be proxied; `None` where nothing in the config speaks against a kernel plane. A pool
/// without backends speaks against nothing: they may come at run time.
pub fn needs_proxy(kernel: &Kernel, service: &Service, pool: &Pool) -> Option<NeedsProxy> {
    let off = match &kernel.interfaces {
        Interfaces::Auto => kernel.plane == PlaneChoice::Off,
        Interfaces::List(listed) => listed.iter().all(|interface| interface.plane == PlaneChoice::Off),
    };
    if service.forward == Forward::Proxy {
        return Some(NeedsProxy::Asked);
    }
    if !pool.scheduler.in_kernel() {
        return Some(NeedsProxy::Scheduler(pool.scheduler));
    }
    let backends = || pool.backends.iter().map(|backend| backend.address);
    if let Some(address) = service.listen.iter().copied().chain(backends()).find(|a| a.ip().is_loopback()) {
        return Some(NeedsProxy::Loopback(address));
    }
    let lacks = |listen: &&SocketAddr| !backends().any(|address| address.is_ipv4() == listen.is_ipv4());
    if let Some(listen) = service.listen.iter().find(lacks).filter(|_| !pool.backends.is_empty()) {
        return Some(NeedsProxy::Family(*listen));
    }
    off.then_some(NeedsProxy::KernelOff)
}
