//! The loaded programs over the world of the packet table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use lb_common::{
    Address, BackendId, Counter, Exact, ExactKey, Flow, FlowKey, HalfOpen, Handshakes, NextHop, limits, names,
};
use lb_ebpf::Verdict;
use lb_userspace::controller::plan::plan;
use lb_userspace::controller::table_sizes::TableSizes;
use lb_userspace::data_plane::PlaneError;
use lb_userspace::data_plane::kernel::{KernelAction, KernelState, KernelTables, TrackedFlow};
use lb_userspace::kernel::{KernelPlane, Settings};

use crate::bpffs::Bpffs;
use crate::flow_map::FlowMap;
use crate::object;
use crate::world::{SEED, World};

/// Which program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP.
    Xdp,
    /// tc.
    Tc,
}

impl Hook {
    /// Whether the kernel's test run takes a frame: XDP wants a link header, tc the whole network header too
    /// (`bpf_prog_test_run_xdp`, `bpf_prog_test_run_skb`). Shorter ones are tested on the host alone.
    pub fn takes(self, frame: &[u8]) -> bool {
        let network = match frame.get(12..14) {
            Some([0x08, 0x00]) => 20,
            Some([0x86, 0xdd]) => 40,
            _ => 0,
        };
        frame.len() >= 14 + if self == Self::Tc { network } else { 0 }
    }

    /// What the program returns for a verdict: `XDP_*` of linux/bpf.h, `TC_ACT_*` of linux/pkt_cls.h. The frame
    /// comes in by interface 1, from where an answer goes back (`XDP_TX`).
    pub fn action(self, verdict: Verdict) -> u32 {
        match (self, verdict) {
            (Self::Xdp, Verdict { counter: Counter::Passed, .. }) => 2,
            (Self::Xdp, Verdict { ifindex: 0, .. }) => 1,
            (Self::Xdp, Verdict { ifindex: 1, .. }) => 3,
            (Self::Xdp, _) => 4,
            (Self::Tc, Verdict { counter: Counter::Passed, .. }) => u32::MAX,
            (Self::Tc, Verdict { ifindex: 0, .. }) => 2,
            (Self::Tc, _) => 7,
        }
    }
}

/// What a run gave back.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The program's return value.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// The only counter that the run raised beside `received` and events.
    pub verdict: Option<Counter>,
}

/// The loaded programs, pinned in a bpffs of their own.
pub struct Loaded {
    pub(crate) plane: KernelPlane,
    applied: KernelState,
    pub(crate) flows: FlowMap<Flow, 48>,
    pub(crate) half_open: FlowMap<HalfOpen, 60>,
    askers: HashMap<MapData, Address, NextHop>,
    pub(crate) exact: HashMap<MapData, ExactKey, Exact>,
    exact_hints: Array<MapData, u32>,
    /// The programs' token buckets, of which all zeros is a full one.
    answers: PerCpuArray<MapData, u64>,
    /// Unmounted last.
    bpffs: Bpffs,
}

impl Loaded {
    /// Loads the object; the maps are empty.
    ///
    /// # Errors
    /// No object, or no rights.
    pub fn new() -> Result<Self> {
        Self::open(Bpffs::mount()?, &object::bytes()?, 1 << 18)
    }

    /// Loads an object, its flow table for so many flows.
    pub(crate) fn open(bpffs: Bpffs, object: &[u8], flows: u32) -> Result<Self> {
        let dir = bpffs.join("sluice");
        let settings = Settings {
            bpf_dir: &dir,
            flows,
            backends: limits::BACKENDS,
            hash_seed: Some(SEED),
            tables: TableSizes::default(),
            object,
        };
        let (plane, _) = KernelPlane::open(&settings)?;
        let maps = &dir.join("maps");
        let flows = FlowMap::open(maps, names::MAP_FLOWS, names::MAP_FLOW_BUCKETS, SEED)?;
        let half_open = FlowMap::open(maps, names::MAP_HALF_OPEN, names::MAP_HALF_OPEN_BUCKETS, SEED)?;
        let askers = HashMap::try_from(Map::LruHashMap(open(&dir, names::MAP_ASKERS)?))?;
        let exact = HashMap::try_from(Map::HashMap(open(&dir, names::MAP_EXACT)?))?;
        let exact_hints = Array::try_from(Map::Array(open(&dir, names::MAP_EXACT_HINTS)?))?;
        let answers = PerCpuArray::try_from(Map::PerCpuArray(open(&dir, names::MAP_ANSWERS)?))?;
        Ok(Self {
            plane,
            applied: KernelState::default(),
            flows,
            half_open,
            askers,
            exact,
            exact_hints,
            answers,
            bpffs,
        })
    }

    /// The programs' clock.
    pub fn now(&self) -> u32 {
        self.plane.tables.now()
    }

