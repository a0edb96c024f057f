//! Clients and backends, joined by the data path's walk over the maps that the controller writes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lb_common::service::VIP_MARKER;
use lb_common::{BackendId, Counter, FlowKey, Slot, SocketKey, Vip, ticks};
use lb_ebpf::host::{Frame, Model};
use lb_ebpf::process;
use lb_testbed::segment::{ACK, FIN, PSH, SYN, Tcp};
use lb_userspace::data_plane::kernel::KernelAction;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::harness::{address, hop};
use super::watcher::Entry;

/// Flows at a time.
const FLOWS: usize = 12;
/// Ports of the one client: so few that tuples are used again.
const PORTS: u16 = 48;

/// An open flow.
#[derive(Clone, Copy, Debug)]
struct Flow {
    client: SocketAddr,
    /// Whose it is.
    id: BackendId,
    at: SocketAddr,
    /// The next octets of both.
    seq: u32,
    ack: u32,
    /// When it last spoke.
    last: u32,
    /// Its third segment is still to come.
    is_opening: bool,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    To(SocketAddr),
    Replied,
    Other(Counter),
}

pub struct Network {
    pub model: Model,
    random: StdRng,
    flows: Vec<Flow>,
    vip: SocketAddr,
    /// Idle time-out, and that of handshakes, in ticks.
    idle: u32,
    half_open: u32,
    pub tally: BTreeMap<&'static str, u64>,
}

