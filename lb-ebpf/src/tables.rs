//! Every look-up and insert of the walk.

use lb_common::route::Host;
use lb_common::{
    Address, Backend, BackendId, Claim, Counter, Endpoint, Exact, ExactKey, Flow, FlowKey, HalfOpen,
    Handshake, NextHop, Service, ServiceId, Slot, SocketKey, Station, Traffic, Vip,
};

use crate::exact;
use crate::rare::limiter::Answer;

/// An entry of the flow table, in place. Other CPUs may read and write it at the same time, so every write
/// is of one aligned word.
pub trait FlowEntry {
    /// The entry as it is now.
    fn read(&self) -> Flow;
    /// Writes when it expires, in ticks.
    fn set_expires(&self, expires: u32);
    /// Writes the client's last plausible sequence number.
    fn set_seq(&self, seq: u32);
    /// Marks it as closing.
    fn set_closing(&self);
}

/// An entry of the half-open table, in place.
pub trait HalfOpenEntry {
    /// The entry as it is now.
    fn read(&self) -> HalfOpen;
    /// Writes when it expires, in ticks.
    fn set_expires(&self, expires: u32);
    /// Marks it as proven.
    fn set_proven(&self);
    /// Remembers an initial sequence number of the backend; the last two are kept (SYN cookies answer a
    /// retransmitted SYN with another one).
    fn record_server(&self, isn: u32);
}

/// An exact entry, in place.
pub trait ExactEntry {
    /// The entry as it is now.
    fn read(&self) -> Exact;
    /// Replaces what the endpoint has answered to.
    fn set_confirmed(&self, claim: Claim);
    /// Replaces what waits for its answer.
    fn set_pending(&self, claim: Claim);
}

/// Which way a packet went, for the traffic counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To a backend; `new_flow` for a SYN.
    Forward {
        /// Whether it opens a flow.
        new_flow: bool,
    },
    /// Back to a client.
    Reply,
}

impl Direction {
    /// Adds a packet of `bytes`.
    #[inline(always)]
    pub const fn count(self, traffic: &mut Traffic, bytes: u32) {
        match self {
            Self::Forward { new_flow } => {
                traffic.packets += 1;
                traffic.bytes += bytes as u64;
                traffic.new_flows += new_flow as u64;
            }
            Self::Reply => {
                traffic.reply_packets += 1;
                traffic.reply_bytes += bytes as u64;
            }
        }
    }
}

/// The kernel maps, or a model of them.
pub trait Tables {
    /// A handle to an entry of the flow table.
    type Flow: FlowEntry;
    /// A handle to an entry of the half-open table.
    type HalfOpen: HalfOpenEntry;
    /// A handle to an exact entry.
    type Exact: ExactEntry;

    /// The coarse monotonic clock, in ticks.
    fn now(&self) -> u32;
    /// A word of the flow hash's key (`lb_common::hash::Key`).
    fn hash_key(&self, word: usize) -> u64;

    /// The service of a VIP.
    fn service(&self, key: &SocketKey) -> Option<&Service>;
    /// The endpoint of a backend.
    fn endpoint(&self, key: &SocketKey) -> Option<&Endpoint>;
    /// The entry at a backend id's index, whoever lives there.
    fn backend(&self, id: BackendId) -> Option<&Backend>;
    /// One slot of a table.
    fn slot(&self, table: u32, index: u32) -> Option<Slot>;
    /// Notes that a packet of an old flow came by.
    fn stamp_old(&self, table: u32, index: u32, now: u32);

