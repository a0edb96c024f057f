//! ICMP messages to send, built by an independent library.

use std::net::IpAddr;

use etherparse::{
    IpDscp, IpEcn, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder,
    SingleVlanHeader, VlanHeader, VlanId,
};

use crate::segment::{RECEIVER, SENDER, octets};

/// An ICMP or ICMPv6 message, by the family of its addresses.
#[derive(Clone, Debug)]
pub struct Icmp {
    /// Sender.
    pub source: IpAddr,
    /// Receiver, of the same family.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub class: u8,
    /// Type and code.
    pub kind: (u8, u8),
    /// The second half of the header.
    pub rest: [u8; 4],
    /// What follows the header.
    pub payload: Vec<u8>,
    /// 802.1Q VLAN id.
    pub vlan: Option<u16>,
}

impl Icmp {
    /// A message of a type and code.
    pub fn new(source: IpAddr, destination: IpAddr, kind: (u8, u8)) -> Self {
        let (rest, payload) = ([0; 4], Vec::new());
        Self { source, destination, ttl: 64, class: 0, kind, rest, payload, vlan: None }
    }

    /// A ping.
    pub fn ping(source: IpAddr, destination: IpAddr) -> Self {
        let kind = if source.is_ipv4() { 8 } else { 128 };
        Self {
            rest: [0x12, 0x34, 0, 1],
            payload: b"sixteen bytes...".to_vec(),
            ..Self::new(source, destination, (kind, 0))
        }
    }

    /// What the receiver of a ping answers.
    #[must_use]
    pub fn pong(&self) -> Self {
        let kind = if self.source.is_ipv4() { 0 } else { 129 };
        Self { source: self.destination, destination: self.source, ttl: 64, kind: (kind, 0), ..self.clone() }
    }

    /// An error that quotes the beginning of a packet: the link takes no more than `mtu` bytes.
    pub fn too_long(source: IpAddr, destination: IpAddr, mtu: u32, quote: &[u8]) -> Self {
        let kind = if source.is_ipv4() { (3, 4) } else { (2, 0) };
        Self { rest: mtu.to_be_bytes(), payload: quote.to_vec(), ..Self::new(source, destination, kind) }
    }

    /// An error that quotes the beginning of a packet: its time to live is used up.
    pub fn expired(source: IpAddr, destination: IpAddr, quote: &[u8]) -> Self {
        let kind = if source.is_ipv4() { (11, 0) } else { (3, 0) };
        Self { payload: quote.to_vec(), ..Self::new(source, destination, kind) }
    }

    /// With a type of service or traffic class.
    #[must_use]
    pub fn class(mut self, class: u8) -> Self {
        self.class = class;
        self
    }

    /// With a TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The frame, from MAC addresses that do not matter.
    pub fn frame(&self) -> Vec<u8> {
        self.frame_between(SENDER, RECEIVER)
    }

    /// The frame between two MAC addresses, checksums right.
    pub fn frame_between(&self, source: [u8; 6], destination: [u8; 6]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(source, destination);
        let builder = match self.vlan {
            Some(id) => {
                let vlan_id = VlanId::try_new(id).expect("a VLAN id has 12 bits");
                builder
                    .vlan(VlanHeader::Single(SingleVlanHeader { vlan_id, ..Default::default() }))
                    .ip(self.ip())
            }
            None => builder.ip(self.ip()),
        };
        let (kind, code) = self.kind;
        let mut frame = Vec::new();
        match self.source {
            IpAddr::V4(_) => builder.icmpv4_raw(kind, code, self.rest).write(&mut frame, &self.payload),
            IpAddr::V6(_) => builder.icmpv6_raw(kind, code, self.rest).write(&mut frame, &self.payload),
        }
        .expect("a test message is short");
        frame
    }

    fn ip(&self) -> IpHeaders {
        match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = Ipv4Header::new(0, self.ttl, IpNumber::ICMP, from.octets(), to.octets())
                    .expect("a test message is short");
                ip.dscp = IpDscp::try_new(self.class >> 2).expect("6 bits");
                ip.ecn = IpEcn::try_new(self.class & 3).expect("2 bits");
                IpHeaders::Ipv4(ip, Default::default())
            }
            (from, to) => {
                let ip = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: IpNumber::IPV6_ICMP,
                    hop_limit: self.ttl,
                    source: octets(from),
                    destination: octets(to),
                };
                IpHeaders::Ipv6(ip, Default::default())
            }
        }
    }
}