    /// Makes the maps hold `world`, its flow tables relative to `now`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn become_world(&mut self, world: &World, now: u32) -> Result<()> {
        for action in plan(&self.applied, &world.state) {
            self.plane.tables.apply(&action)?;
        }
        let before = std::mem::replace(&mut self.applied, world.state.clone());
        let (flows, half_open) = self.remembered()?;
        flows.keys().try_for_each(|key| self.flows.remove(key))?;
        half_open.keys().try_for_each(|key| self.half_open.remove(key))?;
        let keys = self.askers.keys().collect::<Result<Vec<_>, _>>()?;
        keys.iter().try_for_each(|key| self.askers.remove(key))?;
        for (address, hop) in &world.askers {
            self.askers.insert(address, hop, 0)?;
        }
        let keys = self.exact.keys().collect::<Result<Vec<_>, _>>()?;
        for key in &keys {
            self.exact.remove(key)?;
            if let Some(endpoint) = before.endpoints.get(&key.endpoint) {
                self.exact_hints.set(endpoint.backend.index(), 0, 0)?;
            }
        }
        for (key, exact) in world.exact_at(now) {
            self.exact.insert(key, exact, 0)?;
        }
        world.exact_hints().try_for_each(|index| self.exact_hints.set(index, 1, 0))?;
        self.fill_buckets()?;
        for (key, flow) in world.flows_at(now) {
            self.flows.insert(&key, &flow)?;
        }
        for (key, half) in world.half_open_at(now) {
            self.half_open.insert(&key, &half)?;
        }
        Ok(())
    }

    /// Lets the data path answer as often as at first.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn fill_buckets(&mut self) -> Result<()> {
        for kind in 0..self.answers.len() {
            let full = vec![0; aya::util::nr_cpus().map_err(|(_, error)| error)?];
            self.answers.set(kind, PerCpuValues::try_from(full)?, 0)?;
        }
        Ok(())
    }

    /// Every entry of both flow tables, by key.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remembered(&self) -> Result<(BTreeMap<FlowKey, Flow>, BTreeMap<FlowKey, HalfOpen>)> {
        let (mut flows, mut half_open) = (BTreeMap::new(), BTreeMap::new());
        self.plane.tables.flow_tables().scan(&mut |key, entry| match entry {
            TrackedFlow::Flow(flow) => drop(flows.insert(*key, flow)),
            TrackedFlow::HalfOpen(half) => drop(half_open.insert(*key, half)),
        })?;
        Ok((flows, half_open))
    }

    /// Changes the maps by one action.
    ///
    /// # Errors
    /// The kernel refuses, or the table is full.
    pub fn apply(&mut self, action: &KernelAction) -> Result<(), PlaneError> {
        self.plane.tables.apply(action)?;
        self.applied.record(action);
        Ok(())
    }

    /// The path of a pinned program.
    pub fn program(&self, hook: Hook) -> PathBuf {
        let name = match hook {
            Hook::Xdp => names::PROGRAM_XDP,
            Hook::Tc => names::PROGRAM_TC,
        };
        self.bpffs.join("sluice/programs").join(name)
    }

    /// The exact entry of a tuple.
    pub fn exact(&self, key: &ExactKey) -> Option<Exact> {
        self.exact.get(key, 0).ok()
    }

    /// The controller's sweep of the exact entries at a time of the programs' clock; how many are left.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn sweep_exact(&mut self, now: u32) -> Result<u64, PlaneError> {
        self.plane.tables.sweep_exact(now)
    }

    /// How often what has been counted.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counters(&mut self) -> Result<BTreeMap<Counter, u64>, PlaneError> {
        Ok(self.plane.tables.counters(&[], &[])?.counters)
    }

    /// A pinned map.
    pub(crate) fn map(&self, name: &str) -> Result<MapData> {
        open(&self.bpffs.join("sluice"), name)
    }

    /// Whether programs look for exact entries of a backend's endpoint.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn has_exact_hint(&self, backend: BackendId) -> Result<bool> {
        Ok(self.exact_hints.get(&backend.index(), 0)? != 0)
    }

    /// What was counted of the handshakes of a backend.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn handshakes(&mut self, backend: BackendId) -> Result<Handshakes> {
        let index = backend.index();
        Ok(self.plane.tables.counters(&[], &[index])?.handshakes.remove(&index).unwrap_or_default())
    }

    /// Runs a program on a frame once.
    ///
    /// # Errors
    /// The kernel refuses to run it.
    pub fn run(&mut self, hook: Hook, frame: &[u8]) -> Result<Ran> {
        let before = self.counters()?;
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: 1,
            ..Default::default()
        };
        let path = self.program(hook);
        let result = match hook {
            Hook::Xdp => Xdp::from_pin(path, XdpAttachType::Interface)?.test_run(options),
            Hook::Tc => SchedClassifier::from_pin(path)?.test_run(options),
        }
        .map_err(|error: ProgramError| anyhow::anyhow!("{hook:?}: {error}"))?;
        let after = self.counters()?;
        let mut raised = after
            .iter()
            .filter(|(counter, value)| before.get(counter) != Some(value))
            .filter(|(counter, _)| **counter != Counter::Received && !counter.is_event())
            .map(|(counter, _)| *counter);
        let verdict = raised.next();
        anyhow::ensure!(raised.next().is_none(), "more than one verdict was counted");
        let length = result.data_size_out as usize;
        out.truncate(length);
        Ok(Ran { action: result.return_value, frame: out, verdict })
    }
}

fn open(dir: &Path, name: &str) -> Result<MapData> {
    MapData::from_pin(dir.join("maps").join(name)).with_context(|| format!("map {name}"))
}
