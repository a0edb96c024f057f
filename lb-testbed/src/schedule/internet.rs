//! Clients, hosts and the wire between them, as TCP sees them (RFC 9293 §3.10, the parts that decide who
//! answers whom and with which numbers). No options, no windows, no retransmission by itself: who drives it
//! says when something is sent again, late, or lost.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::{Host, vip};
use crate::segment::{ACK, FIN, PSH, RST, SYN, Tcp};

/// Bytes of data in a packet that carries any.
const DATA: &[u8] = b"0123456789";

/// A connection as a host knows it.
#[derive(Clone, Copy, Debug)]
struct Held {
    client_isn: u32,
    /// The next octet from the client.
    expects: u32,
    /// The next octet to the client.
    sends: u32,
    is_open: bool,
    has_sent_fin: bool,
}

/// A host and the connections that it knows.
#[derive(Debug)]
pub struct Machine {
    /// Which one.
    pub host: Host,
    /// Neither hears nor speaks.
    pub is_down: bool,
    held: HashMap<SocketAddr, Held>,
}

impl Machine {
    /// A host without connections.
    pub fn new(host: Host) -> Self {
        Self { host, is_down: false, held: HashMap::new() }
    }

    /// Whether it has the connection with this client that began with `isn`.
    pub fn holds(&self, client: SocketAddr, isn: u32) -> bool {
        self.held.get(&client).is_some_and(|held| held.client_isn == isn)
    }

    /// It starts anew.
    pub fn forget(&mut self) {
        self.held.clear();
    }

    /// A packet of its own on a connection: data.
    pub fn speak(&mut self, client: SocketAddr) -> Option<Tcp> {
        let held = self.held.get(&client).filter(|held| held.is_open)?;
        Some(self.packet(client, PSH | ACK, held.sends, held.expects).payload(DATA))
    }

    /// The next octet that it sends on the connection that began with `isn`.
    pub fn sends(&self, client: SocketAddr, isn: u32) -> Option<u32> {
        self.held.get(&client).filter(|held| held.client_isn == isn).map(|held| held.sends)
    }

    /// The next octet that it expects on the connection that began with `isn`.
    pub fn expects(&self, client: SocketAddr, isn: u32) -> Option<u32> {
        self.held.get(&client).filter(|held| held.client_isn == isn).map(|held| held.expects)
    }

    /// What the client expects next on the connection that began with `isn`.
    pub fn was_heard(&mut self, client: SocketAddr, isn: u32, expects: u32) {
        if let Some(held) = self.held.get_mut(&client).filter(|held| held.client_isn == isn)
            && !held.has_sent_fin
        {
            held.sends = expects;
        }
    }

    /// What it answers to a client's packet. `isn` is the number that it would begin a connection with.
    pub fn hear(&mut self, packet: &Tcp, isn: u32) -> Option<Tcp> {
        if self.is_down {
            return None;
        }
        let client = packet.source;
        let held = self.held.get(&client).copied();
        if packet.flags & RST != 0 {
            if held.is_some_and(|held| held.expects == packet.seq) {
                self.held.remove(&client);
            }
            return None;
        }
        if packet.flags & SYN != 0 {
            let Some(held) = held else {
                let expects = packet.seq.wrapping_add(1);
                let held = Held {
                    client_isn: packet.seq,
                    expects,
                    sends: isn.wrapping_add(1),
                    is_open: false,
                    has_sent_fin: false,
                };
                self.held.insert(client, held);
                return Some(self.packet(client, SYN | ACK, isn, expects));
            };
            return Some(if held.client_isn == packet.seq && !held.is_open {
                self.packet(client, SYN | ACK, held.sends.wrapping_sub(1), held.expects)
            } else {
                // RFC 5961 §4: a challenge; whoever is alive there knows whether to reset.
                self.packet(client, ACK, held.sends, held.expects)
            });
        }
        let Some(mut held) = held.filter(|held| held.is_open || packet.ack == held.sends) else {
            return Some(self.packet(client, RST, packet.ack, 0));
        };
        if packet.seq != held.expects || packet.ack != held.sends {
            // Old, lost in between, or forged.
            return Some(self.packet(client, ACK, held.sends, held.expects));
        }
        if held.has_sent_fin {
            self.held.remove(&client);
            return None;
        }
        held.is_open = true;
        held.expects = held.expects.wrapping_add(packet.payload.len() as u32);
        let answer = if packet.flags & FIN != 0 {
            held.expects = held.expects.wrapping_add(1);
            held.has_sent_fin = true;
            let answer = self.packet(client, FIN | ACK, held.sends, held.expects);
            held.sends = held.sends.wrapping_add(1);
            Some(answer)
        } else {
            (!packet.payload.is_empty()).then(|| self.packet(client, ACK, held.sends, held.expects))
        };
        self.held.insert(client, held);
        answer
    }

