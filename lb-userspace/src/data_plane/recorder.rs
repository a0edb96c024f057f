//! Test doubles of both planes: they hold a state, record actions and fail on demand. Clones share all of it.
//!
//! They model what the traits promise and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_common::{BackendId, FlowKey, ticks};
use tokio::time::Instant;

use super::PlaneError;
use super::flows::{FlowSource, Listing, SeenFlow};
use super::kernel::{
    FlowCut, FlowTables, KernelAction, KernelCounters, KernelState, KernelTables, Slots, Sweep, TrackedFlow,
};
use super::proxy::{ProxyAction, ProxyCounters, ProxyPlane, ProxyState, ProxyTraffic};
use crate::model::Listen;

type Fails<A> = Box<dyn FnMut(&A) -> bool + Send>;

type Decides = Box<dyn FnMut(&KernelAction) -> Fate + Send>;

/// What becomes of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It is refused with these words.
    Refused(&'static str),
    /// It is done, and reported as refused with these words.
    Unsure(&'static str),
}

/// The kernel planes. Ticks follow tokio's clock, so tests that pause it decide what time it is.
#[derive(Clone)]
pub struct KernelRecorder(Arc<Mutex<Kernel>>);

struct Kernel {
    start: Instant,
    state: KernelState,
    actions: Vec<KernelAction>,
    fate: Option<Decides>,
    old_seen: HashMap<(u32, usize), u32>,
    sweep: Box<dyn FnMut(u32) -> Sweep + Send>,
    counters: KernelCounters,
    wanted: Vec<(IpAddr, u32)>,
    flows: Vec<(FlowKey, TrackedFlow)>,
}

impl KernelRecorder {
    /// Maps as a previous daemon left them. Needs a tokio runtime.
    pub fn new(state: KernelState) -> Self {
        Self(Arc::new(Mutex::new(Kernel {
            start: Instant::now(),
            state,
            actions: Vec::new(),
            fate: None,
            old_seen: HashMap::new(),
            sweep: Box::new(|_| Sweep::default()),
            counters: KernelCounters::default(),
            wanted: Vec::new(),
            flows: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands in the maps.
    pub fn state(&self) -> KernelState {
        self.lock().state.clone()
    }

    /// Changes the maps behind the controller's back.
    pub fn damage(&self, change: impl FnOnce(&mut KernelState)) {
        change(&mut self.lock().state);
    }

    /// Takes out the actions since the last call, failed ones left out.
    pub fn take_actions(&self) -> Vec<KernelAction> {
        std::mem::take(&mut self.lock().actions)
    }

    /// Refuses the actions that `fails` says.
    pub fn fail(&self, mut fails: impl FnMut(&KernelAction) -> bool + Send + 'static) {
        self.decide(move |action| if fails(action) { Fate::Refused("fails on demand") } else { Fate::Done });
    }

    /// Asks what becomes of each action, before it is done.
    pub fn decide(&self, fate: impl FnMut(&KernelAction) -> Fate + Send + 'static) {
        self.lock().fate = Some(Box::new(fate));
    }

    /// Lets a packet of an old flow pass through a slot now.
    pub fn stamp(&self, table: u32, slot: usize) {
        let now = self.now();
        self.lock().old_seen.insert((table, slot), now);
    }

    /// What every sweep finds from now on.
    pub fn set_sweep(&self, sweep: Sweep) {
        self.on_sweep(move |_| sweep.clone());
    }

    /// Sweeps in this way from now on; told what time it is, in ticks.
    pub fn on_sweep(&self, sweep: impl FnMut(u32) -> Sweep + Send + 'static) {
        self.lock().sweep = Box::new(sweep);
    }

    /// What is counted from now on.
    pub fn set_counters(&self, counters: KernelCounters) {
        self.lock().counters = counters;
    }

    /// A reply waits for a neighbour.
    pub fn want(&self, neighbour: IpAddr, interface: u32) {
        self.lock().wanted.push((neighbour, interface));
    }

    /// Puts an entry into the flow tables.
    pub fn set_flow(&self, key: FlowKey, flow: TrackedFlow) {
        self.lock().flows.push((key, flow));
    }

    /// The id of a backend in the maps.
    pub fn id_of(&self, address: SocketAddr) -> Option<BackendId> {
        let state = self.state();
        let at = |backend: &&lb_common::Backend| {
            SocketAddr::new(backend.address.ip(), backend.port.get()) == address
        };
        state.backends.values().find(at).map(|backend| backend.id)
    }
}

impl KernelTables for KernelRecorder {
    fn apply(&mut self, action: &KernelAction) -> Result<(), PlaneError> {
        let mut kernel = self.lock();
        let fate = kernel.fate.as_mut().map_or(Fate::Done, |fate| fate(action));
        if let Fate::Refused(words) = fate {
            return Err(PlaneError::new("the recorder", words));
        }
        kernel.state.record(action);
        kernel.actions.push(action.clone());
        match fate {
            Fate::Unsure(words) => Err(PlaneError::new("the recorder", words)),
            _ => Ok(()),
        }
    }

    fn make_tables(&mut self, tables: &[(u32, Slots)]) -> Result<(), PlaneError> {
        tables.iter().try_for_each(|(table, slots)| {
            self.apply(&KernelAction::SwapTable { table: *table, slots: Arc::clone(slots) })
        })
    }

    fn read_back(&mut self, _known: &KernelState) -> Result<KernelState, PlaneError> {
        Ok(self.state())
    }

    fn old_seen(&mut self, table: u32) -> Result<Vec<u32>, PlaneError> {
        let kernel = self.lock();
        let slots = kernel.state.tables.get(&table).map_or(0, |slots| slots.len());
        Ok((0..slots).map(|slot| kernel.old_seen.get(&(table, slot)).copied().unwrap_or(0)).collect())
    }

    fn sweep(&mut self, now: u32) -> Result<Sweep, PlaneError> {
        Ok((self.lock().sweep)(now))
    }

    fn cut(&mut self, cuts: &[FlowCut]) -> Result<u64, PlaneError> {
        let expired = self.now().wrapping_sub(1);
        let mut count = 0;
        for (_, entry) in &mut self.lock().flows {
            if let TrackedFlow::Flow(flow) = entry
                && cuts.iter().any(|cut| cut.takes(flow))
            {
                flow.expires = expired;
                count += 1;
            }
        }
        Ok(count)
    }

    fn sweep_exact(&mut self, _now: u32) -> Result<u64, PlaneError> {
        Ok(0)
    }

    fn counters(&mut self, _services: &[u32], _backends: &[u32]) -> Result<KernelCounters, PlaneError> {
        Ok(self.lock().counters.clone())
    }

    fn clear_traffic(&mut self, service: Option<u32>, backend: Option<u32>) -> Result<(), PlaneError> {
        let mut kernel = self.lock();
        service.map(|index| kernel.counters.services.remove(&index));
        backend.map(|index| kernel.counters.backends.remove(&index));
        Ok(())
    }

    fn take_wanted(&mut self) -> Result<Vec<(IpAddr, u32)>, PlaneError> {
        Ok(std::mem::take(&mut self.lock().wanted))
    }

    fn flow_tables(&self) -> Arc<dyn FlowTables> {
        Arc::new(self.clone())
    }

    fn flow(&mut self, key: &FlowKey) -> Result<Option<TrackedFlow>, PlaneError> {
        Ok(self.lock().flows.iter().find(|(known, _)| known == key).map(|(_, flow)| *flow))
    }

    fn now(&self) -> u32 {
        // A host that has run for a while: tick 0 would mean "never".
        let elapsed = self.lock().start.elapsed().as_nanos() as u64;
        ticks::from_nanos(elapsed).wrapping_add(1000)
    }
}

impl FlowTables for KernelRecorder {
    fn scan(&self, each: &mut dyn FnMut(&FlowKey, TrackedFlow)) -> Result<(), PlaneError> {
        self.lock().flows.iter().for_each(|(key, flow)| each(key, *flow));
        Ok(())
    }
}

/// The proxy plane.
#[derive(Clone, Default)]
pub struct ProxyRecorder(Arc<Mutex<Proxy>>);

#[derive(Default)]
struct Proxy {
    state: ProxyState,
    actions: Vec<ProxyAction>,
    fails: Option<Fails<ProxyAction>>,
    traffic: ProxyCounters,
    connections: Vec<SeenFlow>,
}

impl ProxyRecorder {
    fn lock(&self) -> MutexGuard<'_, Proxy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is served.
    pub fn state(&self) -> ProxyState {
        self.lock().state.clone()
    }

    /// Takes out the actions since the last call, failed ones left out.
    pub fn take_actions(&self) -> Vec<ProxyAction> {
        std::mem::take(&mut self.lock().actions)
    }

    /// Refuses the actions that `fails` says.
    pub fn fail(&self, fails: impl FnMut(&ProxyAction) -> bool + Send + 'static) {
        self.lock().fails = Some(Box::new(fails));
    }

    /// Opens a connection.
    pub fn connect(&self, connection: SeenFlow) {
        self.lock().connections.push(connection);
    }

    /// What a listen address counted.
    pub fn set_traffic(
        &self,
        listen: Listen,
        service: ProxyTraffic,
        backends: BTreeMap<SocketAddr, ProxyTraffic>,
    ) {
        self.lock().traffic.insert(listen, (service, backends));
    }
}

impl FlowSource for ProxyRecorder {
    fn list(&self, listing: &mut Listing) -> Result<(), PlaneError> {
        self.lock().connections.iter().for_each(|connection| listing.offer(*connection));
        Ok(())
    }
}

impl ProxyPlane for ProxyRecorder {
    fn apply(&mut self, action: &ProxyAction) -> Result<(), PlaneError> {
        let mut proxy = self.lock();
        if proxy.fails.as_mut().is_some_and(|fails| fails(action)) {
            return Err(PlaneError::new("the recorder", "fails on demand"));
        }
        proxy.state.record(action);
        proxy.actions.push(action.clone());
        Ok(())
    }

    fn connections(&self) -> Box<dyn FlowSource> {
        Box::new(self.clone())
    }

    fn traffic(&self) -> ProxyCounters {
        self.lock().traffic.clone()
    }
}
