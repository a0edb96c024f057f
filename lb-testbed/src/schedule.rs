//! The data path and the controller's slots together: one service, one small table, four hosts that may serve it,
//! and a clock that tests move.
//!
//! Every packet goes through a [`DataPath`], every step of the controller through its slot machine and its planner.
//! On the host ([`Model`]), what a kernel adds is done by hand: a packet can be stopped half-way ([`Flight`]), a swap
//! and the end of its grace period are two calls, and the sweep says when it is about to delete. Of loaded programs
//! ([`Programs`]) a packet is not stopped, a swap returns when its grace period is over, and the sweep is the
//! controller's own.

mod client;
mod data_path;
mod flight;
pub mod internet;
mod programs;
mod sweep;
mod talker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use lb_common::address::{TCP, UDP};
use lb_common::hash::{self, Tuple};
use lb_common::service::{TRACK_ALWAYS, VIP_MARKER, vip_of};
use lb_common::{
    Address, Backend, BackendId, Counter, Endpoint, Flow, FlowKey, HalfOpen, Port, Service, ServiceId, Slot,
    SocketKey,
};
use lb_ebpf::host::Model;
use lb_userspace::controller::plan::{may_apply, plan};
use lb_userspace::controller::slots::TableState;
use lb_userspace::data_plane::kernel::{KernelState, Prefix, Sweep};

use crate::segment::Tcp;
use crate::world::{
    BACKEND_SIDE, CLIENT_SIDE, CLOSING, ESTABLISHED, GATEWAY, HALF_OPEN, SEED, UDP_IDLE, hop, mac,
};

pub use client::Client;
pub use data_path::{DataPath, Memory};
pub use flight::{Flight, Op, interleave};
pub use programs::{Programs, Tc, Xdp};
pub use sweep::Moment;
pub use talker::Talker;

/// The table's number.
const TABLE: u32 = 1;
/// Soon after the start, the clock wraps.
const START: u32 = 0_u32.wrapping_sub(1000 * lb_common::ticks::SECOND);

/// A machine that may serve. Its number is the index of its backend id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are all alike")]
pub enum Host {
    A = 1,
    B,
    C,
    D,
}

impl Host {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::A, Self::B, Self::C, Self::D];

    /// Where it listens.
    pub fn endpoint(self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, self as u8], 8080))
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A client's packet, translated for this host.
    To(Host),
    /// A host's packet, translated for the client.
    Replied,
    /// The same, of the further service.
    RepliedFurther,
    /// Left as it was.
    Passed,
    /// Dropped.
    Dropped(Counter),
}

impl Outcome {
    /// The host that it was translated for.
    pub fn host(self) -> Option<Host> {
        if let Self::To(host) = self { Some(host) } else { None }
    }
}

/// The address that clients connect to.
pub fn vip() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 80))
}

/// The address of a further service of the same hosts ([`Bed::share`]).
pub fn further_vip() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 2], 80))
}

fn service(slots: u32, protocol: u8) -> Service {
    Service {
        id: ServiceId::new(1, 1),
        table: TABLE,
        slots,
        flags: 0,
        established: if protocol == UDP { UDP_IDLE } else { ESTABLISHED },
        closing: CLOSING,
        half_open: HALF_OPEN,
        mss: 0,
    }
}

/// See the module.
#[derive(Debug)]
pub struct Bed<D = Model> {
    path: D,
    /// The IP protocol number of the service.
    protocol: u8,
    service: Service,
    further: Option<Service>,
    /// Addresses of the balancer itself.
    local: BTreeSet<Address>,
    applied: KernelState,
    table: TableState,
    /// The last id of each host.
    ids: BTreeMap<Host, BackendId>,
    /// Hosts that have been cut.
    dead: BTreeSet<Host>,
    /// In the maps, but not confirmed: packets may still run on the slots before.
    swapped: Option<Vec<Slot>>,
}

impl<D: DataPath> Bed<D> {
    /// A TCP service and a table of `slots` stable slots, all of [`Host::A`].
    pub fn new(slots: u32) -> Self {
        Self::of(slots, TCP)
    }

    /// The same for UDP.
    pub fn udp(slots: u32) -> Self {
        Self::of(slots, UDP)
    }

    fn of(slots: u32, protocol: u8) -> Self {
        let ids = Host::ALL.map(|host| (host, BackendId::new(host as u32, 1))).into();
        let mut bed = Self {
            path: D::start(START),
            protocol,
            service: service(slots, protocol),
            further: None,
            local: BTreeSet::new(),
            applied: KernelState::default(),
            table: TableState::default(),
            ids,
            dead: BTreeSet::new(),
            swapped: None,
        };
        bed.write(vec![Slot::stable(bed.id(Host::A)); slots as usize]);
        bed.end_grace();
        bed
    }

    /// A further service has the same hosts.
    pub fn share(&mut self) {
        self.further = Some(Service { id: ServiceId::new(2, 1), ..self.service });
        self.write(self.slots().to_vec());
        self.end_grace();
    }

