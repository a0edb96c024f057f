//! Loads the programs onto the pinned maps, making what is missing.

use std::path::Path;

use aya::maps::{MapData, MapInfo, ProgramArray};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;
use lb_common::hash::Seed;
use lb_common::{flow_table, limits, names};
use rand::TryRngCore;
use rand::rngs::OsRng;
use zerocopy::{FromBytes, IntoBytes};

use super::attach::Programs;
use super::bpffs::{self, BpfDir};
use super::error::{KernelError, words};
use super::inner;
use super::links;
use super::maps::Tables;
use super::syscall::{self, Map};
use crate::model::Plane;

/// What the kernel planes are opened with.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Where everything is pinned.
    pub bpf_dir: &'a Path,
    /// Capacity of the flow table.
    pub flows: u32,
    /// Backends that the maps have room for.
    pub backends: u32,
    /// The hash seed; `None`: the pinned one, else a random one.
    pub hash_seed: Option<Seed>,
    /// The kernel object.
    pub object: &'a [u8],
}

impl Settings<'_> {
    /// The maps whose size follows from the config, with their entries.
    fn sizes(&self) -> [(&'static str, u32); 8] {
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
        let maps = check_layouts(&dir, &object, settings)?;
        let seed = open_seed(&dir, &object, settings.hash_seed)?;
        for (name, value_size) in inner::MAPS_OF_MAPS.into_iter().filter(|(name, _)| !maps.contains(name)) {
            let entries = definition(&object, name)?.max_entries();
            inner::make(name, value_size, entries, &dir.pin(bpffs::MAPS, name))?;
        }
        let mut ebpf = load(&dir, settings, seed)?;
        pair(&dir, &mut ebpf, names::PROGRAM_TC, names::PROGRAM_TC_RARE, names::MAP_RARE_TC)?;
        // tc needs less of the kernel (XDP on frames in several buffers: 5.18), so it may be left alone.
        let xdp = pair(&dir, &mut ebpf, names::PROGRAM_XDP, names::PROGRAM_XDP_RARE, names::MAP_RARE_XDP)
            .map_err(|error| error.to_string());
        let programs = Programs::new(dir, ebpf, xdp);
        let tables = Tables::open(programs.dir(), seed)?;
        let links =
            links::list(programs.dir())?.iter().map(|link| (link.ifindex, link.hook.plane())).collect();
        Ok((Self { programs, tables, seed }, Adopted { maps, links }))
    }
}

/// The object's definition of a map, with what the config says about it.
fn definition<'a>(object: &'a Object, name: &str) -> Result<&'a aya_obj::Map, KernelError> {
    object.maps.get(name).ok_or_else(|| KernelError::Object { reason: format!("it has no map {name}") })
}

/// Compares every pinned map with what this build needs; returns those that are pinned.
fn check_layouts(
    dir: &BpfDir,
    object: &Object,
    settings: &Settings<'_>,
) -> Result<Vec<&'static str>, KernelError> {
    let mut pinned = Vec::new();
    for name in names::MAPS {
        let path = dir.pin(bpffs::MAPS, name);
        let definition = definition(object, name)?;
        if !path.try_exists().map_err(KernelError::file(&path, "look for"))? {
            continue;
        }
        let found = MapInfo::from_pin(&path).map_err(|error| KernelError::map(*name, &error))?;
        let found_type = found.map_type().map_err(|error| KernelError::map(*name, &error))? as u32;
        let configured = settings.sizes().into_iter().find(|(map, _)| map == name);
        let entries = configured.map_or(definition.max_entries(), |(_, entries)| entries);
        let facts = [
            ("type", found_type, definition.map_type()),
            ("key size", found.key_size(), definition.key_size()),
            ("value size", found.value_size(), definition.value_size()),
            ("flags", found.map_flags(), definition.map_flags()),
            ("capacity", found.max_entries(), entries),
        ];
        for (what, pinned, needed) in facts {
            if pinned != needed {
                let cleanup = "stop sluice and run `sluice cleanup` (ends open connections)";
                let (pinned, needed, cure) = match *name {
                    names::MAP_FLOWS if what == "capacity" => {
                        let pinned = flow_table::capacity(pinned / flow_table::WAYS);
                        (pinned, settings.flows, format!("set kernel.flows = {pinned}, or {cleanup}"))
                    }
                    names::MAP_ENDPOINTS if what == "capacity" => {
                        let pinned = pinned.saturating_sub(limits::SPARE_ENTRIES);
                        (pinned, settings.backends, format!("set kernel.backends = {pinned}, or {cleanup}"))
                    }
                    _ => (pinned, needed, cleanup.to_owned()),
                };
                let (pinned, needed) = (pinned.into(), needed.into());
                return Err(KernelError::Layout { path, what, pinned, needed, cure });
            }
        }
        pinned.push(*name);
    }
    Ok(pinned)
}