    fn packet(&self, client: SocketAddr, flags: u8, seq: u32, ack: u32) -> Tcp {
        Tcp::new(self.host.endpoint(), client, flags).numbers(seq, ack)
    }
}

/// What a client is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing.
    Closed,
    /// It has sent a SYN.
    Opening,
    /// It has accepted the SYN-ACK of this host.
    Open(Host),
    /// It has sent a FIN to it.
    Closing(Host),
}

/// A client that uses one tuple again and again.
#[derive(Debug)]
pub struct Peer {
    /// Its side of the tuple.
    pub address: SocketAddr,
    /// What it is in.
    pub phase: Phase,
    /// Its initial sequence number.
    pub isn: u32,
    /// The next octet it sends.
    pub sends: u32,
    /// The next octet it expects.
    pub expects: u32,
    /// Its connection was reset by a packet that it had to believe.
    pub was_reset: bool,
}

impl Peer {
    /// A client without a connection.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, phase: Phase::Closed, isn: 0, sends: 0, expects: 0, was_reset: false }
    }

    /// The host that holds its connection.
    pub fn host(&self) -> Option<Host> {
        match self.phase {
            Phase::Open(host) | Phase::Closing(host) => Some(host),
            Phase::Closed | Phase::Opening => None,
        }
    }

    /// Begins a connection.
    pub fn open(&mut self, isn: u32) -> Tcp {
        *self = Self { phase: Phase::Opening, isn, sends: isn.wrapping_add(1), ..Self::new(self.address) };
        self.first()
    }

    /// Its SYN.
    pub fn first(&self) -> Tcp {
        Tcp::new(self.address, vip(), SYN).numbers(self.isn, 0)
    }

    /// A packet on its connection.
    pub fn packet(&self, flags: u8) -> Tcp {
        let ack = if flags & ACK != 0 { self.expects } else { 0 };
        Tcp::new(self.address, vip(), flags).numbers(self.sends, ack)
    }

    /// Data.
    pub fn speak(&self) -> Tcp {
        self.packet(PSH | ACK).payload(DATA)
    }

    /// What it answers to a packet that came from the VIP, sent by `host`.
    pub fn hear(&mut self, packet: &Tcp, host: Host) -> Option<Tcp> {
        match self.phase {
            Phase::Closed => self.refuse(packet),
            Phase::Opening if packet.flags & ACK != 0 && packet.ack == self.sends => {
                if packet.flags & (SYN | RST) == SYN {
                    self.phase = Phase::Open(host);
                    self.expects = packet.seq.wrapping_add(1);
                    Some(self.packet(ACK))
                } else {
                    None
                }
            }
            Phase::Opening => self.refuse(packet),
            Phase::Open(_) | Phase::Closing(_) if packet.flags & SYN != 0 => Some(self.packet(ACK)),
            Phase::Open(_) | Phase::Closing(_) if packet.seq != self.expects => None,
            Phase::Open(_) | Phase::Closing(_) if packet.flags & RST != 0 => {
                self.phase = Phase::Closed;
                self.was_reset = true;
                None
            }
            Phase::Open(_) | Phase::Closing(_) => {
                self.expects = self.expects.wrapping_add(packet.payload.len() as u32);
                if packet.flags & FIN != 0 {
                    self.expects = self.expects.wrapping_add(1);
                    let last = self.packet(ACK);
                    self.phase = Phase::Closed;
                    return Some(last);
                }
                (!packet.payload.is_empty()).then(|| self.packet(ACK))
            }
        }
    }

    /// What it sends when it has no such connection (RFC 9293 §3.5.2).
    fn refuse(&self, packet: &Tcp) -> Option<Tcp> {
        let reset = Tcp::new(self.address, vip(), RST).numbers(packet.ack, 0);
        (packet.flags & (ACK | RST) == ACK).then_some(reset)
    }
}
