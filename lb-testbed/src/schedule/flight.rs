//! Packets that are stopped half-way.
//!
//! [`lb_ebpf::process`] cannot be suspended, but it is a function of what the tables answer. So a packet in
//! flight keeps the answers it has had; to go one operation further, the walk begins anew, is given those,
//! does one operation for real, and is given empty answers for the rest, which is thrown away.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use lb_common::route::Host;
use lb_common::{
    Address, Backend, BackendId, Claim, Counter, Endpoint, Exact, ExactKey, Flow, FlowKey, HalfOpen,
    Handshake, NextHop, Service, ServiceId, Slot, SocketKey, Station, Vip,
};
use lb_ebpf::host::{Frame, Model};
use lb_ebpf::process;
use lb_ebpf::rare::limiter::Answer;
use lb_ebpf::tables::{Direction, FlowEntry, HalfOpenEntry, Tables};

use super::{Bed, Outcome, outcome};
use crate::segment::Tcp;

/// An operation on what other CPUs or the controller may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the methods of the traits")]
pub enum Op {
    Slot,
    StampOld,
    FindFlow,
    InsertFlow,
    ReadFlow,
    WriteFlow,
    FindHalfOpen,
    InsertHalfOpen,
    RemoveHalfOpen,
    ReadHalfOpen,
    WriteHalfOpen,
}

impl Op {
    /// What it touches, and whether it writes it. Slots and stamps: no packet writes the one or reads the
    /// other.
    fn touches(self) -> Option<(u8, bool)> {
        match self {
            Self::Slot | Self::StampOld => None,
            Self::FindFlow => Some((0, false)),
            Self::InsertFlow => Some((0, true)),
            Self::ReadFlow => Some((1, false)),
            Self::WriteFlow => Some((1, true)),
            Self::FindHalfOpen => Some((2, false)),
            Self::InsertHalfOpen | Self::RemoveHalfOpen => Some((2, true)),
            Self::ReadHalfOpen => Some((3, false)),
            Self::WriteHalfOpen => Some((3, true)),
        }
    }

    /// Whether it makes a difference which of the two comes first.
    fn depends_on(self, other: Self) -> bool {
        match (self.touches(), other.touches()) {
            (Some((what, writes)), Some((other, also_writes))) => what == other && (writes || also_writes),
            _ => false,
        }
    }
}

/// A packet in flight.
#[derive(Debug)]
pub struct Flight {
    packet: Tcp,
    log: Log,
}

/// The answers so far.
#[derive(Debug, Default)]
struct Log {
    answers: RefCell<Vec<Box<dyn Any>>>,
    /// The clock when the packet first looked.
    now: OnceCell<u32>,
    /// Operations of this run so far.
    at: Cell<usize>,
    /// Operations that this run may still do for real.
    allowed: Cell<usize>,
    /// The first one that it was not allowed to do.
    next: Cell<Option<Op>>,
}

impl Log {
    fn ask<R: Clone + Default + 'static>(&self, op: Op, act: impl FnOnce() -> R) -> R {
        let at = self.at.replace(self.at.get() + 1);
        if let Some(answer) = self.answers.borrow().get(at) {
            return answer.downcast_ref::<R>().expect("the walk is deterministic").clone();
        }
        if self.next.get().is_none() && self.allowed.get() > 0 {
            self.allowed.set(self.allowed.get() - 1);
            let answer = act();
            self.answers.borrow_mut().push(Box::new(answer.clone()));
            return answer;
        }
        if self.next.get().is_none() {
            self.next.set(Some(op));
        }
        R::default()
    }
}

impl Flight {
    /// A packet that has just come in.
    pub fn new(packet: Tcp) -> Self {
        Self { packet, log: Log::default() }
    }

