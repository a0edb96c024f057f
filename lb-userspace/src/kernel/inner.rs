//! Maps of maps: the Maglev tables and their `old_seen`, each an array that is built aside, mapped into
//! memory, and put in place by one update.
//!
//! Every inner map is pinned as `<table>-<map id>`: an outer map names its inner maps by id, and opening a
//! map by id takes CAP_SYS_ADMIN, which opening a pin does not. The pin is made before the update and the old
//! one removed after it, so whatever moment the process dies at, the map in place has a pin.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError, MapType};

use lb_common::names;

use super::bpffs::{self, BpfDir};
use super::error::{KernelError, words};
use super::syscall::{Access, Map};
use crate::data_plane::PlaneError;

/// linux/bpf.h; both are part of an inner map's layout and declared alike in the kernel object.
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// An array of maps as it is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// The outer map.
    pub(super) name: &'static str,
    /// The subdirectory of the inner maps' pins.
    pub(super) pins: &'static str,
    /// Bytes of an inner map's value.
    value_size: u32,
}

impl Kind {
    /// Both.
    pub(super) const ALL: [Self; 2] = [TABLES, OLD_SEEN];

    /// An inner map of so many elements. The kernel compares it with the others of its outer map.
    pub(super) fn definition(self, entries: u32) -> aya_obj::Map {
        let flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP;
        aya_obj::Map::new_from_params(MapType::Array as u32, 4, self.value_size, entries, flags)
    }

    /// The pins of all inner maps, each with its table.
    pub(super) fn pinned(self, dir: &BpfDir) -> Result<Vec<(u32, PathBuf)>, KernelError> {
        let names = bpffs::names(&dir.path().join(self.pins))?;
        Ok(names.iter().filter_map(|name| Some((parse(name)?.0, dir.pin(self.pins, name)))).collect())
    }
}

/// Where the slots are.
pub(super) const TABLES: Kind = Kind { name: names::MAP_TABLES, pins: bpffs::TABLES, value_size: 8 };
/// Where it is noted when old flows were seen.
pub(super) const OLD_SEEN: Kind = Kind { name: names::MAP_OLD_SEEN, pins: bpffs::OLD_SEEN, value_size: 4 };

/// Makes an inner map.
fn create(kind: Kind, entries: u32) -> Result<Map, MapError> {
    // The kernel keeps 15 bytes of a name.
    let name = kind.name.get(..15).unwrap_or(kind.name);
    MapData::create(kind.definition(entries), name, None).and_then(Map::new)
}

/// Table and map id of the pin of an inner map.
fn parse(pin: &str) -> Option<(u32, u32)> {
    let (table, id) = pin.split_once('-')?;
    Some((table.parse().ok()?, id.parse().ok()?))
}

/// Makes and pins an empty outer map for inner maps of such values.
///
/// The loader would give the outer map a pattern with type information, and kernels before 6.2 then refuse inner
/// maps that have none (`bpf_map_meta_equal` compares `timer_off`, which differs).
pub(super) fn make(kind: Kind, entries: u32, pin: &Path) -> Result<(), KernelError> {
    let outer = create(kind, 1).and_then(|pattern| pattern.outer(kind.name, entries));
    let outer = outer.map_err(|error| KernelError::map(kind.name, &error))?;
    outer.pin(pin).map_err(|error| KernelError::map(kind.name, &error))
}

/// An array of maps.
#[derive(Debug)]
pub(super) struct MapOfMaps {
    kind: Kind,
    outer: Map,
    /// Pins of the inner maps.
    pins: PathBuf,
}

impl MapOfMaps {
    /// Opens the pin of the outer map.
    pub(super) fn look(kind: Kind, dir: &BpfDir) -> Result<Self, KernelError> {
        let outer = MapData::from_pin(dir.pin(bpffs::MAPS, kind.name))
            .and_then(Map::new)
            .map_err(|error| KernelError::map(kind.name, &error))?;
        Ok(Self { kind, outer, pins: dir.path().join(kind.pins) })
    }

    /// The same, and removes pins of inner maps that are not in place.
    pub(super) fn open(kind: Kind, dir: &BpfDir) -> Result<Self, KernelError> {
        let this = Self::look(kind, dir)?;
        for (table, id) in this.pinned()? {
            let in_place: Option<u32> = this
                .id(table)
                .map_err(|error| KernelError::Map { map: error.object, reason: error.reason })?;
            if in_place != Some(id) {
                bpffs::unpin(&this.pin(table, id))?;
            }
        }
        Ok(this)
    }

    /// The tables that have an array, in order.
    ///
    /// By their pins: before Linux 6.8 every look at a place waits for an RCU grace period (`bpf_map_copy_value` in
    /// kernel/bpf/syscall.c), and there are thousands of places.
    pub(super) fn placed(&self) -> Result<BTreeSet<u32>, PlaneError> {
        let pinned =
            self.pinned().map_err(|error| PlaneError::new(format!("map {}", self.kind.name), error))?;
        Ok(pinned.into_iter().map(|(table, _)| table).collect())
    }

    /// Table and map id of every pin of an inner map.
    fn pinned(&self) -> Result<Vec<(u32, u32)>, KernelError> {
        Ok(bpffs::names(&self.pins)?.iter().filter_map(|name| parse(name)).collect())
    }

