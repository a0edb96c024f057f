//! What the kernel planes count: one enum for verdicts and drop reasons, shared by the data path, the API,
//! the metrics and the docs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $index:literal, $word:literal;)*) => {
        /// One counter of the per-CPU counter map; the value is its index there. Values are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Counter { $($(#[doc = $doc])+ $name = $index,)* }

        impl Counter {
            /// Every counter, in index order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word for it in the API, the metrics and the docs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What it counts, in a sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)* }
            }
        }
    };
}

counters! {
    /// Frames that a program saw.
    Received = 0, "received";
    /// Frames that were not for a service and left untouched.
    Passed = 1, "passed";
    /// Frames of clients that went to a backend.
    Forwarded = 2, "forwarded";
    /// Replies that went back to a client.
    Replied = 3, "replied";
    /// The packet's headers contradict each other or the frame's length.
    Malformed = 4, "malformed";
    /// A fragment for a VIP: it carries no ports, or its successors will not.
    Fragment = 5, "fragment";
    /// IPv4 options on a packet for a VIP, or IPv6 extension headers that cannot be looked behind.
    Options = 6, "options";
    /// TTL or hop limit is used up, and the sender was not told.
    TtlExceeded = 7, "ttl_exceeded";
    /// A set of TCP flags that no stack sends (SYN+FIN, SYN+RST, none at all).
    TcpFlags = 8, "tcp_flags";
    /// The pool has no backend that takes new flows.
    NoBackend = 9, "no_backend";
    /// The neighbour of the backend or of the client is not resolved.
    NoNeighbour = 10, "no_neighbour";
    /// A new flow could not be remembered while its slot was settling.
    Settling = 11, "settling";
    /// A map that must hold an entry does not: the controller has not finished, or the maps are damaged.
    Inconsistent = 12, "inconsistent";
    /// The kernel refused to change the packet (checksum helper, writable head).
    Rewrite = 13, "rewrite";
    /// A packet for a VIP from an address that cannot be a client's: the VIP itself, loopback, multicast, broadcast or unspecified.
    ImpossibleSource = 14, "impossible_source";
    /// A packet longer than the next link takes, whose sender was not told: it may be cut elsewhere, or too many were told already.
    TooLong = 15, "too_long";
    /// An ICMP message for a VIP that is about no packet of ours, of a kind that is not forwarded, or a ping that the config leaves unanswered.
    Icmp = 16, "icmp";
    /// A ping to a VIP beyond the rate at which they are answered.
    Limited = 17, "limited";
    /// Pings to a VIP that were answered.
    Echoed = 18, "echoed";
    /// Packets longer than the next link takes, whose sender was told.
    TooLongAnswered = 19, "too_long_answered";
    /// Packets whose TTL or hop limit was used up, whose sender was told.
    TtlAnswered = 20, "ttl_answered";
    /// Times that a flow within a change was not remembered, because its CPU had remembered enough for the moment. No drop.
    Guard = 21, "guard";
    /// TCP packets, SYNs left out, in slots within a change of whose flows nothing was remembered: they went where such flows belong. No drop.
    Missed = 22, "missed";
    /// ARP requests for a VIP that were answered.
    ArpAnswered = 23, "arp_answered";
    /// Neighbour solicitations for a VIP that were answered.
    NdAnswered = 24, "nd_answered";
    /// A flow to a backend's own address, or of a further service of a backend, that could not be remembered.
    Exact = 25, "exact";
}

impl Counter {
    /// Whether it counts dropped packets.
    pub const fn is_drop(self) -> bool {
        !self.is_verdict() && !self.is_event()
    }

    /// Whether it counts all packets, or those that were not dropped.
    pub const fn is_verdict(self) -> bool {
        matches!(
            self,
            Self::Received
                | Self::Passed
                | Self::Forwarded
                | Self::Replied
                | Self::Echoed
                | Self::ArpAnswered
                | Self::NdAnswered
        )
    }

    /// Whether it counts what happened on the way of packets that another counter counts.
    pub const fn is_event(self) -> bool {
        matches!(self, Self::Guard | Self::Missed)
    }
}

/// One entry of the per-CPU traffic maps, per service and per backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Traffic {
    /// Packets from clients that were forwarded.
    pub packets: u64,
    /// Their bytes, from the link header on.
    pub bytes: u64,
    /// SYNs among them.
    pub new_flows: u64,
    /// Packets from clients that were dropped.
    pub drops: u64,
    /// Replies that went back.
    pub reply_packets: u64,
    /// Their bytes, from the link header on.
    pub reply_bytes: u64,
}

/// One entry of the per-CPU handshake map, per backend: how the SYNs of clients fared that packets brought. Sockets of
/// this host are not among them: their packets do not pass here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Handshakes {
    /// SYNs that were forwarded, retransmissions included.
    pub syns: u64,
    /// SYN-ACKs that went back, retransmissions included.
    pub accepted: u64,
    /// Resets that answered a SYN and went back: nobody listens.
    pub refused: u64,
}

/// A step of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// A client's SYN.
    Syn,
    /// A backend's SYN-ACK.
    Accepted,
    /// A backend's reset.
    Refused,
}

impl Handshakes {
    /// Adds one.
    #[inline(always)]
    pub const fn count(&mut self, step: Handshake) {
        match step {
            Handshake::Syn => self.syns += 1,
            Handshake::Accepted => self.accepted += 1,
            Handshake::Refused => self.refused += 1,
        }
    }
}
