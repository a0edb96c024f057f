//! Sees every write before the maps do: says whether it fails, and that the maps are valid after it.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use lb_common::{BackendId, Flow, FlowKey, HalfOpen, Slot, ticks};
use lb_userspace::data_plane::kernel::{KernelAction, KernelState, Sweep};
use lb_userspace::data_plane::recorder::{Fate, KernelRecorder};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// What the kernel may say.
const WORDS: [&str; 5] = [
    "Argument list too long (E2BIG)",
    "No space left on device (ENOSPC)",
    "Device or resource busy (EBUSY)",
    "Operation not permitted (EPERM)",
    "Interrupted system call (EINTR)",
];

/// What goes wrong with writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    None,
    /// Every fourth is refused, or done and reported as refused.
    Some,
    /// After so many the daemon is as good as dead: it writes nothing any more.
    DeathAfter(u32),
}

/// An entry of the flow tables.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    HalfOpen(FlowKey, HalfOpen),
    Flow(FlowKey, Flow),
}

impl Entry {
    fn parts(&self) -> (FlowKey, BackendId, (u32, u32), u32, bool) {
        match *self {
            Self::HalfOpen(key, half) => {
                (key, half.backend, (half.table, half.slot), half.expires, half.proven != 0)
            }
            Self::Flow(key, flow) => (key, flow.backend, (flow.table, flow.slot), flow.expires, true),
        }
    }
}

/// A write, and whether packets may be thought to pass right before it: nothing was read since then that they would
/// have changed.
#[derive(Clone, Debug)]
pub struct Write {
    pub action: KernelAction,
    pub builds_on_a_read: bool,
}

pub struct Watcher {
    random: StdRng,
    pub state: KernelState,
    pub faults: Faults,
    /// Backends that nothing bad happens to.
    survivors: Vec<SocketAddr>,
    /// Whose an id was; never another's while this daemon runs.
    owners: HashMap<BackendId, SocketAddr>,
    /// Fallbacks that were given up although nothing had settled: their flows have ended.
    pub cut: BTreeSet<BackendId>,
    /// Those of this daemon: nobody remembers that an id was to be retired.
    pub given_up: BTreeSet<BackendId>,
    /// What was written and not yet looked at.
    pub writes: Vec<Write>,
    /// The flow tables.
    pub entries: Vec<Entry>,
    /// Swept, half-open ones first.
    pub swept: [Vec<FlowKey>; 2],
    pub refusals: u64,
}

