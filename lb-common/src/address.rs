//! Addresses as they lie in packets: network byte order throughout.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A link-layer address as three 16-bit words, in memory order: a copy is three loads and stores, never a
/// call to `memmove`.
pub type Mac = [u16; 3];

/// The IP protocol number of TCP (RFC 9293).
pub const TCP: u8 = 6;
/// The IP protocol number of UDP (RFC 768).
pub const UDP: u8 = 17;

/// An IPv4 or IPv6 address; IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2), so that one map serves both.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Address {
    /// Four words, each in network order.
    pub words: [u32; 4],
}

/// The third word of an IPv4-mapped address.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Address {
    /// From the address field of an IPv4 header, as it lies there.
    #[inline(always)]
    pub const fn from_v4_raw(raw: u32) -> Self {
        Self { words: [0, 0, MAPPED, raw] }
    }

    /// From the address field of an IPv6 header, as it lies there.
    #[inline(always)]
    pub const fn from_v6_raw(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// The IPv4 address field, in network order; meaningless for IPv6.
    #[inline(always)]
    pub const fn v4_raw(&self) -> u32 {
        self.words[3]
    }

    /// As the standard library's type.
    pub fn ip(&self) -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(self.words.as_bytes());
        Ipv6Addr::from(octets).to_canonical()
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4_raw(u32::from_ne_bytes(ip.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Self {
        Self { words: zerocopy::transmute!(ip.octets()) }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

/// A TCP or UDP port in network order.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Port(u16);

impl Port {
    /// From a number in host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// From a header field, as it lies there.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The number in host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// As a header field holds it.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// An address, port and protocol: the key of the service map (a VIP) and of the endpoint map (a backend).
///
/// Port 0 with protocol 0 marks an address as a VIP of some service, for packets that carry no ports.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct SocketKey {
    /// The IP address.
    pub address: Address,
    /// The port.
    pub port: Port,
    /// The IP protocol number. 16 bits, so that the key has no padding.
    pub protocol: u16,
}

impl SocketKey {
    /// The key of `socket` for an IP protocol number.
    pub fn new(socket: SocketAddr, protocol: u8) -> Self {
        Self { address: socket.ip().into(), port: Port::new(socket.port()), protocol: u16::from(protocol) }
    }

    /// The key that marks `address` as a VIP.
    #[inline(always)]
    pub const fn vip(address: Address) -> Self {
        Self { address, port: Port::new(0), protocol: 0 }
    }

    /// Address and port as the standard library's type.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.port.get())
    }
}