    /// Its service remembers every flow from now on.
    pub fn track_always(&mut self) {
        self.service.flags |= TRACK_ALWAYS;
        self.write(self.slots().to_vec());
        self.end_grace();
    }

    /// One slot, and flow tables that hold this many entries.
    pub fn small(half_open: usize, flows: usize) -> Self {
        let mut bed = Self::new(1);
        bed.limit(Memory::HalfOpen, half_open);
        bed.limit(Memory::Flows, flows);
        bed
    }

    /// From now on a table refuses beyond so many entries.
    pub fn limit(&mut self, memory: Memory, entries: usize) {
        self.path.limit(memory, entries);
    }

    /// Whether the insert guard refuses everything from now on.
    pub fn guard(&self, is_on: bool) {
        self.path.guard(is_on);
    }

    /// Sends a packet through the data path.
    pub fn send(&self, packet: &Tcp) -> Outcome {
        let flow = self.flow_of(packet);
        let (counter, frame) = self.path.carry(&packet.frame(), flow.as_ref());
        outcome(packet, &frame, counter)
    }

    /// The same, and lets `meanwhile` happen when the packet has done so many operations; whether it has happened,
    /// which it never does to a loaded program.
    pub fn send_while(
        &mut self,
        packet: &Tcp,
        operations: usize,
        meanwhile: impl FnOnce(&mut Self),
    ) -> (Outcome, bool) {
        D::send_while(self, packet, operations, meanwhile)
    }

    /// The flow that a packet may be remembered for.
    fn flow_of(&self, packet: &Tcp) -> Option<FlowKey> {
        let service = match packet.destination {
            address if address == vip() => self.service,
            address if address == further_vip() => self.further?,
            _ => return None,
        };
        Some(FlowKey { service: service.id, ..self.key(packet.source) })
    }

    /// Now, in ticks.
    pub fn now(&self) -> u32 {
        self.path.now()
    }

    /// Lets time pass.
    pub fn pass(&self, ticks: u32) {
        self.path.set_now(self.now().wrapping_add(ticks));
    }

    /// The slots as the data path sees them.
    pub fn slots(&self) -> &[Slot] {
        self.applied.tables.get(&TABLE).expect("the table is never dropped")
    }

    /// The slots as the controller has confirmed them.
    pub fn confirmed(&self) -> &[Slot] {
        self.table.slots()
    }

    /// The slot of a client's flow.
    pub fn slot_of(&self, client: SocketAddr) -> usize {
        let tuple = Tuple {
            source: client.ip().into(),
            destination: vip().ip().into(),
            source_port: Port::new(client.port()),
            destination_port: Port::new(vip().port()),
            protocol: self.protocol,
        };
        hash::slot(tuple.hash_with(&hash::key(SEED)), self.service.slots) as usize
    }

    /// The key of a client's flow.
    pub fn key(&self, client: SocketAddr) -> FlowKey {
        FlowKey {
            client: client.ip().into(),
            service: self.service.id,
            port: Port::new(client.port()),
            padding: 0,
        }
    }

    /// What is remembered of a client's flow.
    pub fn flow(&self, client: SocketAddr) -> Option<Flow> {
        self.path.flow(&self.key(client))
    }

    /// What is remembered of a client's handshake.
    pub fn half_open(&self, client: SocketAddr) -> Option<HalfOpen> {
        self.path.half_open(&self.key(client))
    }

    /// Exact entries, and hosts that are hinted to have some.
    pub fn exact(&self) -> (usize, usize) {
        self.path.exact()
    }

    /// How often something has happened.
    pub fn events(&self, event: Counter) -> u64 {
        self.path.events(event)
    }

    /// The backend id of a host; none of one that has been cut.
    pub fn id(&self, host: Host) -> BackendId {
        if self.dead.contains(&host) { BackendId::NONE } else { self.ids[&host] }
    }

    fn lives(&self, id: BackendId) -> bool {
        Host::ALL.into_iter().any(|host| self.id(host) == id)
    }

    /// Every slot goes to this host.
    pub fn change(&mut self, to: Host) {
        self.begin_change(&vec![Some(to); self.slots().len()]);
        self.end_grace();
    }

    /// The swap of a change of all slots.
    pub fn begin_change(&mut self, to: &[Option<Host>]) {
        let wanted: Vec<_> =
            to.iter().map(|host| host.map_or(BackendId::NONE, |host| self.id(host))).collect();
        if let Some(slots) = self.table.assign(&wanted, |_, id| self.lives(id)) {
            self.write(slots);
        }
    }

    /// The second step of a failure, or the end of a drain: the host's old flows end. In the planner's order,
    /// the swap comes first and the backend is retired after its grace period.
    pub fn cut(&mut self, host: Host, to: &[Option<Host>]) {
        self.dead.insert(host);
        self.begin_change(to);
        self.end_grace();
        self.write(self.slots().to_vec());
        self.end_grace();
    }