    /// What is known of one address: the host's own, a neighbour, or with a route of its own.
    fn host(&self, address: &Address) -> Option<&Host>;
    /// Whether an address is the host's own.
    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        self.host(address).is_some_and(Host::is_local)
    }
    /// The mirrored route to the network of an address.
    fn next_hop(&self, address: &Address) -> Option<&NextHop>;
    /// The next hop of answers, but for the destination, where a VIP is at home.
    fn station(&self, station: &Station) -> Option<&NextHop>;
    /// Remembers the way to a host that asks for a VIP.
    fn remember_asker(&self, address: &Address, hop: &NextHop);
    /// The way to a host as it was when it asked.
    fn asker(&self, address: &Address) -> Option<NextHop>;
    /// Asks the controller to resolve a client's neighbour.
    fn want(&self, address: &Address, ifindex: u32);

    /// The VIP of a service, unless it is gone.
    fn vip(&self, id: ServiceId) -> Option<&Vip>;
    /// The exact entry of a tuple, dead or alive.
    fn exact(&self, key: &ExactKey) -> Option<Self::Exact>;
    /// Adds an entry; `false`: one is there already, or the table is full.
    fn insert_exact(&self, key: &ExactKey, claim: Claim, is_udp: bool) -> bool;
    /// Remembers whose a tuple with a backend is from a SYN or a datagram on: the key's service; `false`: refused.
    #[inline(always)]
    fn claim(&self, flow: &FlowKey, backend: BackendId, isn: u32, is_udp: bool) -> bool
    where
        Self: Sized,
    {
        exact::key(self, flow, backend)
            .is_some_and(|key| exact::claim(self, &key, (flow.service, backend), isn, is_udp))
    }
    /// Forgets whose a tuple was: a datagram of the service that needs no entry.
    #[inline(always)]
    fn unclaim(&self, flow: &FlowKey, backend: BackendId)
    where
        Self: Sized,
    {
        if let Some(key) = exact::key(self, flow, backend) {
            exact::unclaim(self, &key);
        }
    }
    /// Whose a packet from a backend is, if an entry says so, whatever service the key names.
    #[inline(always)]
    fn claimed(&self, flow: &FlowKey, backend: BackendId, kind: exact::Kind, ack: u32) -> Option<ServiceId>
    where
        Self: Sized,
    {
        exact::claimed(self, &exact::key(self, flow, backend)?, backend, kind, ack)
    }
    /// Likewise of a packet that an ICMP error quotes, with the client's sequence number; read-only.
    #[inline(always)]
    fn claimed_quote(&self, flow: &FlowKey, backend: BackendId, seq: u32) -> Option<ServiceId>
    where
        Self: Sized,
    {
        exact::claimed_quote(self, &exact::key(self, flow, backend)?, seq)
    }
    /// Whether the endpoint of this backend may have exact entries.
    fn may_have_exact(&self, backend: BackendId) -> bool;
    /// It may from now on.
    fn expect_exact(&self, backend: BackendId);

    /// Whether the guard lets another unproven flow be remembered; if not, that is counted.
    fn admit(&self, now: u32) -> bool;
    /// The entry of a flow, dead or alive.
    fn flow(&self, key: &FlowKey) -> Option<Self::Flow>;
    /// Adds an entry; `false`: one is there already, or the table is full.
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// The half-open entry of a flow, dead or alive.
    fn half_open(&self, key: &FlowKey) -> Option<Self::HalfOpen>;
    /// Adds an entry; `false`: one is there already, or the table is full.
    fn insert_half_open(&self, key: &FlowKey, entry: &HalfOpen) -> bool;
    /// Deletes an entry.
    fn remove_half_open(&self, key: &FlowKey);

    /// Whether the data path may answer something by itself now.
    fn may_answer(&self, answer: Answer) -> bool;

    /// Counts a packet of `bytes` for its service and backend.
    fn count(&self, service: ServiceId, backend: BackendId, direction: Direction, bytes: u32);
    /// Counts a step of a handshake for its backend.
    fn count_handshake(&self, backend: BackendId, step: Handshake);
    /// Counts what happened on a packet's way, [`Counter::is_event`].
    fn note(&self, event: Counter);
    /// Counts a dropped packet for its service.
    fn count_drop(&self, service: &Service);
}