    /// Does as many operations more; its outcome if that was the end.
    pub fn go(&self, bed: &Bed<Model>, operations: usize) -> Option<Outcome> {
        self.log.at.set(0);
        self.log.allowed.set(operations);
        self.log.next.set(None);
        let mut frame = Frame::new(&self.packet.frame());
        let verdict = process(&mut frame, &InFlight { model: &bed.path, log: &self.log });
        self.log.next.get().is_none().then(|| outcome(&self.packet, frame.bytes(), verdict.counter))
    }

    /// Goes on until it is about to do this.
    pub fn go_until(&self, bed: &Bed<Model>, op: Op) {
        assert_eq!(self.go(bed, 0), None, "it ended before {op:?}");
        while self.log.next.get() != Some(op) {
            assert_eq!(self.go(bed, 1), None, "it ended before {op:?}");
        }
    }

    /// Goes on to the end.
    pub fn finish(&self, bed: &Bed<Model>) -> Outcome {
        self.go(bed, usize::MAX).expect("nothing holds it")
    }
}

/// Runs two packets on two CPUs in every order of their operations that makes a difference, each time in a
/// bed of its own. Returns how many there are.
///
/// Two operations of which neither writes what the other touches may change places; of such orders one is
/// enough (sleep sets: Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", 1996).
pub fn interleave(
    setup: impl Fn() -> (Bed<Model>, [Tcp; 2]),
    check: impl Fn(&Bed<Model>, [Outcome; 2]),
) -> usize {
    let mut untried = vec![Vec::new()];
    let mut orders = 0;
    while let Some(prefix) = untried.pop() {
        let (bed, packets) = setup();
        let flights = packets.map(Flight::new);
        let mut done = [flights[0].go(&bed, 0), flights[1].go(&bed, 0)];
        let mut choices = Vec::new();
        // The first packet waits: going on would only repeat an order that has been tried.
        let mut asleep = false;
        let outcomes = loop {
            let turn = match done {
                [Some(first), Some(second)] => break Some([first, second]),
                [None, Some(_)] if asleep => break None,
                [None, Some(_)] => 0,
                [Some(_), None] => 1,
                [None, None] if asleep => 1,
                [None, None] => {
                    let choice = prefix.get(choices.len()).copied().unwrap_or_else(|| {
                        untried.push([choices.as_slice(), &[1]].concat());
                        0
                    });
                    choices.push(choice);
                    asleep = choice == 1;
                    choice
                }
            };
            if let [Some(waits), Some(runs)] = [&flights[0], &flights[1]].map(|flight| flight.log.next.get())
            {
                asleep &= !waits.depends_on(runs);
            }
            done[turn] = flights[turn].go(&bed, 1);
        };
        if let Some(outcomes) = outcomes {
            check(&bed, outcomes);
            orders += 1;
        }
    }
    orders
}

/// The tables as a packet in flight sees them. What it counts is not counted: it would be, once per run.
struct InFlight<'a> {
    model: &'a Model,
    log: &'a Log,
}

/// An entry, or the place of one in a part of the walk that is thrown away.
struct Handle<'a, T> {
    entry: Rc<Cell<T>>,
    log: &'a Log,
}

impl FlowEntry for Handle<'_, Flow> {
    fn read(&self) -> Flow {
        self.log.ask(Op::ReadFlow, || self.entry.read())
    }
    fn set_expires(&self, expires: u32) {
        self.log.ask(Op::WriteFlow, || FlowEntry::set_expires(&self.entry, expires));
    }
    fn set_seq(&self, seq: u32) {
        self.log.ask(Op::WriteFlow, || self.entry.set_seq(seq));
    }
    fn set_closing(&self) {
        self.log.ask(Op::WriteFlow, || self.entry.set_closing());
    }
}

impl HalfOpenEntry for Handle<'_, HalfOpen> {
    fn read(&self) -> HalfOpen {
        self.log.ask(Op::ReadHalfOpen, || self.entry.read())
    }
    fn set_expires(&self, expires: u32) {
        self.log.ask(Op::WriteHalfOpen, || HalfOpenEntry::set_expires(&self.entry, expires));
    }
    fn set_proven(&self) {
        self.log.ask(Op::WriteHalfOpen, || self.entry.set_proven());
    }
    fn record_server(&self, isn: u32) {
        self.log.ask(Op::WriteHalfOpen, || HalfOpenEntry::record_server(&self.entry, isn));
    }
}