    /// A host that was cut is there again: the next generation of its id.
    pub fn come_back(&mut self, host: Host) {
        assert!(self.dead.remove(&host), "{host:?} was not cut");
        self.ids.insert(host, self.ids[&host].next_generation());
        self.write(self.slots().to_vec());
        self.end_grace();
    }

    /// The swap that marks silent slots. [`Self::settle`] follows its grace period.
    pub fn begin_settling(&mut self) {
        if let Some(slots) = self.table.mark_settling(&self.old_seen(), self.now(), self.service.established)
        {
            self.write(slots);
        }
    }

    /// Settles the slots that are marked, or takes the mark away.
    pub fn settle(&mut self) {
        if let Some(slots) = self.table.settle(&self.old_seen(), self.now(), self.service.established) {
            self.write(slots);
            self.end_grace();
        }
    }

    /// No packet runs on the slots before the last swap any more.
    pub fn end_grace(&mut self) {
        if let Some(slots) = self.swapped.take() {
            self.table.commit(slots.into(), self.now());
        }
    }

    /// Untracks the slots that are settled and free of old entries.
    pub fn untrack(&mut self, sweep: &Sweep) {
        if let Some(slots) = self.table.untrack(TABLE, sweep) {
            self.write(slots);
            self.end_grace();
        }
    }

    /// Deletes what has expired, reports what lives.
    pub fn sweep(&self) -> Sweep {
        self.path.sweep()
    }

    /// All that the controller does from time to time.
    pub fn keep_house(&mut self) {
        self.begin_settling();
        self.end_grace();
        self.settle();
        let sweep = self.sweep();
        self.untrack(&sweep);
    }

    /// A new daemon finds the maps of a dead one.
    pub fn adopt(&mut self) {
        self.swapped = None;
        self.table = TableState::adopt(self.slots().to_vec().into(), self.now());
    }

    /// Adds an address of the balancer itself.
    pub fn add_local(&mut self, address: SocketAddr) {
        self.local.insert(address.ip().into());
        self.write(self.slots().to_vec());
        self.end_grace();
    }

    fn old_seen(&self) -> Vec<u32> {
        self.path.old_seen(TABLE, self.service.slots)
    }

    /// Brings the maps to these slots and to the hosts that live.
    fn write(&mut self, slots: Vec<Slot>) {
        let mut desired = KernelState::default();
        let vip = SocketKey::new(vip(), self.protocol);
        desired.services.insert(vip, self.service);
        if let Some(further) = self.further {
            desired.services.insert(SocketKey::new(further_vip(), self.protocol), further);
        }
        let marker = Service { flags: VIP_MARKER | vip_of(self.protocol), ..Service::default() };
        desired.services.insert(SocketKey::vip(vip.address), marker);
        for (host, id) in self.ids.iter().filter(|(host, _)| !self.dead.contains(host)) {
            let endpoint = host.endpoint();
            let endpoint = SocketKey::new(endpoint, self.protocol);
            let SocketKey { address, port, protocol } = endpoint;
            let hop = hop(id.index(), BACKEND_SIDE);
            desired.backends.insert(
                id.index(),
                Backend { address, port, protocol, id: *id, hop, plain: self.service.id },
            );
            desired.endpoints.insert(endpoint, Endpoint { vip, backend: *id, service: self.service });
        }
        desired.tables.insert(TABLE, slots.clone().into());
        desired.local = self.local.clone();
        let anywhere = Prefix { address: Ipv4Addr::UNSPECIFIED.into(), length: 0 };
        desired.routes.insert(anywhere, hop(GATEWAY, CLIENT_SIDE));
        for action in plan(&self.applied, &desired) {
            assert!(may_apply(&self.applied, &action), "the plan is in order: {action:?}");
            self.path.apply(&action);
            self.applied.record(&action);
        }
        self.swapped = Some(slots);
    }
}

/// What a frame that was counted here was, and proof that what has become of it is what should, byte for byte.
fn outcome(packet: &Tcp, frame: &[u8], counter: Counter) -> Outcome {
    let mut out = packet.clone();
    out.ttl -= 1;
    match counter {
        Counter::Forwarded => {
            let host = Host::ALL
                .into_iter()
                .find(|host| frame.get(30..34) == Some(&[10, 0, 0, *host as u8]))
                .expect("a forwarded frame goes to a host");
            out.destination = host.endpoint();
            let bytes = out.frame_between(mac(0xff00 + BACKEND_SIDE), mac(host as u32));
            assert_eq!(frame, bytes, "translated for {host:?}");
            Outcome::To(host)
        }
        Counter::Replied => {
            let is_further = frame.get(26..30) == Some(&[192, 0, 2, 2]);
            out.source = if is_further { further_vip() } else { vip() };
            let bytes = out.frame_between(mac(0xff00 + CLIENT_SIDE), mac(GATEWAY));
            assert_eq!(frame, bytes, "translated for the client");
            if is_further { Outcome::RepliedFurther } else { Outcome::Replied }
        }
        Counter::Passed => {
            assert_eq!(frame, packet.frame(), "a passed frame is untouched");
            Outcome::Passed
        }
        reason => Outcome::Dropped(reason),
    }
}
