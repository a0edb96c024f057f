//! Schedules on loaded programs, whose clock is a map.
//!
//! The kernel's tables cannot be as small as those of a schedule. So before a packet that would find them full, no room
//! is left for its flow ([`crate::flow_map::FlowMap::crowd`]); exact entries, which lie in one hash table, have company instead.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData, MapInfo, PerCpuArray, PerCpuValues};
use aya::programs::Xdp as XdpProgram;
use aya_obj::programs::XdpAttachType;
use lb_common::{
    BackendId, Claim, Counter, Exact, ExactKey, Flow, FlowKey, HalfOpen, Port, ServiceId, SocketKey,
    flow_table, names,
};
use lb_ebpf::Verdict;
use lb_ebpf::guard::BURST;
use lb_userspace::data_plane::kernel::{KernelAction, KernelTables, Sweep};

use super::{DataPath, Host, Memory};
use crate::bpffs::Bpffs;
use crate::loaded::{self, Hook};
use crate::object;
use crate::world::{BACKEND_SIDE, World};

/// The clock, in the object. It is not pinned.
const CLOCK: &str = "CLOCK";
/// Flows that the tables are for: room for all of a schedule's, and not too many to fill.
const FLOWS: u32 = 1024;

/// Loading takes the verifier a second, so all schedules of a process share what is loaded, one after the other.
static SHARED: Mutex<Option<Maps>> = Mutex::new(None);

/// Which of the programs.
pub trait Entrance: 'static {
    /// This one.
    const HOOK: Hook;
}

/// XDP.
#[derive(Debug)]
pub struct Xdp;

impl Entrance for Xdp {
    const HOOK: Hook = Hook::Xdp;
}

/// tc.
#[derive(Debug)]
pub struct Tc;

impl Entrance for Tc {
    const HOOK: Hook = Hook::Tc;
}

/// One of the loaded programs. There is one such value at a time: the next waits for its end.
pub struct Programs<E> {
    maps: RefCell<MutexGuard<'static, Option<Maps>>>,
    entrance: PhantomData<E>,
}

impl<E> fmt::Debug for Programs<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs").finish_non_exhaustive()
    }
}

impl<E> Programs<E> {
    /// Does something with the maps, which must work: they are the test's own.
    fn with<T>(&self, act: impl FnOnce(&mut Maps) -> Result<T>) -> T {
        let mut maps = self.maps.borrow_mut();
        act(maps.as_mut().expect("made at the start")).expect("the kernel does as it is asked")
    }
}

impl<E: Entrance> DataPath for Programs<E> {
    fn start(now: u32) -> Self {
        let mut maps = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        // What a schedule that failed has left behind goes as well.
        let fresh = maps.take().map_or_else(Maps::load, Ok).and_then(|maps| maps.empty(now));
        *maps = Some(fresh.expect("the object with a clock loads"));
        Self { maps: RefCell::new(maps), entrance: PhantomData }
    }

    fn carry(&self, frame: &[u8], flow: Option<&FlowKey>) -> (Counter, Vec<u8>) {
        self.with(|maps| maps.carry(E::HOOK, frame, flow))
    }

    fn now(&self) -> u32 {
        self.with(|maps| Ok(maps.clock.get(&0, 0)?))
    }

    fn set_now(&self, now: u32) {
        self.with(|maps| Ok(maps.clock.set(0, now, 0)?));
    }

    fn apply(&mut self, action: &KernelAction) {
        self.with(|maps| Ok(maps.loaded.apply(action)?));
    }

    fn old_seen(&self, table: u32, _: u32) -> Vec<u32> {
        self.with(|maps| Ok(maps.loaded.plane.tables.old_seen(table)?))
    }

    fn sweep(&self) -> Sweep {
        self.with(Maps::sweep)
    }

    fn limit(&mut self, memory: Memory, entries: usize) {
        self.with(|maps| {
            match memory {
                Memory::HalfOpen => maps.half_open.entries = entries,
                Memory::Flows => maps.flows.entries = entries,
                Memory::Exact => maps.limit_exact(entries)?,
            }
            Ok(())
        });
    }

    fn guard(&self, is_on: bool) {
        self.with(|maps| maps.guard(is_on));
    }

    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.with(|maps| maps.loaded.flows.get(key))
    }

    fn half_open(&self, key: &FlowKey) -> Option<HalfOpen> {
        self.with(|maps| maps.loaded.half_open.get(key))
    }

    fn exact(&self) -> (usize, usize) {
        self.with(|maps| maps.exact())
    }

    fn events(&self, event: Counter) -> u64 {
        self.with(|maps| maps.events(event))
    }
}

/// A flow table's end, and how near it is.
#[derive(Clone, Copy)]
struct Limit {
    entries: usize,
    used: usize,
}

impl Limit {
    const NONE: Self = Self { entries: usize::MAX, used: 0 };

    fn is_reached(self) -> bool {
        self.used >= self.entries
    }
}

/// What is loaded, and what a schedule has asked of it.
struct Maps {
    loaded: loaded::Loaded,
    clock: Array<MapData, u32>,
    guard: PerCpuArray<MapData, u64>,
    is_guarded: bool,
    flows: Limit,
    half_open: Limit,
    /// Entries of [`stranger`]s.
    strangers: u32,
    /// The counters are never set back.
    events_before: BTreeMap<Counter, u64>,
}

