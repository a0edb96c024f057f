//! Whether this build can take over what is pinned. Every map is looked at before anything is changed: what does not fit
//! is refused by name, and what is attached goes on forwarding as it was.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aya::maps::{MapData, MapInfo, MapType};
use aya_obj::Object;
use lb_common::layout::LAYOUT;
use lb_common::{flow_table, limits, names};

use super::bpffs::{self, BpfDir};
use super::error::KernelError;
use super::load::Settings;
use super::syscall::Map;
use super::{buckets, inner};

/// The way past maps that do not fit, where there is no other.
const CLEANUP: &str = "stop sluice and run `sluice cleanup` (ends open connections)";

/// Compares everything that is pinned with what this build needs; returns the maps that are pinned.
pub(super) fn check(
    dir: &BpfDir,
    object: &Object,
    settings: &Settings<'_>,
) -> Result<Vec<&'static str>, KernelError> {
    let mut pinned = Vec::new();
    for name in names::MAPS.iter().copied() {
        if is_there(dir, name)? {
            pinned.push(name);
        }
    }
    check_number(dir, !pinned.is_empty())?;
    for name in names::MAPS.iter().copied() {
        let needed = needed(object, name, settings)?;
        if pinned.contains(&name) {
            compare(name, dir.pin(bpffs::MAPS, name), needed, settings)?;
        } else {
            check_unused(dir, name)?;
        }
    }
    let mut sizes = BTreeMap::new();
    for kind in inner::Kind::ALL {
        let needed = Needed { entries: None, ..Needed::of(&kind.definition(1)) };
        for (table, pin) in kind.pinned(dir)? {
            let entries = compare(kind.name, pin, needed, settings)?;
            if kind.name == names::MAP_TABLES {
                sizes.insert(table, entries);
            }
        }
    }
    if [names::MAP_SERVICES, names::MAP_SERVICE_BUCKETS].iter().all(|name| pinned.contains(name)) {
        let maps = &dir.path().join(bpffs::MAPS);
        let services = buckets::look(names::MAP_SERVICES, names::MAP_SERVICE_BUCKETS, maps)?;
        settings.tables.check(&services.into_iter().collect(), &sizes)?;
    }
    Ok(pinned)
}

/// Writes down beside the maps which layout they have. It is written before its map is pinned, and pinned before all
/// others, so whatever moment this process dies at, maps of this build are known as such.
pub(super) fn record(dir: &BpfDir) -> Result<(), KernelError> {
    let name = names::MAP_LAYOUT;
    if is_there(dir, name)? {
        return Ok(());
    }
    let fault = |error: &(dyn std::error::Error + 'static)| KernelError::map(name, error);
    let definition = aya_obj::Map::new_from_params(MapType::Array as u32, 4, 4, 1, 0);
    let map = MapData::create(definition, name, None).and_then(Map::new).map_err(|error| fault(&error))?;
    map.update(&0_u32.to_ne_bytes(), &LAYOUT.to_ne_bytes()).map_err(|error| fault(&error))?;
    map.pin(&dir.pin(bpffs::MAPS, name)).map_err(|error| fault(&error))
}

/// The object's definition of a map.
pub(super) fn definition<'a>(object: &'a Object, name: &str) -> Result<&'a aya_obj::Map, KernelError> {
    object.maps.get(name).ok_or_else(|| KernelError::Object { reason: format!("it has no map {name}") })
}

fn is_there(dir: &BpfDir, name: &str) -> Result<bool, KernelError> {
    let path = dir.pin(bpffs::MAPS, name);
    path.try_exists().map_err(KernelError::file(&path, "look for"))
}