/// The seed in force. It is written before its map is pinned, so a pinned seed is always a whole one.
fn open_seed(dir: &BpfDir, object: &Object, configured: Option<Seed>) -> Result<Seed, KernelError> {
    let name = names::MAP_SEED;
    let path = dir.pin(bpffs::MAPS, name);
    let fault = |error: &(dyn std::error::Error + 'static)| KernelError::map(name, error);
    let index = 0_u32.to_ne_bytes();
    if path.try_exists().map_err(KernelError::file(&path, "look for"))? {
        let map = MapData::from_pin(&path).and_then(Map::new).map_err(|error| fault(&error))?;
        let mut value = map.value_buffer();
        map.lookup(&index, &mut value).map_err(|error| fault(&error))?;
        let Ok(pinned) = Seed::read_from_bytes(&value) else {
            return Err(KernelError::Map { map: name.to_owned(), reason: "holds no seed".to_owned() });
        };
        return if configured.is_none_or(|seed| seed == pinned) {
            Ok(pinned)
        } else {
            Err(KernelError::Seed { path })
        };
    }
    let seed = match configured {
        Some(seed) => seed,
        None => [random().map_err(|error| fault(&error))?, random().map_err(|error| fault(&error))?],
    };
    let map = MapData::create(definition(object, name)?.clone(), name, None)
        .and_then(Map::new)
        .map_err(|error| fault(&error))?;
    map.update(&index, seed.as_bytes()).map_err(|error| fault(&error))?;
    map.pin(&path).map_err(|error| fault(&error))?;
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
    let secret = flow_table::secret(seed);
    loader
        .override_global(names::GLOBAL_SEED, &seed, true)
        .override_global(names::GLOBAL_FLOW_SECRET, &secret, true)
        .override_global(names::GLOBAL_FLOW_COUNT, &buckets, true)
        // Where the kernel gives none, the programs for sockets are not attached.
        .override_global(names::GLOBAL_NETNS, &syscall::netns_cookie().unwrap_or(0), true)
        .load(settings.object)
        .map_err(|error| KernelError::Object { reason: words(&error) })
}

/// Has the kernel verify a program and the one that it leaves rare packets to, and puts the second in its place.
/// An earlier daemon's programs find it there too: each begins with the frame as it came.
fn pair(
    dir: &BpfDir,
    ebpf: &mut Ebpf,
    name: &'static str,
    rare: &'static str,
    map: &'static str,
) -> Result<(), KernelError> {
    verify(dir, ebpf, name)?;
    verify(dir, ebpf, rare)?;
    let fault = |error: &(dyn std::error::Error + 'static)| KernelError::map(map, error);
    let data = MapData::from_pin(dir.pin(bpffs::MAPS, map)).map_err(|error| fault(&error))?;
    let mut place =
        ProgramArray::try_from(aya::maps::Map::ProgramArray(data)).map_err(|error| fault(&error))?;
    let Some(program) = ebpf.program(rare) else {
        return Err(KernelError::Object { reason: format!("it has no program {rare}") });
    };
    let program = program.fd().map_err(|error| fault(&error))?;
    place.set(0, program, 0).map_err(|error| fault(&error))
}

/// Has the kernel verify one program, and pins it.
fn verify(dir: &BpfDir, ebpf: &mut Ebpf, name: &'static str) -> Result<(), KernelError> {
    let refused = |error: &(dyn std::error::Error + 'static)| KernelError::Program {
        program: name,
        reason: words(error),
    };
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| KernelError::Object { reason: format!("it has no program {name}") })?;
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => return Err(KernelError::Object { reason: format!("{name} is of another type") }),
    }
    .map_err(|error| refused(&error))?;
    links::pin_over(&dir.pin(bpffs::PROGRAMS, name), |path| program.pin(path))
}