impl Maps {
    fn load() -> Result<Self> {
        let loaded = loaded::Loaded::open(Bpffs::mount_for_good()?, &object::with_clock()?, FLOWS)?;
        let program = XdpProgram::from_pin(loaded.program(Hook::Xdp), XdpAttachType::Interface)?;
        let ids = program.info()?.map_ids()?.context("the kernel does not say which maps a program has")?;
        let mut clock = None;
        for id in ids {
            if MapInfo::from_id(id)?.name_as_str() == Some(CLOCK) {
                clock = Some(Array::try_from(Map::Array(MapData::from_id(id)?))?);
            }
        }
        let guard = PerCpuArray::try_from(Map::PerCpuArray(loaded.map(names::MAP_GUARD)?))?;
        let clock = clock.context("the object has no clock that a test could move")?;
        let (flows, half_open) = (Limit::NONE, Limit::NONE);
        let events_before = BTreeMap::new();
        Ok(Self { loaded, clock, guard, is_guarded: false, flows, half_open, strangers: 0, events_before })
    }

    /// The same without anything in it.
    fn empty(mut self, now: u32) -> Result<Self> {
        self.loaded.become_world(&World::default(), now)?;
        self.clock.set(0, now, 0)?;
        self.guard(false)?;
        (self.flows, self.half_open, self.strangers) = (Limit::NONE, Limit::NONE, 0);
        self.events_before = self.loaded.counters()?;
        Ok(self)
    }

    fn carry(&mut self, hook: Hook, frame: &[u8], flow: Option<&FlowKey>) -> Result<(Counter, Vec<u8>)> {
        if self.is_guarded {
            self.guard(true)?;
        }
        let Some(flow) = flow else { return self.run(hook, frame) };
        let before = self.remembered(flow)?;
        let flows = if self.flows.is_reached() { self.loaded.flows.crowd(flow)? } else { Vec::new() };
        let half = if self.half_open.is_reached() { self.loaded.half_open.crowd(flow)? } else { Vec::new() };
        let ran = self.run(hook, frame);
        self.loaded.flows.give_back(flows)?;
        self.loaded.half_open.give_back(half)?;
        let after = self.remembered(flow)?;
        self.flows.used = self.flows.used + after.0 - before.0;
        self.half_open.used = self.half_open.used + after.1 - before.1;
        ran
    }

    /// How many entries a flow has in each table.
    fn remembered(&self, flow: &FlowKey) -> Result<(usize, usize)> {
        let half_open = self.loaded.half_open.get(flow)?.is_some();
        Ok((self.loaded.flows.get(flow)?.is_some().into(), half_open.into()))
    }

    fn run(&mut self, hook: Hook, frame: &[u8]) -> Result<(Counter, Vec<u8>)> {
        let ran = self.loaded.run(hook, frame)?;
        let counter = ran.verdict.context("no verdict was counted")?;
        let is_sent = matches!(counter, Counter::Forwarded | Counter::Replied);
        let verdict = if is_sent { Verdict::forward(BACKEND_SIDE) } else { Verdict::drop(counter) };
        let action = hook.action(verdict);
        ensure!(ran.action == action, "{counter:?}: returned {}, not {action}", ran.action);
        Ok((counter, ran.frame))
    }

    fn sweep(&mut self) -> Result<Sweep> {
        let now = self.clock.get(&0, 0)?;
        let sweep = self.loaded.plane.tables.sweep(now)?;
        self.loaded.sweep_exact(now)?;
        self.flows.used = usize::try_from(sweep.flows)?;
        self.half_open.used = usize::try_from(sweep.half_open)?;
        Ok(sweep)
    }

    /// As `Guard` lies in memory: the tick, and what was inserted in it.
    fn guard(&mut self, is_on: bool) -> Result<()> {
        self.is_guarded = is_on;
        let now = u64::from(self.clock.get(&0, 0)?);
        let spent = if is_on { u64::from(BURST) << 32 | now } else { 0 };
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(self.guard.set(0, PerCpuValues::try_from(vec![spent; cpus])?, 0)?)
    }

    fn limit_exact(&mut self, entries: usize) -> Result<()> {
        let most = flow_table::capacity(flow_table::buckets(FLOWS));
        let strangers = most - u32::try_from(entries)?;
        for number in self.strangers..strangers {
            let expires = self.clock.get(&0, 0)?.wrapping_add(u32::MAX / 4);
            let confirmed = Claim { isn: 0, whose: ServiceId::DIRECT, expires };
            self.loaded.exact.insert(stranger(number), Exact { confirmed, pending: Claim::none() }, 0)?;
        }
        for number in strangers..self.strangers {
            self.loaded.exact.remove(&stranger(number))?;
        }
        self.strangers = strangers;
        Ok(())
    }

    fn events(&mut self, event: Counter) -> Result<u64> {
        let count = |counters: &BTreeMap<_, _>| counters.get(&event).copied().unwrap_or_default();
        Ok(count(&self.loaded.counters()?) - count(&self.events_before))
    }

    fn exact(&mut self) -> Result<(usize, usize)> {
        let keys = self.loaded.exact.keys().collect::<Result<Vec<_>, _>>()?;
        let mut hints = 0;
        for host in Host::ALL {
            hints += usize::from(self.loaded.has_exact_hint(BackendId::new(host as u32, 1))?);
        }
        Ok((keys.len() - self.strangers as usize, hints))
    }
}

/// A tuple that no schedule uses.
fn stranger(number: u32) -> ExactKey {
    let client = Ipv4Addr::from_bits(0xf000_0000 | number).into();
    ExactKey { endpoint: SocketKey::default(), client, port: Port::new(1), padding: 0 }
}
