//! The data path: what becomes of one frame.
//!
//! A pure library. [`process`] is generic over [`packet::Packet`] (a frame) and [`tables::Tables`] (every
//! look-up and insert), so the code that the verifier accepts is the code that the host tests run.
//!
//! The walk:
//! 1. [`link`]: Ethernet and at most two VLAN tags; anything but IPv4, IPv6 and ARP passes.
//! 2. [`family`]: addresses, where the ports are, and what stands in the way of translating.
//! 3. The service look-up. Not a service: perhaps a reply of a backend ([`reply`]), else it passes untouched.
//! 4. [`segment`]: the TCP or UDP header must make sense.
//! 5. [`select`]: Maglev slot, and the flow tables where the slot is within a change.
//! 6. [`nat`]: addresses, ports, checksums, TTL, MAC addresses.
//!
//! ICMP, and what cannot go on, is left to a second walk, [`rare()`]. Sockets of this host ask [`local`].
#![no_std]
#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod checksum;
pub mod exact;
pub mod family;
pub mod guard;
pub mod headers;
#[cfg(feature = "host")]
pub mod host;
pub mod link;
pub mod local;
pub mod mss;
pub mod nat;
pub mod packet;
pub mod rare;
pub mod reply;
pub mod segment;
pub mod select;
pub mod tables;
pub mod transport;
pub mod verdict;
pub mod walk;

pub use rare::rare;
pub use verdict::Verdict;
pub use walk::fast;

use packet::Packet;
use tables::Tables;

/// What becomes of a frame: [`fast`], and where that leaves it to it, [`rare()`]. In the kernel the two are
/// programs of their own.
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let verdict = fast(packet, tables);
    if verdict.rare { rare(packet, tables) } else { verdict }
}