impl<'a> Tables for InFlight<'a> {
    type Flow = Handle<'a, Flow>;
    type HalfOpen = Handle<'a, HalfOpen>;
    /// Not stopped at: what is done to it may be done twice.
    type Exact = Rc<Cell<Exact>>;

    fn now(&self) -> u32 {
        *self.log.now.get_or_init(|| self.model.now())
    }
    fn hash_key(&self, word: usize) -> u64 {
        self.model.hash_key(word)
    }
    fn service(&self, key: &SocketKey) -> Option<&Service> {
        self.model.service(key)
    }
    fn endpoint(&self, key: &SocketKey) -> Option<&Endpoint> {
        self.model.endpoint(key)
    }
    fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.model.backend(id)
    }
    fn slot(&self, table: u32, index: u32) -> Option<Slot> {
        self.log.ask(Op::Slot, || self.model.slot(table, index))
    }
    fn stamp_old(&self, table: u32, index: u32, now: u32) {
        self.log.ask(Op::StampOld, || self.model.stamp_old(table, index, now));
    }
    fn host(&self, address: &Address) -> Option<&Host> {
        self.model.host(address)
    }
    fn next_hop(&self, address: &Address) -> Option<&NextHop> {
        self.model.next_hop(address)
    }
    fn station(&self, station: &Station) -> Option<&NextHop> {
        self.model.station(station)
    }
    fn remember_asker(&self, address: &Address, hop: &NextHop) {
        self.model.remember_asker(address, hop);
    }
    fn asker(&self, address: &Address) -> Option<NextHop> {
        self.model.asker(address)
    }

    fn want(&self, _address: &Address, _ifindex: u32) {}
    fn vip(&self, id: ServiceId) -> Option<&Vip> {
        self.model.vip(id)
    }
    fn exact(&self, key: &ExactKey) -> Option<Self::Exact> {
        Tables::exact(self.model, key)
    }
    fn insert_exact(&self, key: &ExactKey, claim: Claim, is_udp: bool) -> bool {
        self.model.insert_exact(key, claim, is_udp)
    }
    fn may_have_exact(&self, backend: BackendId) -> bool {
        self.model.may_have_exact(backend)
    }
    fn expect_exact(&self, backend: BackendId) {
        self.model.expect_exact(backend);
    }
    fn admit(&self, now: u32) -> bool {
        self.model.admit(now)
    }
    fn flow(&self, key: &FlowKey) -> Option<Self::Flow> {
        let entry = self.log.ask(Op::FindFlow, || self.model.flow(key))?;
        Some(Handle { entry, log: self.log })
    }
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.log.ask(Op::InsertFlow, || self.model.insert_flow(key, flow))
    }
    fn half_open(&self, key: &FlowKey) -> Option<Self::HalfOpen> {
        let entry = self.log.ask(Op::FindHalfOpen, || Tables::half_open(self.model, key))?;
        Some(Handle { entry, log: self.log })
    }
    fn insert_half_open(&self, key: &FlowKey, entry: &HalfOpen) -> bool {
        self.log.ask(Op::InsertHalfOpen, || self.model.insert_half_open(key, entry))
    }
    fn remove_half_open(&self, key: &FlowKey) {
        self.log.ask(Op::RemoveHalfOpen, || self.model.remove_half_open(key));
    }
    fn may_answer(&self, _answer: Answer) -> bool {
        false
    }
    fn count(&self, _service: ServiceId, _backend: BackendId, _direction: Direction, _bytes: u32) {}
    fn count_handshake(&self, _backend: BackendId, _step: Handshake) {}
    fn note(&self, _event: Counter) {}
    fn count_drop(&self, _service: &Service) {}
}
