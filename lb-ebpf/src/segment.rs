//! What the walk needs to know of a TCP segment or a UDP datagram.

use lb_common::{Counter, Handshake, Port};

use crate::headers::{Tcp, Udp};
use crate::packet::Packet;
use crate::transport::Transport;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// How far from what is expected a sequence or acknowledgment number may lie: 64 KiB.
const WINDOW: u32 = 1 << 16;

/// A checked TCP or UDP header, in host order. A datagram has no numbers and no flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which of the two.
    pub transport: Transport,
    /// Source port.
    pub source: Port,
    /// Destination port.
    pub destination: Port,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    flags: u8,
}

impl Segment {
    /// Reads the header at byte `l4` of a packet that ends at byte `end`.
    ///
    /// # Errors
    /// [`Counter::Malformed`] where the header does not fit, [`Counter::TcpFlags`] for a set of flags that no
    /// stack sends.
    #[inline(always)]
    pub fn read<P: Packet>(packet: &P, transport: Transport, l4: usize, end: usize) -> Result<Self, Counter> {
        match transport {
            Transport::Tcp => Self::tcp(packet, l4, end),
            Transport::Udp => Self::udp(packet, l4, end),
        }
    }

    #[inline(always)]
    fn udp<P: Packet>(packet: &P, l4: usize, end: usize) -> Result<Self, Counter> {
        let udp = packet.header::<Udp>(l4).ok_or(Counter::Malformed)?;
        let length = usize::from(udp.length.get());
        // Shorter than the packet is legal: what follows are UDP options (RFC 9868).
        if length < Transport::Udp.header_length() || l4 + length > end {
            return Err(Counter::Malformed);
        }
        let (source, destination) = (udp.source, udp.destination);
        Ok(Self { transport: Transport::Udp, source, destination, seq: 0, ack: 0, flags: 0 })
    }

    #[inline(always)]
    fn tcp<P: Packet>(packet: &P, l4: usize, end: usize) -> Result<Self, Counter> {
        let tcp = packet.header::<Tcp>(l4).ok_or(Counter::Malformed)?;
        let length = usize::from(tcp.offset >> 4) * 4;
        if length < Transport::Tcp.header_length() || l4 + length > end {
            return Err(Counter::Malformed);
        }
        let segment = Self {
            transport: Transport::Tcp,
            source: tcp.source,
            destination: tcp.destination,
            seq: tcp.sequence.get(),
            ack: tcp.acknowledgment.get(),
            flags: tcp.flags,
        };
        if segment.has_impossible_flags() { Err(Counter::TcpFlags) } else { Ok(segment) }
    }

    /// RFC 9293 §3.10.7: every segment but a SYN or a RST carries an ACK, and SYN excludes FIN and RST.
    #[inline(always)]
    const fn has_impossible_flags(self) -> bool {
        if self.flags & SYN != 0 { self.flags & (FIN | RST) != 0 } else { self.flags & (ACK | RST) == 0 }
    }

    /// Whether this is a UDP datagram.
    #[inline(always)]
    pub const fn is_udp(self) -> bool {
        matches!(self.transport, Transport::Udp)
    }

    /// A client opens a flow.
    #[inline(always)]
    pub const fn is_syn(self) -> bool {
        opens(self.flags)
    }

    /// Either side's first.
    #[inline(always)]
    pub const fn has_syn(self) -> bool {
        self.flags & SYN != 0
    }

    /// A server answers a SYN.
    #[inline(always)]
    pub const fn is_syn_ack(self) -> bool {
        self.flags & (SYN | ACK) == SYN | ACK
    }

    /// What a backend's segment says of a handshake. A reset that answers a SYN has no number of its own and
    /// acknowledges one (RFC 9293 §3.10.7.1); any other comes from a connection that there was.
    #[inline(always)]
    pub const fn step(self) -> Option<Handshake> {
        if self.flags & (SYN | RST) == 0 {
            return None;
        }
        match (self.is_syn_ack(), self.flags & (RST | ACK) == RST | ACK && self.seq == 0) {
            (true, _) => Some(Handshake::Accepted),
            (false, true) => Some(Handshake::Refused),
            (false, false) => None,
        }
    }

    /// A reset.
    #[inline(always)]
    pub const fn is_rst(self) -> bool {
        self.flags & RST != 0
    }

    /// The sender is done: FIN or RST.
    #[inline(always)]
    pub const fn ends_flow(self) -> bool {
        self.flags & (FIN | RST) != 0
    }
}

/// Whether these flags are those of a SYN that opens a flow.
#[inline(always)]
pub(crate) const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}

/// Whether `number` lies at most 64 KiB beyond the octet after `isn` (RFC 9293 §3.4: modulo 2^32).
#[inline(always)]
pub const fn follows(number: u32, isn: u32) -> bool {
    number.wrapping_sub(isn.wrapping_add(1)) <= WINDOW
}

/// Whether `number` lies at most 64 KiB beyond `seq`.
#[inline(always)]
pub const fn is_ahead(number: u32, seq: u32) -> bool {
    number.wrapping_sub(seq) <= WINDOW
}

/// Whether `number` lies at most 64 KiB from `seq`, either way.
#[inline(always)]
pub const fn is_near(number: u32, seq: u32) -> bool {
    is_ahead(number, seq) || is_ahead(seq, number)
}
