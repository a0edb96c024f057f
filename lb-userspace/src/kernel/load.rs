//! Loads the programs onto the pinned maps, making what is missing.

use std::path::Path;

use aya::maps::{MapData, ProgramArray};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;
use lb_common::hash::{self, Seed};
use lb_common::{flow_table, limits, names};
use rand::TryRngCore;
use rand::rngs::OsRng;
use zerocopy::{FromBytes, IntoBytes};

use super::attach::Programs;
use super::bpffs::{self, BpfDir};
use super::error::{KernelError, words};
use super::host;
use super::inner;
use super::layout;
use super::links;
use super::maps::Tables;
use super::syscall::Map;
use crate::config::Config;
use crate::controller::table_sizes::TableSizes;
use crate::model::Plane;

/// What the kernel planes are opened with.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// Where everything is pinned.
    pub bpf_dir: &'a Path,
    /// Capacity of the flow table.
    pub flows: u32,
    /// Backends that the maps have room for.
    pub backends: u32,
    /// The hash seed; `None`: the pinned one, else a random one.
    pub hash_seed: Option<Seed>,
    /// The sizes of the Maglev tables.
    pub tables: TableSizes,
    /// The kernel object.
    pub object: &'a [u8],
}

impl<'a> Settings<'a> {
    /// Those of a config.
    pub fn of(config: &'a Config, object: &'a [u8]) -> Self {
        Self {
            bpf_dir: &config.daemon.bpf_dir,
            flows: config.kernel.flows,
            backends: config.kernel.backends,
            hash_seed: config.kernel.hash_seed,
            tables: TableSizes::of(config),
            object,
        }
    }

    /// The maps whose size follows from the config, with their entries.
    pub(super) fn sizes(&self) -> [(&'static str, u32); 8] {
        let buckets = flow_table::buckets(self.flows);
        let backends = limits::backend_entries(self.backends);
        [
            (names::MAP_FLOWS, flow_table::entries(buckets)),
            (names::MAP_FLOW_BUCKETS, buckets),
            (names::MAP_EXACT, flow_table::capacity(buckets)),
            (names::MAP_ENDPOINTS, self.backends + limits::SPARE_ENTRIES),
            (names::MAP_BACKENDS, backends),
            (names::MAP_EXACT_HINTS, backends),
            (names::MAP_BACKEND_TRAFFIC, backends),
            (names::MAP_HANDSHAKES, backends),
        ]
    }
}

/// What was found from an earlier daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Maps that were pinned already; none: a fresh start.
    pub maps: Vec<&'static str>,
    /// Interfaces (by index) that earlier programs are still attached to. They forward until
    /// [`Programs::attach`] replaces them or [`Programs::detach_except`] removes them.
    pub links: Vec<(u32, Plane)>,
}

/// The kernel planes, loaded and pinned; attached to nothing new yet.
#[derive(Debug)]
pub struct KernelPlane {
    /// Attaches and detaches. Holds the lock on `bpf_dir`.
    pub programs: Programs,
    /// Reads and writes the maps.
    pub tables: Tables,
    /// The hash seed in force.
    pub seed: Seed,
}

impl KernelPlane {
    /// Opens `bpf_dir`, adopts or makes the maps, and loads this build's programs onto them. What an earlier
    /// daemon attached goes on forwarding with the earlier programs meanwhile.
    ///
    /// # Errors
    /// `bpf_dir` is unsafe or in use, a pinned map does not fit this build or config, or the kernel refuses.
    pub fn open(settings: &Settings<'_>) -> Result<(Self, Adopted), KernelError> {
        let dir = BpfDir::create(settings.bpf_dir)?;
        let object =
            Object::parse(settings.object).map_err(|error| KernelError::Object { reason: words(&error) })?;
        let maps = layout::check(&dir, &object, settings)?;
        let pinned_seed = pinned_seed(&dir, settings.hash_seed)?;
        // Nothing has been changed up to here.
        dir.furnish()?;
        layout::record(&dir)?;
        let seed = match pinned_seed {
            Some(seed) => seed,
            None => make_seed(&dir, &object, settings.hash_seed)?,
        };
        for kind in inner::Kind::ALL.into_iter().filter(|kind| !maps.contains(&kind.name)) {
            let entries = layout::definition(&object, kind.name)?.max_entries();
            inner::make(kind, entries, &dir.pin(bpffs::MAPS, kind.name))?;
        }
        let mut ebpf = load(&dir, settings, seed)?;
        verify(&mut ebpf, &TC)?;
        // tc needs less of the kernel (XDP on frames in several buffers: 5.18), so it may be left alone.
        let xdp = verify(&mut ebpf, &XDP).map_err(|error| error.to_string());
        let tables = Tables::open(&dir, seed)?;
        // An earlier daemon's programs meet nothing of this build before all that may be refused has been accepted.
        for pair in [Some(&TC), Some(&XDP).filter(|_| xdp.is_ok())].into_iter().flatten() {
            put(&dir, &mut ebpf, pair)?;
        }
        let programs = Programs::new(dir, ebpf, xdp);
        let links =
            links::list(programs.dir())?.iter().map(|link| (link.ifindex, link.hook.plane())).collect();
        Ok((Self { programs, tables, seed }, Adopted { maps, links }))
    }
}

