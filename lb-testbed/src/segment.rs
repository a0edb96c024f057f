//! Frames to send: a TCP segment or UDP datagram with everything around it, built by an independent library.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
    NetHeaders, PacketHeaders, SingleVlanHeader, TcpHeader, TransportHeader, UdpHeader, VlanId,
};
use lb_ebpf::transport::Transport;

/// The MAC address that test frames come from.
pub const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// The MAC address that test frames go to.
pub const RECEIVER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;

/// The IPv6 hop-by-hop header.
pub const HOP_BY_HOP: u8 = 0;
/// The IPv6 routing header.
pub const ROUTING: u8 = 43;
/// The IPv6 fragment header.
pub const FRAGMENT: u8 = 44;
/// The IPv6 authentication header.
pub const AUTHENTICATION: u8 = 51;
/// The IPv6 destination options header.
pub const DESTINATION_OPTIONS: u8 = 60;

/// A TCP segment in an IPv4 or IPv6 packet in an Ethernet frame; by [`Tcp::datagram`] a UDP datagram instead.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// TCP, or UDP: it then has no flags and no numbers.
    pub transport: Transport,
    /// Whether the transport checksum is left out (0, which UDP allows for).
    pub without_checksum: bool,
    /// Sender.
    pub source: SocketAddr,
    /// Receiver, of the same family.
    pub destination: SocketAddr,
    /// Flag bits.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// 802.1Q VLAN id.
    pub vlan: Option<u16>,
    /// VLAN id of an 802.1ad tag around it.
    pub provider_vlan: Option<u16>,
    /// Kinds of IPv6 extension headers, in order. Each is 8 bytes long; a routing header has arrived.
    pub extensions: Vec<u8>,
    /// IPv4 options, a multiple of 4 bytes.
    pub ip_options: Vec<u8>,
    /// TCP options, a multiple of 4 bytes.
    pub tcp_options: Vec<u8>,
    /// IPv4: more fragments follow.
    pub more_fragments: bool,
    /// IPv4: offset in units of 8 bytes.
    pub fragment_offset: u16,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Tcp {
    /// A bare segment with these flags.
    pub fn new(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        Self {
            transport: Transport::Tcp,
            without_checksum: false,
            source,
            destination,
            flags,
            seq: 1000,
            ack: if flags & ACK != 0 { 5000 } else { 0 },
            ttl: 64,
            vlan: None,
            provider_vlan: None,
            extensions: Vec::new(),
            ip_options: Vec::new(),
            tcp_options: Vec::new(),
            more_fragments: false,
            fragment_offset: 0,
            payload: Vec::new(),
        }
    }

    /// A UDP datagram.
    pub fn datagram(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        Self { transport: Transport::Udp, ..Self::new(source, destination, 0).payload(payload) }
    }

    /// With a transport checksum of 0.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        self.without_checksum = true;
        self
    }

    /// With a payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With sequence and acknowledgment numbers.
    #[must_use]
    pub fn numbers(mut self, seq: u32, ack: u32) -> Self {
        (self.seq, self.ack) = (seq, ack);
        self
    }

    /// With a TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// With a VLAN tag.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlan = Some(id);
        self
    }

    /// With a tag of an 802.1ad provider.
    #[must_use]
    pub fn provider_vlan(mut self, id: u16) -> Self {
        self.provider_vlan = Some(id);
        self
    }

    /// With TCP options.
    #[must_use]
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        self.tcp_options = options.to_vec();
        self
    }

    /// With IPv6 extension headers.
    #[must_use]
    pub fn extensions(mut self, kinds: &[u8]) -> Self {
        self.extensions = kinds.to_vec();
        self
    }

    /// The frame, from MAC addresses that do not matter.
    pub fn frame(&self) -> Vec<u8> {
        self.frame_between(SENDER, RECEIVER)
    }

    /// The frame between two MAC addresses, checksums right.
    pub fn frame_between(&self, source: [u8; 6], destination: [u8; 6]) -> Vec<u8> {
        let mut header = match self.transport {
            Transport::Tcp => self.tcp().to_bytes().to_vec(),
            Transport::Udp => self.udp().to_bytes().to_vec(),
        };
        if self.without_checksum {
            header[self.transport.checksum_at()..][..2].fill(0);
        }
        let length = header.len() + self.payload.len();
        let (kind, ip) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => (EtherType::IPV4, self.ipv4(from, to, length)),
            (from, to) => (EtherType::IPV6, self.ipv6(from, to, length)),
        };
        let tags =
            [(self.provider_vlan, EtherType::PROVIDER_BRIDGING), (self.vlan, EtherType::VLAN_TAGGED_FRAME)];
        let tags: Vec<_> = tags.into_iter().filter_map(|(id, kind)| Some((id?, kind))).collect();
        let kinds: Vec<_> = tags.iter().map(|(_, kind)| *kind).chain([kind]).collect();
        let mut frame = Vec::new();
        frame.extend(Ethernet2Header { source, destination, ether_type: kinds[0] }.to_bytes());
        for ((id, _), kind) in tags.iter().zip(&kinds[1..]) {
            let vlan_id = VlanId::try_new(*id).expect("a VLAN id has 12 bits");
            frame.extend(SingleVlanHeader { vlan_id, ether_type: *kind, ..Default::default() }.to_bytes());
        }
        frame.extend(ip);
        frame.extend(header);
        frame.extend(&self.payload);
        frame
    }

    fn udp(&self) -> UdpHeader {
        let length = Transport::Udp.header_length() + self.payload.len();
        let (source_port, destination_port) = (self.source.port(), self.destination.port());
        let mut udp = UdpHeader { source_port, destination_port, length: length as u16, checksum: 0 };
        udp.checksum = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                udp.calc_checksum_ipv4_raw(from.octets(), to.octets(), &self.payload)
            }
            (from, to) => udp.calc_checksum_ipv6_raw(octets(from), octets(to), &self.payload),
        }
        .expect("a test datagram is short");
        udp
    }

    fn tcp(&self) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.source.port(), self.destination.port(), self.seq, 64240);
        tcp.acknowledgment_number = self.ack;
        tcp.fin = self.flags & FIN != 0;
        tcp.syn = self.flags & SYN != 0;
        tcp.rst = self.flags & RST != 0;
        tcp.psh = self.flags & PSH != 0;
        tcp.ack = self.flags & ACK != 0;
        tcp.set_options_raw(&self.tcp_options).expect("at most 40 bytes of options");
        tcp.checksum = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), &self.payload)
            }
            (from, to) => tcp.calc_checksum_ipv6_raw(octets(from), octets(to), &self.payload),
        }
        .expect("a test segment is short");
        tcp
    }

    fn ipv4(&self, from: Ipv4Addr, to: Ipv4Addr, length: usize) -> Vec<u8> {
        let mut ip = Ipv4Header::new(
            length as u16,
            self.ttl,
            IpNumber(self.transport.protocol()),
            from.octets(),
            to.octets(),
        )
        .expect("a test packet is short");
        ip.more_fragments = self.more_fragments;
        ip.fragment_offset = IpFragOffset::try_new(self.fragment_offset).expect("13 bits");
        ip.options = Ipv4Options::try_from(self.ip_options.as_slice()).expect("whole words of options");
        ip.set_payload_len(length).expect("a test packet is short");
        ip.header_checksum = ip.calc_header_checksum();
        ip.to_bytes().to_vec()
    }

    fn ipv6(&self, from: IpAddr, to: IpAddr, length: usize) -> Vec<u8> {
        let transport = self.transport.protocol();
        let kinds: Vec<u8> = self.extensions.iter().copied().chain([transport]).collect();
        let ip = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: (8 * self.extensions.len() + length) as u16,
            next_header: IpNumber(kinds[0]),
            hop_limit: self.ttl,
            source: octets(from),
            destination: octets(to),
        };
        // A padding option of 6 bytes (RFC 8200 §4.2); a routing header takes its length for segments left.
        let extensions = self.extensions.iter().zip(&kinds[1..]).map(|(kind, next)| {
            let padding = if *kind == ROUTING { 0 } else { 4 };
            [*next, 0, 1, padding, 0, 0, 0, 0]
        });
        [ip.to_bytes().to_vec(), extensions.flatten().collect()].concat()
    }
}