/// What the maps mean, which their sizes do not tell.
fn check_number(dir: &BpfDir, has_maps: bool) -> Result<(), KernelError> {
    let path = dir.pin(bpffs::MAPS, names::MAP_LAYOUT);
    let pinned = if is_there(dir, names::MAP_LAYOUT)? {
        let fault = |error: &(dyn std::error::Error + 'static)| KernelError::map(names::MAP_LAYOUT, error);
        let map = MapData::from_pin(&path).and_then(Map::new).map_err(|error| fault(&error))?;
        let mut number = [0; 4];
        map.lookup(&0_u32.to_ne_bytes(), &mut number).map_err(|error| fault(&error))?;
        u32::from_ne_bytes(number)
    } else if has_maps {
        // From before layouts were numbered.
        0
    } else {
        return Ok(());
    };
    if pinned == LAYOUT { Ok(()) } else { Err(KernelError::OtherLayout { path, pinned, needed: LAYOUT }) }
}

/// A map that is not pinned is made anew. Where a program is attached it has that map already, and what the programs have
/// put there would be lost.
fn check_unused(dir: &BpfDir, name: &'static str) -> Result<(), KernelError> {
    for links in [bpffs::LINKS, bpffs::LOCAL] {
        if let Some(link) = bpffs::names(&dir.path().join(links))?.into_iter().next() {
            let (path, link) = (dir.pin(bpffs::MAPS, name), dir.pin(links, &link));
            return Err(KernelError::MissingMap { path, link });
        }
    }
    Ok(())
}

/// What the kernel has to say of a map.
#[derive(Clone, Copy)]
struct Needed {
    kind: u32,
    key_size: u32,
    value_size: u32,
    flags: u32,
    /// `None`: they may differ.
    entries: Option<u32>,
}

impl Needed {
    fn of(definition: &aya_obj::Map) -> Self {
        Self {
            kind: definition.map_type(),
            key_size: definition.key_size(),
            value_size: definition.value_size(),
            flags: definition.map_flags(),
            entries: Some(definition.max_entries()),
        }
    }
}

/// The object's definition of a map with what the config says of it.
fn needed(object: &Object, name: &str, settings: &Settings<'_>) -> Result<Needed, KernelError> {
    let needed = Needed::of(definition(object, name)?);
    let configured = settings.sizes().into_iter().find(|(map, _)| *map == name);
    Ok(configured.map_or(needed, |(_, entries)| Needed { entries: Some(entries), ..needed }))
}

/// The entries of a map that is as it has to be.
fn compare(
    name: &'static str,
    path: PathBuf,
    needed: Needed,
    settings: &Settings<'_>,
) -> Result<u32, KernelError> {
    let fault = |error: &(dyn std::error::Error + 'static)| KernelError::map(name, error);
    let found = MapInfo::from_pin(&path).map_err(|error| fault(&error))?;
    let kind = found.map_type().map_err(|error| fault(&error))? as u32;
    let facts = [
        ("type", kind, needed.kind),
        ("key size", found.key_size(), needed.key_size),
        ("value size", found.value_size(), needed.value_size),
        ("flags", found.map_flags(), needed.flags),
        ("capacity", found.max_entries(), needed.entries.unwrap_or(found.max_entries())),
    ];
    let Some((what, pinned, needed)) = facts.into_iter().find(|(_, pinned, needed)| pinned != needed) else {
        return Ok(found.max_entries());
    };
    let (pinned, needed, cure) = match name {
        names::MAP_FLOWS if what == "capacity" => {
            let pinned = flow_table::capacity(pinned / flow_table::WAYS);
            (pinned, settings.flows, format!("set kernel.flows = {pinned}, or {CLEANUP}"))
        }
        names::MAP_ENDPOINTS if what == "capacity" => {
            let pinned = pinned.saturating_sub(limits::SPARE_ENTRIES);
            (pinned, settings.backends, format!("set kernel.backends = {pinned}, or {CLEANUP}"))
        }
        _ => (pinned, needed, CLEANUP.to_owned()),
    };
    let (pinned, needed) = (pinned.into(), needed.into());
    Err(KernelError::Layout { path, what, pinned, needed, cure })
}
