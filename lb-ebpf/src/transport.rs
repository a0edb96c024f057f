//! What differs between TCP and UDP; the walk is the same for both.

use lb_common::address::{TCP, UDP};

use crate::checksum::Sum;
use crate::headers::{Tcp, U16};
use crate::packet::Packet;

/// A transport protocol.
///
/// A value of the walk and no type of it: two copies of the walk per IP version would be twice as many
/// instructions for the same few comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Transport {
    /// RFC 9293.
    Tcp = TCP,
    /// RFC 768.
    Udp = UDP,
}

impl Transport {
    /// The transport of an IP protocol number, if it is one of the two.
    #[inline(always)]
    pub const fn of(protocol: u8) -> Option<Self> {
        match protocol {
            TCP => Some(Self::Tcp),
            UDP => Some(Self::Udp),
            _ => None,
        }
    }

    /// The IP protocol number.
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        self as u8
    }

    /// The bytes of its header without options.
    #[inline(always)]
    pub const fn header_length(self) -> usize {
        match self {
            Self::Tcp => 20,
            Self::Udp => 8,
        }
    }

    /// The bytes of the header at byte `l4`, options included.
    #[inline(always)]
    pub fn length_at<P: Packet>(self, packet: &P, l4: usize) -> usize {
        match self {
            Self::Tcp => packet.header::<Tcp>(l4).map_or(0, |tcp| usize::from(tcp.offset >> 4) * 4),
            Self::Udp => self.header_length(),
        }
    }

    /// Where in the header the checksum lies.
    #[inline(always)]
    pub const fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// The incremental update of a checksum in the frame, for everything but socket buffers; `l4` is where the
/// transport header begins.
///
/// For UDP 0 means that there is no checksum: it stays 0, and a computed 0 is sent as its other
/// representation, all ones (RFC 768; over IPv6 RFC 8200 §8.1).
#[inline(always)]
pub fn fix_in_place<P: Packet>(packet: &mut P, transport: Transport, l4: usize, change: Sum) -> Option<()> {
    let checksum = packet.header_mut::<U16>(l4 + transport.checksum_at())?;
    let old = checksum.raw();
    let new = change.apply(old);
    let new = match transport {
        Transport::Tcp => new,
        Transport::Udp if old == 0 => 0,
        Transport::Udp if new == 0 => u16::MAX,
        Transport::Udp => new,
    };
    *checksum = U16::from_raw(new);
    Some(())
}
