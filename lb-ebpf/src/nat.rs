//! Network address translation, one direction at a time.

use lb_common::{Address, Counter, NextHop, Port};

use crate::checksum::Sum;
use crate::family::{Family, Side};
use crate::headers::{Ethernet, Ports};
use crate::packet::Packet;
use crate::transport::Transport;

/// One translation: which side becomes what, and where the frame goes.
pub struct Translation<'a> {
    /// Of a TCP segment or a UDP datagram.
    pub transport: Transport,
    /// Which address and port.
    pub side: Side,
    /// The new address.
    pub address: &'a Address,
    /// The new port.
    pub port: Port,
    /// What else has been changed in the segment.
    pub change: Sum,
    /// The next hop.
    pub hop: &'a NextHop,
}

/// Rewrites the frame: MAC addresses, one IP address, TTL, one port, checksums. The VLAN tag stays.
///
/// # Errors
/// [`Counter::Rewrite`] where the frame cannot be written; it may be half changed and must be dropped.
#[inline(always)]
pub fn translate<F: Family, P: Packet>(
    packet: &mut P,
    l3: usize,
    l4: usize,
    to: &Translation<'_>,
) -> Result<(), Counter> {
    rewrite::<F, P>(packet, l3, l4, to).ok_or(Counter::Rewrite)
}

#[inline(always)]
fn rewrite<F: Family, P: Packet>(packet: &mut P, l3: usize, l4: usize, to: &Translation<'_>) -> Option<()> {
    let ethernet = packet.header_mut::<Ethernet>(0)?;
    ethernet.destination = to.hop.destination;
    ethernet.source = to.hop.source;
    let address = F::translate(packet, l3, to.side, to.address)?;
    let ports = packet.header_mut::<Ports>(l4)?;
    let port = match to.side {
        Side::Source => &mut ports.source,
        Side::Destination => &mut ports.destination,
    };
    let change = to.change.swap16(port.raw(), to.port.raw());
    *port = to.port;
    packet.fix_checksum(to.transport, l4, address, change)
}
