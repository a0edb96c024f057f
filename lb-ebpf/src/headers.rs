//! Wire headers, borrowed in place.
//!
//! Alignment 2 throughout: a frame starts on an even address and every header is a whole number of 16-bit
//! words. LLVM's BPF backend splits a load by known alignment, so byte-aligned types would cost a quarter
//! more instructions.

use lb_common::{Mac, Port};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a type must be to be borrowed from a frame.
pub trait Header: FromBytes + IntoBytes + Immutable + KnownLayout {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout> Header for T {}

/// A 16-bit field in network order.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct U16(u16);

impl U16 {
    /// From a number in host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// From the field as it lies in the frame.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The number in host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// As it lies in the frame.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// A 32-bit field in network order on a 16-bit boundary.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct U32([u16; 2]);

impl U32 {
    /// From the field as it lies in the frame.
    #[inline(always)]
    pub fn from_raw(raw: u32) -> Self {
        zerocopy::transmute!(raw)
    }

    /// As it lies in the frame.
    #[inline(always)]
    pub fn raw(self) -> u32 {
        zerocopy::transmute!(self)
    }

    /// The number in host order.
    #[inline(always)]
    pub fn get(self) -> u32 {
        u32::from_be(self.raw())
    }
}

/// An IPv6 address field as four raw words.
#[inline(always)]
pub fn words(field: [U32; 4]) -> [u32; 4] {
    [field[0].raw(), field[1].raw(), field[2].raw(), field[3].raw()]
}

/// Four raw words as an IPv6 address field.
#[inline(always)]
pub fn field(words: [u32; 4]) -> [U32; 4] {
    [U32::from_raw(words[0]), U32::from_raw(words[1]), U32::from_raw(words[2]), U32::from_raw(words[3])]
}

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: U16 = U16::new(0x0800);
/// EtherType of ARP.
pub const ETHERTYPE_ARP: U16 = U16::new(0x0806);
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: U16 = U16::new(0x86dd);
/// EtherType of an IEEE 802.1Q tag.
pub const ETHERTYPE_VLAN: U16 = U16::new(0x8100);
/// EtherType of an IEEE 802.1ad tag.
pub const ETHERTYPE_QINQ: U16 = U16::new(0x88a8);

macro_rules! wire {
    ($($(#[doc = $doc:literal])+ struct $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        #[expect(missing_docs, reason = "the fields are the standard's")]
        pub struct $name { $(pub $field: $type),* }
    )*};
}

wire! {
    /// IEEE 802.3.
    struct Ethernet { destination: Mac, source: Mac, kind: U16 }
    /// IEEE 802.1Q and 802.1ad, after the addresses.
    struct Vlan { tci: U16, kind: U16 }
    /// RFC 826, for Ethernet and IPv4. `lengths` are those of the two kinds of addresses.
    struct Arp {
        hardware: U16, protocol: U16, lengths: U16, operation: U16,
        sender_mac: Mac, sender: U32, target_mac: Mac, target: U32,
    }
    /// RFC 791.
    struct Ipv4 {
        version_ihl: u8, tos: u8, total_length: U16, id: U16, fragment: U16,
        ttl: u8, protocol: u8, checksum: U16, source: U32, destination: U32,
    }
    /// RFC 8200.
    struct Ipv6 {
        version_class_flow: U32, payload_length: U16, next_header: u8, hop_limit: u8,
        source: [U32; 4], destination: [U32; 4],
    }
    /// The beginning of an IPv6 extension header; `kind` and `left` are a routing header's (RFC 8200 §4.4).
    struct Extension { next: u8, length: u8, kind: u8, left: u8 }
    /// RFC 792 and RFC 4443. `rest` is what the type makes of it: an MTU, an identifier, nothing.
    struct Icmp { kind: u8, code: u8, checksum: U16, rest: U32 }
    /// What TCP and UDP begin with.
    struct Ports { source: Port, destination: Port }
    /// RFC 768.
    struct Udp { source: Port, destination: Port, length: U16, checksum: U16 }
    /// RFC 9293.
    struct Tcp {
        source: Port, destination: Port, sequence: U32, acknowledgment: U32,
        offset: u8, flags: u8, window: U16, checksum: U16, urgent: U16,
    }
}

impl Ipv4 {
    /// Whether this is a part of a packet: more of it follows, or came before.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        // All but the reserved and the don't-fragment bit.
        self.fragment.get() & 0x3fff != 0
    }
}
