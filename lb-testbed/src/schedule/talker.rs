//! A client of a UDP service, for schedules that are written down step by step.

use std::net::SocketAddr;

use super::{Bed, DataPath, Host, Outcome, vip};
use crate::segment::Tcp;

/// A client that sends datagrams from one port. Its flow belongs to the host that its first datagram reached.
#[derive(Clone, Debug)]
pub struct Talker {
    /// What it speaks to: the service's VIP, the further service's, or a host itself.
    pub target: SocketAddr,
    /// Its side of the tuple.
    pub address: SocketAddr,
    /// Who has heard it.
    pub host: Option<Host>,
}

impl Talker {
    /// A client that has not spoken yet.
    pub fn new(port: u16) -> Self {
        Self { target: vip(), address: SocketAddr::from(([203, 0, 113, 7], port)), host: None }
    }

    /// A client that has spoken once.
    #[track_caller]
    pub fn open(bed: &Bed<impl DataPath>, port: u16) -> Self {
        let mut talker = Self::new(port);
        talker.host = Some(talker.speak(bed).host().expect("a datagram goes to a host"));
        talker
    }

    /// Its next datagram.
    pub fn packet(&self) -> Tcp {
        Tcp::datagram(self.address, self.target, b"question")
    }

    /// Sends a datagram.
    pub fn speak(&self, bed: &Bed<impl DataPath>) -> Outcome {
        bed.send(&self.packet())
    }

    /// A host answers it.
    pub fn answer(&self, bed: &Bed<impl DataPath>, host: Host) -> Outcome {
        bed.send(&Tcp::datagram(host.endpoint(), self.address, b"answer"))
    }

    /// The flow is whole: its next datagram reaches its host, whose answers are translated.
    #[track_caller]
    pub fn assert_whole(&self, bed: &Bed<impl DataPath>) {
        let host = self.host.expect("somebody has heard it");
        assert_eq!(self.answer(bed, host), Outcome::Replied, "an answer of {host:?} before");
        assert_eq!(self.speak(bed), Outcome::To(host), "the flow's next datagram");
        assert_eq!(self.answer(bed, host), Outcome::Replied, "an answer of {host:?} after");
    }
}
