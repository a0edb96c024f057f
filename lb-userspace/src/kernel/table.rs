//! Typed access to one map: keys and values as their types, errors that name the map and the key.

use std::io;
use std::marker::PhantomData;
use std::path::Path;

use aya::maps::MapData;
use lb_common::{Address, FlowKey, SocketKey, Station};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::error::{KernelError, words};
use super::syscall::{Batch, Cursor, Map};
use crate::data_plane::PlaneError;

/// Entries asked for in one batch: half a megabyte of buffers for the largest type.
const BATCH: usize = 4096;

/// What crosses between a map and this process.
pub(super) trait Plain: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy> Plain for T {}

/// How errors name a key.
pub(super) trait Key: Plain {
    /// In a few words.
    fn show(&self) -> String;
}

impl Key for u32 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Key for SocketKey {
    fn show(&self) -> String {
        format!("{} protocol {}", self.socket(), self.protocol)
    }
}

impl Key for Address {
    fn show(&self) -> String {
        self.ip().to_string()
    }
}

impl Key for Station {
    fn show(&self) -> String {
        format!("{} on interface {}", self.vip.ip(), self.ifindex)
    }
}

impl Key for FlowKey {
    fn show(&self) -> String {
        format!("client {} port {} service {:#x}", self.client.ip(), self.port.get(), self.service.0)
    }
}

/// A hash, array or LPM map of one value per key.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    name: &'static str,
    map: Map,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Key, V: Plain> Table<K, V> {
    /// Opens the pin of a map in `directory`. Its layout has been checked when it was pinned or adopted.
    pub(super) fn open(name: &'static str, directory: &Path) -> Result<Self, KernelError> {
        let path = directory.join(name);
        let map =
            MapData::from_pin(&path).and_then(Map::new).map_err(|error| KernelError::map(name, &error))?;
        Ok(Self { name, map, types: PhantomData })
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, PlaneError> {
        let mut value = V::new_zeroed();
        match self.map.lookup(key.as_bytes(), value.as_mut_bytes()) {
            Ok(true) => Ok(Some(value)),
            Ok(false) => Ok(None),
            Err(error) => Err(self.fault(key, "read", &error)),
        }
    }

    /// Sets the value of a key.
    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), PlaneError> {
        self.map.update(key.as_bytes(), value.as_bytes()).map_err(|error| self.fault(key, "write", &error))
    }

    /// Deletes a key; `false`: it was not there.
    pub(super) fn delete(&self, key: &K) -> Result<bool, PlaneError> {
        self.map.delete(key.as_bytes()).map_err(|error| self.fault(key, "delete", &error))
    }

    /// Calls `each` with batch after batch of entries. Entries that come, go or change meanwhile may be seen
    /// or not; all others are seen once.
    pub(super) fn scan(
        &self,
        mode: Batch,
        mut each: impl FnMut(&[K], &[V]) -> Result<(), PlaneError>,
    ) -> Result<(), PlaneError> {
        let mut cursor = Cursor::default();
        let mut size = BATCH.min(self.map.entries as usize);
        let mut keys = vec![K::new_zeroed(); size];
        let mut values = vec![V::new_zeroed(); size];
        loop {
            match self.map.batch(mode, &mut cursor, keys.as_mut_bytes(), values.as_mut_bytes()) {
                Ok((count, more)) => {
                    each(keys.get(..count).unwrap_or(&[]), values.get(..count).unwrap_or(&[]))?;
                    if !more {
                        return Ok(());
                    }
                }
                // One bucket holds more than the buffers.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && size < usize::MAX / 2 => {
                    size *= 2;
                    keys.resize(size, K::new_zeroed());
                    values.resize(size, V::new_zeroed());
                }
                Err(error) => {
                    return Err(PlaneError::new(
                        format!("map {}", self.name),
                        format!("cannot read all entries: {error}"),
                    ));
                }
            }
        }
    }

    fn fault(&self, key: &K, doing: &str, error: &io::Error) -> PlaneError {
        let cause = if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) {
            format!("it is full, or the index lies beyond its {} entries", self.map.entries)
        } else {
            error.to_string()
        };
        PlaneError::new(
            format!("map {}, key {}", self.name, key.show()),
            format!("cannot {doing} the entry: {cause}"),
        )
    }
}

/// A per-CPU array of `u64` words, such as counters.
#[derive(Debug)]
pub(super) struct PerCpu {
    name: &'static str,
    map: Map,
}

impl PerCpu {
    /// Opens the pin of a map in `directory`.
    pub(super) fn open(name: &'static str, directory: &Path) -> Result<Self, KernelError> {
        let path = directory.join(name);
        let map =
            MapData::from_pin(&path).and_then(Map::new).map_err(|error| KernelError::map(name, &error))?;
        Ok(Self { name, map })
    }

    /// The words of one entry, each summed over all CPUs.
    pub(super) fn sum<V: Plain>(&self, index: u32) -> Result<V, PlaneError> {
        let mut per_cpu = self.map.value_buffer();
        let found =
            self.map.lookup(index.as_bytes(), &mut per_cpu).map_err(|error| self.fault(index, &error))?;
        if !found {
            return Err(self.fault(index, &io::ErrorKind::NotFound.into()));
        }
        let mut sums = vec![0_u64; self.map.element_size / size_of::<u64>()];
        for cpu in per_cpu.chunks_exact(self.map.element_size.next_multiple_of(size_of::<u64>()).max(1)) {
            for (sum, word) in sums.iter_mut().zip(cpu.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
        V::read_from_bytes(sums.as_bytes())
            .map_err(|_| self.fault(index, &io::Error::other("value of another size than expected")))
    }

    /// Moves what one entry holds to another, on all CPUs. No program may count in either meanwhile.
    pub(super) fn shift(&self, from: u32, to: u32) -> Result<(), PlaneError> {
        let (mut shifted, mut sum) = (self.map.value_buffer(), self.map.value_buffer());
        for (index, values) in [(from, &mut shifted), (to, &mut sum)] {
            self.map.lookup(index.as_bytes(), values).map_err(|error| self.fault(index, &error))?;
        }
        for (sum, word) in sum.as_chunks_mut::<8>().0.iter_mut().zip(shifted.as_chunks::<8>().0) {
            *sum = u64::from_ne_bytes(*sum).wrapping_add(u64::from_ne_bytes(*word)).to_ne_bytes();
        }
        // Dying in between counts twice what should not be lost.
        self.map.update(to.as_bytes(), &sum).map_err(|error| self.fault(to, &error))?;
        self.map.update(from.as_bytes(), &self.map.value_buffer()).map_err(|error| self.fault(from, &error))
    }

    fn fault(&self, index: u32, error: &io::Error) -> PlaneError {
        PlaneError::new(format!("map {}, key {index}", self.name), words(error))
    }
}