pub(crate) fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Whether the checksums of a TCP, UDP or ICMP frame are right, by re-computing them from nothing. A UDP checksum of
/// 0 is right over IPv4.
///
/// # Errors
/// Which one is wrong, or that the frame is no such frame.
pub fn verify_checksums(frame: &[u8]) -> Result<(), String> {
    let headers = PacketHeaders::from_ethernet_slice(frame).map_err(|error| error.to_string())?;
    let net = headers.net.ok_or("no IP header")?;
    let transport = headers.transport.ok_or("no transport header")?;
    let payload = headers.payload.slice();
    let (checksum, expected) = match (&net, &transport) {
        (NetHeaders::Ipv4(ip, _), _) if ip.header_checksum != ip.calc_header_checksum() => {
            return Err(format!("IPv4 header checksum {:#06x}", ip.header_checksum));
        }
        (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(tcp)) => {
            (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload))
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(tcp)) => {
            (tcp.checksum, tcp.calc_checksum_ipv6(ip, payload))
        }
        (NetHeaders::Ipv4(..), TransportHeader::Udp(udp)) if udp.checksum == 0 => return Ok(()),
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) => {
            (udp.checksum, udp.calc_checksum_ipv4(ip, payload))
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => {
            (udp.checksum, udp.calc_checksum_ipv6(ip, payload))
        }
        (NetHeaders::Ipv4(..), TransportHeader::Icmpv4(icmp)) => {
            (icmp.checksum, Ok(icmp.icmp_type.calc_checksum(payload)))
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Icmpv6(icmp)) => {
            (icmp.checksum, icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload))
        }
        _ => return Err("neither TCP, UDP nor ICMP over IP".into()),
    };
    let expected = expected.map_err(|error| error.to_string())?;
    // Both zeroes of ones' complement stand for the same sum; only where all else is zero they do not.
    let is_either_zero =
        expected == 0 && checksum == u16::MAX && matches!(transport, TransportHeader::Icmpv4(_));
    if checksum == expected || is_either_zero {
        Ok(())
    } else {
        Err(format!("transport checksum {checksum:#06x}, expected {expected:#06x}"))
    }
}
