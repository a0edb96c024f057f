//! The kernel planes: programs and maps loaded, pinned, adopted, attached and removed.
//!
//! Everything is pinned under `bpf_dir`, so packets are forwarded whether a daemon runs or not:
//!
//! ```text
//! maps/<NAME>           every map of `lb_common::names::MAPS`, and LAYOUT, the number of their layout
//! tables/<table>-<id>   the Maglev table in place, old_seen/<table>-<id> likewise
//! programs/<name>       the programs that this daemon loaded
//! local/<program>       links of the programs for sockets of this host
//! links/<ifindex>-<hook>  one per interface: xdp, xdp-generic, tcx; clsact filters are marked by a pin of
//!                       their program, because the kernel keeps them without a link
//! ```
//!
//! Order makes every moment safe to die at: maps and programs are pinned before the first link, a link is
//! pinned as soon as it is attached (and ends with the process if it dies in between), and a new daemon puts
//! its programs under the old links in one step each.

mod attach;
mod bpffs;
mod buckets;
mod cgroup;
mod cleanup;
mod error;
mod exact;
mod flow_table;
mod flows;
mod host;
mod inner;
mod layout;
mod left;
mod links;
mod load;
mod local;
mod maps;
pub mod object;
mod refusals;
mod routes;
mod sweep;
mod syscall;
mod table;

use aya::maps::{MapData, MapType};
use aya::util::KernelVersion;
use rustix::thread::CapabilitySet;

use crate::config::PlaneChoice;

pub use attach::{Attached, Programs};
pub use cgroup::NoCgroup;
pub use cleanup::{Report, cleanup};
pub use error::{KernelError, Unavailable};
pub use left::{Left, fits, left};
pub use load::{Adopted, KernelPlane, Settings};
pub use local::LocalError;
pub use maps::Tables;
pub use refusals::Refusals;

/// The object, where the kernel planes can run at all; else the reason that `status` shows.
///
/// # Errors
/// They are switched off, the binary has no object, or kernel or rights do not suffice.
pub fn available(choice: PlaneChoice, object: Option<&[u8]>) -> Result<&[u8], Unavailable> {
    if choice == PlaneChoice::Off {
        return Err(Unavailable::Off);
    }
    let object = object.ok_or(Unavailable::NoObject)?;
    let version = KernelVersion::current().map_err(|error| Unavailable::Refused(error.to_string()))?;
    if version < KernelVersion::new(5, 13, 0) {
        let found = rustix::system::uname().release().to_string_lossy().into_owned();
        return Err(Unavailable::KernelTooOld { found });
    }
    let missing = missing_capabilities().map_err(|errno| Unavailable::Refused(errno.to_string()))?;
    if !missing.is_empty() {
        return Err(Unavailable::NoCapability { missing });
    }
    // The rest, such as seccomp, lockdown or a user namespace, shows only when it is tried.
    let smallest = aya_obj::Map::new_from_params(MapType::Array as u32, 4, 4, 1, 0);
    MapData::create(smallest, "sluice_probe", None)
        .map_err(|error| Unavailable::Refused(error::words(&error)))?;
    Ok(object)
}

fn missing_capabilities() -> Result<Vec<&'static str>, rustix::io::Errno> {
    let effective = rustix::thread::capabilities(None)?.effective;
    // The kernel takes CAP_SYS_ADMIN for the first two. CAP_PERFMON: without it the verifier allows no
    // comparison of packet pointers, which is how the programs check bounds.
    let needed = [
        (CapabilitySet::BPF | CapabilitySet::SYS_ADMIN, "CAP_BPF"),
        (CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN, "CAP_PERFMON"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    ];
    Ok(needed.into_iter().filter(|(any, _)| !effective.intersects(*any)).map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switched_off_comes_before_all_other_reasons() {
        assert_eq!(available(PlaneChoice::Off, None), Err(Unavailable::Off));
        assert_eq!(available(PlaneChoice::Auto, None), Err(Unavailable::NoObject));
    }
}