impl Network {
    /// Flow tables of so many entries.
    pub fn new(random: StdRng, idle: u32, half_open: u32, capacity: usize) -> Self {
        let mut model = Model { hash_key: lb_common::hash::key([1, 2]), ..Model::default() };
        model.half_open.capacity = capacity;
        model.flows.capacity = capacity;
        let vip = address("192.0.2.10:80");
        Self { model, random, flows: Vec::new(), vip, idle, half_open, tally: BTreeMap::new() }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// One write of the controller.
    pub fn apply(&mut self, action: &KernelAction) {
        let model = &mut self.model;
        match action.clone() {
            KernelAction::PutBackend { index, backend } => {
                let old = model.backends.insert(index, backend);
                if old.is_none_or(|old| old.id != backend.id) {
                    // Whoever knew this id before has long ended.
                    self.flows.retain(|flow| flow.id != backend.id);
                }
            }
            KernelAction::SwapTable { table, slots } => drop(model.tables.insert(table, slots.to_vec())),
            KernelAction::DropTable { table } => drop(model.tables.remove(&table)),
            KernelAction::PutService { key, service } => {
                if service.flags & VIP_MARKER == 0 {
                    model.vips.insert(service.id.index(), Vip { key, service });
                }
                model.services.insert(key, service);
            }
            KernelAction::RemoveService { key } => {
                model.services.remove(&key);
                if key.socket() == self.vip {
                    // It has moved to the proxy plane.
                    self.flows.clear();
                }
            }
            KernelAction::PutEndpoint { key, endpoint } => drop(model.endpoints.insert(key, endpoint)),
            KernelAction::RemoveEndpoint { key } => drop(model.endpoints.remove(&key)),
            KernelAction::PutLocal { address } => {
                model.hosts.insert(address, lb_common::route::Host::own());
            }
            KernelAction::RemoveLocal { address } => drop(model.hosts.remove(&address)),
            // Replies find their way by the host's own routes.
            _ => {}
        }
    }

    /// What stands in the flow tables, half-open flows first, in order.
    pub fn entries(&self) -> Vec<Entry> {
        let half = self.model.half_open.entries.borrow();
        let flows = self.model.flows.entries.borrow();
        let half: BTreeMap<_, _> = half.iter().map(|(key, half)| (*key, half.get())).collect();
        let flows: BTreeMap<_, _> = flows.iter().map(|(key, flow)| (*key, flow.get())).collect();
        let half = half.into_iter().map(|(key, half)| Entry::HalfOpen(key, half));
        half.chain(flows.into_iter().map(|(key, flow)| Entry::Flow(key, flow))).collect()
    }

    /// The sweep has freed these, half-open ones first.
    pub fn forget(&self, [half_open, flows]: &[Vec<FlowKey>; 2]) {
        half_open.iter().for_each(|key| self.model.half_open.remove(key));
        flows.iter().for_each(|key| self.model.flows.remove(key));
    }

    /// Slots in which a packet of an old flow was seen since the last call.
    pub fn take_stamps(&self) -> Vec<(u32, usize)> {
        let stamps = std::mem::take(&mut *self.model.old_seen.borrow_mut());
        let stamps: BTreeSet<_> = stamps.into_keys().map(|(table, slot)| (table, slot as usize)).collect();
        stamps.into_iter().collect()
    }

    /// A client does something; `cut` are backends whose old flows have ended.
    pub fn step(&mut self, cut: &BTreeSet<BackendId>) {
        if self.flows.is_empty() || self.flows.len() < FLOWS && self.random.random_ratio(1, 4) {
            return self.open();
        }
        let index = self.random.random_range(0..self.flows.len());
        match self.random.random_range(0..16) {
            0 => {
                let flow = self.flows.swap_remove(index);
                if self.is_judged(&flow, cut) {
                    self.send(&Tcp::new(flow.client, self.vip, FIN | ACK).numbers(flow.seq, flow.ack));
                    self.count("ended");
                }
            }
            1 => drop(self.flows.swap_remove(index)),
            2 => self.forge(),
            _ => self.speak(index, cut),
        }
    }

    /// Every flow speaks.
    pub fn all_speak(&mut self, cut: &BTreeSet<BackendId>) {
        for index in (0..self.flows.len()).rev() {
            self.speak(index, cut);
        }
    }

    /// The table's slot of a client.
    fn slot(&self, client: SocketAddr) -> Option<Slot> {
        let service = self.model.services.get(&SocketKey::new(self.vip, 6))?;
        let tuple = lb_common::hash::Tuple {
            source: client.ip().into(),
            destination: self.vip.ip().into(),
            source_port: lb_common::Port::new(client.port()),
            destination_port: lb_common::Port::new(self.vip.port()),
            protocol: 6,
        };
        let slot = lb_common::hash::slot(tuple.hash(|word| self.model.hash_key[word]), service.slots);
        self.model.tables.get(&service.table)?.get(slot as usize).copied()
    }

    fn send(&self, packet: &Tcp) -> Outcome {
        let mut frame = Frame::new(&packet.frame());
        frame.route = Some(hop(1));
        let verdict = process(&mut frame, &self.model);
        match verdict.counter {
            Counter::Forwarded => {
                let bytes = frame.bytes();
                let ip: [u8; 4] = bytes[30..34].try_into().unwrap();
                Outcome::To((ip, u16::from_be_bytes([bytes[36], bytes[37]])).into())
            }
            Counter::Replied => Outcome::Replied,
            other => Outcome::Other(other),
        }
    }

    fn open(&mut self) {
        let port = 1000 + self.random.random_range(0..PORTS);
        let client = SocketAddr::from(([198, 51, 100, 7], port));
        if self.flows.iter().any(|flow| flow.client == client) {
            return;
        }
        let (isn, server): (u32, u32) = (self.random.random(), self.random.random());
        let at = match self.send(&Tcp::new(client, self.vip, SYN).numbers(isn, 0)) {
            Outcome::To(at) => at,
            Outcome::Other(counter) => return self.count(counter.name()),
            Outcome::Replied => panic!("a SYN of {client} is taken for a reply"),
        };
        let key = SocketKey::new(at, 6);
        // An old entry of this tuple may still lead to a backend whose flows are just ending; a slot does not, see `Watcher`.
        let Some(id) = self.model.endpoints.get(&key).map(|endpoint| endpoint.backend) else {
            return self.count("to one that leaves");
        };
        let answer = Tcp::new(at, client, SYN | ACK).numbers(server, isn.wrapping_add(1));
        let outcome = self.send(&answer);
        assert_eq!(
            outcome,
            Outcome::Replied,
            "the SYN-ACK of {at} to {client}, slot {:?}",
            self.slot(client)
        );
        let (seq, ack) = (isn.wrapping_add(1), server.wrapping_add(1));
        let last = self.model.now.get();
        self.flows.push(Flow { client, id, at, seq, ack, last, is_opening: true });
        self.count("opened");
    }

    /// Somebody else sends segments of a flow that do not fit it.
    fn forge(&mut self) {
        let port = 1000 + self.random.random_range(0..PORTS);
        let client = SocketAddr::from(([198, 51, 100, 7], port));
        let flags = [SYN, ACK, FIN | ACK, lb_testbed::segment::RST][self.random.random_range(0..4)];
        let (seq, ack) = (self.random.random(), self.random.random());
        let near = |known: &Flow| known.client == client && known.seq.abs_diff(seq) <= 1 << 17;
        if !self.flows.iter().any(near) {
            self.send(&Tcp::new(client, self.vip, flags).numbers(seq, ack));
            self.count("forged");
        }
    }

    /// Whether a flow has to go on as it was: its backend is there, and it was not silent for too long within a change.
    fn is_judged(&self, flow: &Flow, cut: &BTreeSet<BackendId>) -> bool {
        let lives = self.model.backends.get(&flow.id.index()).is_some_and(|backend| backend.id == flow.id);
        let limit = if flow.is_opening { self.half_open } else { self.idle };
        let silent = ticks::is_past(flow.last.wrapping_add(limit), self.model.now.get());
        lives && !cut.contains(&flow.id) && !silent
    }

    fn speak(&mut self, index: usize, cut: &BTreeSet<BackendId>) {
        let flow = self.flows[index];
        if !self.is_judged(&flow, cut) {
            self.flows.swap_remove(index);
            return self.count("let off");
        }
        let flags = if flow.is_opening { ACK } else { PSH | ACK };
        let data: &[u8] = if flow.is_opening { b"" } else { b"0123456789" };
        let packet = Tcp::new(flow.client, self.vip, flags).numbers(flow.seq, flow.ack).payload(data);
        let slot = self.slot(flow.client);
        let has_hop = self.model.backends[&flow.id.index()].hop.ifindex != 0;
        match self.send(&packet) {
            Outcome::To(at) if at == flow.at => {}
            Outcome::Other(_) if !has_hop => return self.count("unreachable"),
            other => panic!("{flow:?} has moved: {other:?}, slot {slot:?}"),
        }
        let seq = flow.seq.wrapping_add(data.len() as u32);
        let answer = Tcp::new(flow.at, flow.client, PSH | ACK).numbers(flow.ack, seq).payload(data);
        let outcome = self.send(&answer);
        assert_eq!(outcome, Outcome::Replied, "the answer to {flow:?}, slot {slot:?}");
        let ack = flow.ack.wrapping_add(data.len() as u32);
        let last = self.model.now.get();
        self.flows[index] = Flow { seq, ack, last, is_opening: false, ..flow };
        self.count(if slot.is_some_and(Slot::is_tracked) { "spoke within a change" } else { "spoke" });
    }
}
