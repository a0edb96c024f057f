//! What the host says of itself: the number of its network namespace, and the offloads of its interfaces.
#![expect(unsafe_code, reason = "getsockopt(2) and SIOCETHTOOL, each behind a safe signature")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// The kernel's number of this network namespace (`SO_NETNS_COOKIE`, since Linux 5.14).
pub(super) fn netns_cookie() -> io::Result<u64> {
    let socket = socket()?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Any socket: what is asked of it concerns its network namespace.
fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// One of ethtool's offload switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offload {
    /// Generic receive offload.
    Gro,
    /// Generic segmentation offload.
    Gso,
    /// TCP segmentation offload.
    Tso,
    /// Large receive offload.
    Lro,
}

impl Offload {
    /// As `ethtool -K` calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gro => "gro",
            Self::Gso => "gso",
            Self::Tso => "tso",
            Self::Lro => "lro",
        }
    }
}

/// Whether an interface of this network namespace has an offload switched on.
pub(super) fn offload(interface: &str, offload: Offload) -> io::Result<bool> {
    // linux/ethtool.h
    const ETHTOOL_GTSO: u32 = 0x1e;
    const ETHTOOL_GGSO: u32 = 0x23;
    const ETHTOOL_GFLAGS: u32 = 0x25;
    const ETHTOOL_GGRO: u32 = 0x2b;
    const ETH_FLAG_LRO: u32 = 1 << 15;

    let (command, mask) = match offload {
        Offload::Gro => (ETHTOOL_GGRO, u32::MAX),
        Offload::Gso => (ETHTOOL_GGSO, u32::MAX),
        Offload::Tso => (ETHTOOL_GTSO, u32::MAX),
        Offload::Lro => (ETHTOOL_GFLAGS, ETH_FLAG_LRO),
    };
    // struct ethtool_value
    let mut value: [u32; 2] = [command, 0];
    // SAFETY: all integers and pointers, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte of the name stays NUL.
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    let socket = socket()?;
    // SAFETY: `request` is a whole `ifreq` whose data points to the two words that these commands use; both
    // outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value[1] & mask != 0) }
}