/// The seed that is kept with the pins.
pub(super) fn pinned_seed(dir: &BpfDir, configured: Option<Seed>) -> Result<Option<Seed>, KernelError> {
    let name = names::MAP_SEED;
    let path = dir.pin(bpffs::MAPS, name);
    if !path.try_exists().map_err(KernelError::file(&path, "look for"))? {
        return Ok(None);
    }
    let fault = |error: &(dyn std::error::Error + 'static)| KernelError::map(name, error);
    let map = MapData::from_pin(&path).and_then(Map::new).map_err(|error| fault(&error))?;
    let mut value = map.value_buffer();
    map.lookup(&0_u32.to_ne_bytes(), &mut value).map_err(|error| fault(&error))?;
    let Ok(pinned) = Seed::read_from_bytes(&value) else {
        return Err(KernelError::Map { map: name.to_owned(), reason: "holds no seed".to_owned() });
    };
    if configured.is_none_or(|seed| seed == pinned) {
        Ok(Some(pinned))
    } else {
        Err(KernelError::Seed { path })
    }
}

/// Makes the seed that is to be in force. It is written before its map is pinned, so a pinned seed is always a whole one.
fn make_seed(dir: &BpfDir, object: &Object, configured: Option<Seed>) -> Result<Seed, KernelError> {
    let name = names::MAP_SEED;
    let fault = |error: &(dyn std::error::Error + 'static)| KernelError::map(name, error);
    let seed = match configured {
        Some(seed) => seed,
        None => [random().map_err(|error| fault(&error))?, random().map_err(|error| fault(&error))?],
    };
    let map = MapData::create(layout::definition(object, name)?.clone(), name, None)
        .and_then(Map::new)
        .map_err(|error| fault(&error))?;
    map.update(&0_u32.to_ne_bytes(), seed.as_bytes()).map_err(|error| fault(&error))?;
    map.pin(&dir.pin(bpffs::MAPS, name)).map_err(|error| fault(&error))?;
    Ok(seed)
}

fn random() -> Result<u64, rand::rand_core::OsError> {
    OsRng.try_next_u64()
}

/// Relocates the programs onto the pinned maps, making and pinning those that are missing.
fn load(dir: &BpfDir, settings: &Settings<'_>, seed: Seed) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    for name in names::MAPS {
        loader.map_pin_path(name, dir.pin(bpffs::MAPS, name));
    }
    for (name, entries) in settings.sizes() {
        loader.map_max_entries(name, entries);
    }
    let buckets = flow_table::buckets(settings.flows);
    let (key, secret) = (hash::key(seed), flow_table::secret(seed));
    loader
        .override_global(names::GLOBAL_HASH_KEY, &key, true)
        .override_global(names::GLOBAL_FLOW_SECRET, &secret, true)
        .override_global(names::GLOBAL_FLOW_COUNT, &buckets, true)
        // Where the kernel gives none, the programs for sockets are not attached.
        .override_global(names::GLOBAL_NETNS, &host::netns_cookie().unwrap_or(0), true)
        .load(settings.object)
        .map_err(|error| KernelError::Object { reason: words(&error) })
}

/// A program, and the one that it leaves rare packets to.
struct Pair {
    name: &'static str,
    rare: &'static str,
    /// Where it finds that one.
    place: &'static str,
}

const TC: Pair = Pair { name: names::PROGRAM_TC, rare: names::PROGRAM_TC_RARE, place: names::MAP_RARE_TC };
const XDP: Pair =
    Pair { name: names::PROGRAM_XDP, rare: names::PROGRAM_XDP_RARE, place: names::MAP_RARE_XDP };

/// Has the kernel verify both.
fn verify(ebpf: &mut Ebpf, pair: &Pair) -> Result<(), KernelError> {
    for name in [pair.name, pair.rare] {
        match program(ebpf, name)? {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            _ => return Err(KernelError::Object { reason: format!("{name} is of another type") }),
        }
        .map_err(|error| KernelError::Program { program: name, reason: words(&error) })?;
    }
    Ok(())
}

/// Pins both, and puts the second in its place. An earlier daemon's program finds it there too: each begins with the
/// frame as it came.
fn put(dir: &BpfDir, ebpf: &mut Ebpf, pair: &Pair) -> Result<(), KernelError> {
    for name in [pair.name, pair.rare] {
        let program = program(ebpf, name)?;
        links::pin_over(&dir.pin(bpffs::PROGRAMS, name), |path| program.pin(path))?;
    }
    let fault = |error: &(dyn std::error::Error + 'static)| KernelError::map(pair.place, error);
    let data = MapData::from_pin(dir.pin(bpffs::MAPS, pair.place)).map_err(|error| fault(&error))?;
    let mut place =
        ProgramArray::try_from(aya::maps::Map::ProgramArray(data)).map_err(|error| fault(&error))?;
    let rare = program(ebpf, pair.rare)?.fd().map_err(|error| fault(&error))?;
    place.set(0, rare, 0).map_err(|error| fault(&error))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, KernelError> {
    ebpf.program_mut(name).ok_or_else(|| KernelError::Object { reason: format!("it has no program {name}") })
}