    /// The words of a table's array, the value in the first bytes of each; `None`: its place is empty.
    pub(super) fn read(&self, table: u32) -> Result<Option<Vec<u64>>, PlaneError> {
        let Some(inner) = self.inner(table)? else { return Ok(None) };
        let words =
            inner.words(Access::Read).map_err(|error| self.fault(table, "map into memory", &error))?;
        Ok(Some(words.iter().collect()))
    }

    /// Whether a table's array holds exactly this.
    pub(super) fn holds(
        &self,
        table: u32,
        contents: impl ExactSizeIterator<Item = u64>,
    ) -> Result<bool, PlaneError> {
        let Some(inner) = self.inner(table)?.filter(|inner| inner.entries as usize == contents.len()) else {
            return Ok(false);
        };
        let words =
            inner.words(Access::Read).map_err(|error| self.fault(table, "map into memory", &error))?;
        Ok(words.iter().eq(contents))
    }

    /// The number of elements of a table's array.
    pub(super) fn size(&self, table: u32) -> Result<Option<usize>, PlaneError> {
        Ok(self.inner(table)?.map(|inner| inner.entries as usize))
    }

    /// Puts a new array in place. Returns after an RCU grace period, when no program reads the old one.
    pub(super) fn replace(
        &self,
        table: u32,
        contents: impl ExactSizeIterator<Item = u64>,
    ) -> Result<(), PlaneError> {
        let inner = self.filled(table, contents)?;
        let old = self.id(table)?;
        let pin = self.pin(table, inner.id);
        inner.pin(&pin).map_err(|error| self.fault(table, "pin its array", &error))?;
        if let Err(error) = self.outer.update_inner(table, &inner) {
            let fault = self.fault(table, "put its array in place", &error);
            return Err(self.unpinned(table, &pin).err().unwrap_or(fault));
        }
        match old {
            Some(old) => self.unpinned(table, &self.pin(table, old)),
            None => Ok(()),
        }
    }

    /// Puts arrays into places that are empty, all of them in one update.
    pub(super) fn place<C: ExactSizeIterator<Item = u64>>(
        &self,
        mut arrays: impl Iterator<Item = (u32, C)>,
    ) -> Result<(), PlaneError> {
        let mut inners = Vec::new();
        let mut pin = |(table, contents)| {
            let inner = self.filled(table, contents)?;
            let pinned = inner.pin(&self.pin(table, inner.id));
            inners.push((table, inner));
            pinned.map_err(|error| self.fault(table, "pin its array", &error))
        };
        let pinned = arrays.try_for_each(&mut pin);
        let placed = pinned.and_then(|()| {
            self.outer.update_inners(inners.iter().map(|(table, inner)| (*table, inner))).map_err(|error| {
                let reason = format!("cannot put its arrays in place: {}", words(&error));
                PlaneError::new(format!("map {}", self.kind.name), reason)
            })
        });
        if placed.is_err() {
            for (table, inner) in &inners {
                if self.id(*table)? != Some(inner.id) {
                    self.unpinned(*table, &self.pin(*table, inner.id))?;
                }
            }
        }
        placed
    }

    /// A new array, filled.
    fn filled(&self, table: u32, contents: impl ExactSizeIterator<Item = u64>) -> Result<Map, PlaneError> {
        let count = u32::try_from(contents.len()).map_err(|error| self.fault(table, "size", &error))?;
        let inner =
            create(self.kind, count).map_err(|error| self.fault(table, "create its array", &error))?;
        inner
            .words(Access::Write)
            .and_then(|words| words.fill(contents))
            .map_err(|error| self.fault(table, "fill its array", &error))?;
        Ok(inner)
    }

    /// Empties a place.
    pub(super) fn remove(&self, table: u32) -> Result<(), PlaneError> {
        let Some(id) = self.id(table)? else { return Ok(()) };
        self.outer.delete(&table.to_ne_bytes()).map_err(|error| self.fault(table, "remove", &error))?;
        self.unpinned(table, &self.pin(table, id))
    }

    /// The id of the map in place.
    fn id(&self, table: u32) -> Result<Option<u32>, PlaneError> {
        let mut id = [0; 4];
        let found = self
            .outer
            .lookup(&table.to_ne_bytes(), &mut id)
            .map_err(|error| self.fault(table, "look up", &error))?;
        Ok(found.then_some(u32::from_ne_bytes(id)))
    }

    fn inner(&self, table: u32) -> Result<Option<Map>, PlaneError> {
        let Some(id) = self.id(table)? else { return Ok(None) };
        let inner = MapData::from_pin(self.pin(table, id))
            .and_then(Map::new)
            .map_err(|error| self.fault(table, "open the pin of its array", &error))?;
        if inner.element_size != self.kind.value_size as usize {
            let found = inner.element_size;
            let reason = format!(
                "its elements have {found} bytes, not {}: run `sluice cleanup`",
                self.kind.value_size
            );
            return Err(PlaneError::new(self.object(table), reason));
        }
        Ok(Some(inner))
    }

    fn pin(&self, table: u32, id: u32) -> PathBuf {
        self.pins.join(format!("{table}-{id}"))
    }

    fn unpinned(&self, table: u32, pin: &Path) -> Result<(), PlaneError> {
        bpffs::unpin(pin).map(drop).map_err(|error| PlaneError::new(self.object(table), error))
    }

    fn object(&self, table: u32) -> String {
        format!("map {}, key {table}", self.kind.name)
    }

    fn fault(&self, table: u32, doing: &str, error: &(dyn std::error::Error + 'static)) -> PlaneError {
        PlaneError::new(self.object(table), format!("cannot {doing}: {}", words(error)))
    }
}
