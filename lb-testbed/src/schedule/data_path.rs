//! What carries a schedule's packets: the host's walk over its model of the maps, or loaded programs.

use std::fmt::Debug;

use lb_common::route;
use lb_common::service::VIP_MARKER;
use lb_common::{Counter, Flow, FlowKey, HalfOpen, Vip, hash};
use lb_ebpf::host::{Frame, Model};
use lb_ebpf::process;
use lb_userspace::data_plane::kernel::{KernelAction, Sweep};

use super::{Bed, Flight, Outcome, sweep};
use crate::segment::Tcp;
use crate::world::{SEED, route_of};

/// A table that refuses when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the maps")]
pub enum Memory {
    HalfOpen,
    Flows,
    Exact,
}

/// A walk, its maps, and its clock, which only a test moves.
pub trait DataPath: Debug + Sized {
    /// The maps are empty, and it is `now`, in ticks.
    fn start(now: u32) -> Self;
    /// Sends a frame through; where it was counted, and what it has become. `flow`: the only flow that it may be
    /// remembered for.
    fn carry(&self, frame: &[u8], flow: Option<&FlowKey>) -> (Counter, Vec<u8>);
    /// Sends a packet, and lets `meanwhile` happen when that has done so many operations; whether it has happened. A
    /// loaded program cannot be stopped.
    fn send_while(
        bed: &mut Bed<Self>,
        packet: &Tcp,
        _operations: usize,
        _meanwhile: impl FnOnce(&mut Bed<Self>),
    ) -> (Outcome, bool) {
        (bed.send(packet), false)
    }
    /// Now, in ticks.
    fn now(&self) -> u32;
    /// Moves the clock.
    fn set_now(&self, now: u32);
    /// Does one step of the controller's.
    fn apply(&mut self, action: &KernelAction);
    /// When a packet of an old flow was last seen, by slot.
    fn old_seen(&self, table: u32, slots: u32) -> Vec<u32>;
    /// The controller's sweep of all flow tables.
    fn sweep(&self) -> Sweep;
    /// From now on the table refuses beyond so many entries.
    fn limit(&mut self, memory: Memory, entries: usize);
    /// Whether the insert guard refuses everything.
    fn guard(&self, is_on: bool);
    /// The entry of a flow.
    fn flow(&self, key: &FlowKey) -> Option<Flow>;
    /// The half-open entry of a flow.
    fn half_open(&self, key: &FlowKey) -> Option<HalfOpen>;
    /// Exact entries, and hosts that are hinted to have some.
    fn exact(&self) -> (usize, usize);
    /// How often something has happened.
    fn events(&self, event: Counter) -> u64;
}

impl DataPath for Model {
    fn start(now: u32) -> Self {
        Self { hash_key: hash::key(SEED), now: now.into(), ..Self::default() }
    }

    fn carry(&self, frame: &[u8], _: Option<&FlowKey>) -> (Counter, Vec<u8>) {
        let mut frame = Frame::new(frame);
        let verdict = process(&mut frame, self);
        (verdict.counter, frame.bytes().to_vec())
    }

    fn send_while(
        bed: &mut Bed<Self>,
        packet: &Tcp,
        operations: usize,
        meanwhile: impl FnOnce(&mut Bed<Self>),
    ) -> (Outcome, bool) {
        let flight = Flight::new(packet.clone());
        if let Some(outcome) = flight.go(bed, operations) {
            return (outcome, false);
        }
        meanwhile(bed);
        (flight.finish(bed), true)
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn set_now(&self, now: u32) {
        self.now.set(now);
    }

    fn apply(&mut self, action: &KernelAction) {
        match action.clone() {
            KernelAction::PutBackend { index, backend } => drop(self.backends.insert(index, backend)),
            KernelAction::SwapTable { table, slots } => drop(self.tables.insert(table, slots.to_vec())),
            KernelAction::PutService { key, service } => {
                if service.flags & VIP_MARKER == 0 {
                    self.vips.insert(service.id.index(), Vip { key, service });
                }
                self.services.insert(key, service);
            }
            KernelAction::PutEndpoint { key, endpoint } => drop(self.endpoints.insert(key, endpoint)),
            KernelAction::RemoveEndpoint { key } => drop(self.endpoints.remove(&key)),
            KernelAction::PutLocal { address } => drop(self.hosts.insert(address, route::Host::own())),
            KernelAction::PutRoute { prefix, hop } => self.routes.push(route_of(&prefix, hop)),
            other => unreachable!("{other:?} has no part in a schedule"),
        }
    }

    fn old_seen(&self, table: u32, slots: u32) -> Vec<u32> {
        let seen = self.old_seen.borrow();
        (0..slots).map(|index| seen.get(&(table, index)).copied().unwrap_or(0)).collect()
    }

    fn sweep(&self) -> Sweep {
        sweep::sweep(self, |_| ())
    }

    fn limit(&mut self, memory: Memory, entries: usize) {
        match memory {
            Memory::HalfOpen => self.half_open.capacity = entries,
            Memory::Flows => self.flows.capacity = entries,
            Memory::Exact => self.exact.capacity = entries,
        }
    }

    fn guard(&self, is_on: bool) {
        self.is_guarded.set(is_on);
    }

    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.get(key).map(|flow| flow.get())
    }

    fn half_open(&self, key: &FlowKey) -> Option<HalfOpen> {
        self.half_open.get(key).map(|half| half.get())
    }

    fn exact(&self) -> (usize, usize) {
        (self.exact.entries.borrow().len(), self.exact_hints.borrow().len())
    }

    fn events(&self, event: Counter) -> u64 {
        self.events.borrow().get(&event).copied().unwrap_or_default()
    }
}