impl Watcher {
    pub fn new(seed: u64, survivors: Vec<SocketAddr>) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            state: KernelState::default(),
            faults: Faults::None,
            survivors,
            owners: HashMap::new(),
            cut: BTreeSet::new(),
            given_up: BTreeSet::new(),
            writes: Vec::new(),
            entries: Vec::new(),
            swept: [Vec::new(), Vec::new()],
            refusals: 0,
        }
    }

    /// Stands between controllers and these maps from now on.
    pub fn watch(watcher: &Arc<Mutex<Self>>, kernel: &KernelRecorder) {
        let sees = watcher.clone();
        kernel.decide(move |action| sees.lock().unwrap().see(action));
        let sweeps = watcher.clone();
        kernel.on_sweep(move |now| sweeps.lock().unwrap().sweep(now));
    }

    fn see(&mut self, action: &KernelAction) -> Fate {
        let words = WORDS.choose(&mut self.random).unwrap();
        let fate = match &mut self.faults {
            Faults::DeathAfter(0) => Fate::Refused("the daemon is dead"),
            Faults::DeathAfter(left) => {
                *left -= 1;
                Fate::Done
            }
            Faults::Some if self.random.random_ratio(1, 8) => Fate::Unsure(words),
            Faults::Some if self.random.random_ratio(1, 7) => Fate::Refused(words),
            _ => Fate::Done,
        };
        self.refusals += u64::from(fate != Fate::Done);
        if let Fate::Refused(_) = fate {
            return fate;
        }
        let mut builds_on_a_read = false;
        if let KernelAction::SwapTable { table, slots } = action
            && let Some(old) = self.state.tables.get(table).cloned()
        {
            assert_eq!(old.len(), slots.len(), "a live table changes its size");
            for (old, new) in old.iter().copied().zip(slots.iter()) {
                builds_on_a_read |= old.is_settling() || old.is_tracked() && !new.is_tracked();
                self.check_slot(old, *new);
            }
        }
        if let KernelAction::PutBackend { index, backend } = action {
            builds_on_a_read |= !backend.id.is_some();
            let old = self.state.backends.get(index).map(|old| old.id);
            assert!(
                old.is_none() || !backend.id.is_some() || old == Some(backend.id),
                "{action:?} over {old:?}"
            );
            if backend.id.is_some() && old.is_none() {
                self.check_new_id(backend.id, SocketAddr::new(backend.address.ip(), backend.port.get()));
            }
        }
        if let KernelAction::RemoveEndpoint { key } = action
            && let Some(endpoint) = self.state.endpoints.get(key)
        {
            let is_served = self.state.services.contains_key(&endpoint.vip);
            let survives = self.survivors.contains(&key.socket());
            assert!(!is_served || !survives, "replies of {key:?} end though nothing happened to it");
            self.cut.insert(endpoint.backend);
        }
        self.state.record(action);
        self.check_state(action);
        self.writes.push(Write { action: action.clone(), builds_on_a_read });
        fate
    }

    /// An id that is given out is nobody else's, and no flow knows it.
    fn check_new_id(&mut self, id: BackendId, at: SocketAddr) {
        let owner = *self.owners.entry(id).or_insert(at);
        assert_eq!(owner, at, "{id:?} is given to another while this daemon remembers its owner");
        let named = self.entries.iter().any(|entry| entry.parts().1 == id);
        assert!(!named || !self.cut.remove(&id), "{id:?} is given out again while entries name it");
        self.cut.remove(&id);
    }

    /// A new daemon knows what stands in the maps, and nothing else.
    pub fn forget(&mut self) {
        let Self { owners, state, .. } = self;
        owners.retain(|id, _| state.backends.values().any(|backend| backend.id == *id));
        self.given_up.clear();
        self.faults = Faults::None;
    }

    fn check_slot(&mut self, old: Slot, new: Slot) {
        assert!(new.is_tracked() || new.current() == new.fallback(), "{new:?}");
        let fallback = old.fallback();
        if new.fallback() != fallback && fallback.is_some() {
            assert_eq!(new.fallback(), new.current(), "{old:?} becomes {new:?}");
            if !(old.is_settling() && old.current() == new.current()) {
                let whose = self.owners.get(&fallback);
                let survives = whose.is_some_and(|whose| self.survivors.contains(whose));
                assert!(
                    !survives,
                    "the flows of {whose:?} are cut though nothing happened to it: {old:?}, {new:?}"
                );
                self.cut.insert(fallback);
                self.given_up.insert(fallback);
            }
        }
        if old.is_tracked() && !new.is_tracked() {
            assert_eq!(
                (old.current(), old.fallback()),
                (new.current(), new.fallback()),
                "untracked and changed"
            );
        }
        if !old.is_tracked() && old.current() != new.current() && new.fallback() == old.current() {
            assert!(new.is_tracked(), "{old:?} becomes {new:?}");
        }
    }

    fn check_state(&self, action: &KernelAction) {
        let lives = |id: BackendId| {
            !id.is_some() || self.state.backends.get(&id.index()).is_some_and(|backend| backend.id == id)
        };
        for slot in self.state.tables.values().flat_map(|slots| slots.iter()) {
            assert!(lives(slot.current()) && lives(slot.fallback()), "{action:?}: a slot names the dead");
        }
        for endpoint in self.state.endpoints.values() {
            assert!(lives(endpoint.backend), "{action:?}: an endpoint names the dead");
            assert!(self.state.tables.contains_key(&endpoint.service.table), "{action:?}: no such table");
        }
        for service in self.state.services.values().filter(|service| service.flags == 0) {
            let slots = self.state.tables.get(&service.table).unwrap();
            assert_eq!(slots.len(), service.slots as usize, "{action:?}: a service's table has another size");
            for id in slots.iter().map(|slot| slot.current()).filter(|id| id.is_some()) {
                let answers = self.state.endpoints.values().any(|endpoint| endpoint.backend == id);
                assert!(answers, "{action:?}: replies of {id:?} are not translated");
            }
        }
    }

    /// As the kernel's: frees what has expired a whole tick ago, reports what lives.
    fn sweep(&mut self, now: u32) -> Sweep {
        let mut report = Sweep { half_open_capacity: 64, flows_capacity: 64, ..Sweep::default() };
        let Self { entries, swept, .. } = self;
        entries.retain(|entry| {
            let (key, backend, place, expires, is_flow) = entry.parts();
            let is_half = matches!(entry, Entry::HalfOpen(..));
            if ticks::is_past(expires.wrapping_add(1), now) {
                report.deleted += 1;
                swept[usize::from(!is_half)].push(key);
                return false;
            }
            report.slots.entry(place).or_default().insert(backend);
            if is_flow {
                *report.by_backend.entry(backend).or_default() += 1;
                *report.by_service.entry(key.service.index()).or_default() += 1;
            }
            *(if is_half { &mut report.half_open } else { &mut report.flows }) += 1;
            true
        });
        report
    }
}
