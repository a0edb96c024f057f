//! A client with one tuple, for schedules that are written down step by step.

use std::net::SocketAddr;

use super::{Bed, DataPath, Host, Outcome, further_vip, vip};
use crate::segment::{ACK, FIN, PSH, RST, SYN, Tcp};

/// A client that speaks as TCP does. What it sends is what its numbers say; what is true of its flow (`host`)
/// is known from the handshake alone.
#[derive(Clone, Debug)]
pub struct Client {
    /// What it connects to: the service's VIP, the further service's, or a host itself.
    pub target: SocketAddr,
    /// Its side of the tuple.
    pub address: SocketAddr,
    /// Its initial sequence number.
    pub isn: u32,
    /// The next octet it sends.
    pub seq: u32,
    /// The next octet it expects.
    pub ack: u32,
    /// Who holds the connection.
    pub host: Option<Host>,
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(port: u16) -> Self {
        let mut client = Self {
            target: vip(),
            address: SocketAddr::from(([203, 0, 113, 7], port)),
            isn: 0,
            seq: 0,
            ack: 0,
            host: None,
        };
        client.again();
        client
    }

    /// The same client with another target.
    #[must_use]
    pub fn to(mut self, target: SocketAddr) -> Self {
        self.target = target;
        self
    }

    /// Uses the tuple for another connection.
    pub fn again(&mut self) {
        let isn = self.isn.wrapping_add(u32::from(self.address.port()) << 16 | 0x0051_1234);
        *self = Self { isn, seq: isn.wrapping_add(1), ack: 0, host: None, ..*self };
    }

    /// A client that has connected: SYN, SYN-ACK and ACK have passed.
    pub fn open(bed: &Bed<impl DataPath>, port: u16) -> Self {
        let mut client = Self::new(port);
        client.connect(bed);
        client
    }

    /// SYN, SYN-ACK, ACK.
    pub fn connect(&mut self, bed: &Bed<impl DataPath>) {
        let outcome = self.syn(bed);
        let host = self.reached(outcome).expect("a SYN goes to a host");
        self.accept(bed, host);
        assert_eq!(self.ack(bed), self.there(host), "the handshake's ACK goes where its SYN went");
    }

    /// A packet of it with these flags and its numbers.
    pub fn packet(&self, flags: u8) -> Tcp {
        Tcp::new(self.address, self.target, flags).numbers(self.seq, self.ack)
    }

    /// The packet of its SYN.
    pub fn first(&self) -> Tcp {
        Tcp::new(self.address, self.target, SYN).numbers(self.isn, 0)
    }

    /// Sends its SYN.
    pub fn syn(&self, bed: &Bed<impl DataPath>) -> Outcome {
        bed.send(&self.first())
    }

    /// A host's SYN-ACK: the numbers that this host would choose for it.
    pub fn syn_ack(&self, bed: &Bed<impl DataPath>, host: Host) -> Outcome {
        let numbers = (server_isn(host, self.isn), self.isn.wrapping_add(1));
        bed.send(&Tcp::new(host.endpoint(), self.address, SYN | ACK).numbers(numbers.0, numbers.1))
    }

    /// A host's SYN-ACK reaches the client, which takes its number.
    pub fn accept(&mut self, bed: &Bed<impl DataPath>, host: Host) {
        assert_eq!(self.syn_ack(bed, host), self.back(), "the SYN-ACK of {host:?}");
        self.ack = server_isn(host, self.isn).wrapping_add(1);
        self.host = Some(host);
    }

    /// Sends a bare ACK.
    pub fn ack(&self, bed: &Bed<impl DataPath>) -> Outcome {
        bed.send(&self.packet(ACK))
    }

    /// Sends data.
    pub fn data(&mut self, bed: &Bed<impl DataPath>) -> Outcome {
        let outcome = bed.send(&self.packet(PSH | ACK).payload(b"hello"));
        self.seq = self.seq.wrapping_add(5);
        outcome
    }

    /// Sends its FIN.
    pub fn fin(&mut self, bed: &Bed<impl DataPath>) -> Outcome {
        let outcome = bed.send(&self.packet(FIN | ACK));
        self.seq = self.seq.wrapping_add(1);
        outcome
    }

    /// Sends a RST.
    pub fn rst(&self, bed: &Bed<impl DataPath>) -> Outcome {
        bed.send(&self.packet(RST))
    }

    /// A packet of the host that holds the connection.
    pub fn reply(&self, bed: &Bed<impl DataPath>) -> Outcome {
        let host = self.host.expect("somebody holds the connection");
        bed.send(&Tcp::new(host.endpoint(), self.address, PSH | ACK).numbers(self.ack, self.seq))
    }

    /// The host that a packet reached; of a direct flow its target, if the packet passed.
    fn reached(&self, outcome: Outcome) -> Option<Host> {
        let target = Host::ALL.into_iter().find(|host| host.endpoint() == self.target);
        if outcome == Outcome::Passed { target } else { outcome.host() }
    }

    /// What becomes of its packets to a host.
    fn there(&self, host: Host) -> Outcome {
        if host.endpoint() == self.target { Outcome::Passed } else { Outcome::To(host) }
    }

    /// What becomes of its host's packets.
    fn back(&self) -> Outcome {
        match self.target {
            target if target == vip() => Outcome::Replied,
            target if target == further_vip() => Outcome::RepliedFurther,
            _ => Outcome::Passed,
        }
    }

    /// The flow is whole: its next packet reaches the host that holds the connection, whose reply is
    /// translated.
    #[track_caller]
    pub fn assert_whole(&mut self, bed: &Bed<impl DataPath>) {
        let host = self.host.expect("somebody holds the connection");
        assert_eq!(self.reply(bed), self.back(), "a packet of {host:?} before");
        assert_eq!(self.data(bed), self.there(host), "the flow's next packet");
        assert_eq!(self.reply(bed), self.back(), "a packet of {host:?} after");
    }
}

/// Far from what any other host would choose.
fn server_isn(host: Host, isn: u32) -> u32 {
    (host as u32) << 28 | isn.wrapping_mul(0x9e37_79b1) >> 4
}
