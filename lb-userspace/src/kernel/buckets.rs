//! A table that programs look up through buckets: the writer's side of [`lb_common::buckets`].

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::marker::PhantomData;
use std::path::Path;

use aya::maps::MapData;
use lb_common::buckets::{self, EMPTY, FILTER, HOLE, Hash, WAYS};
use zerocopy::IntoBytes;

use super::error::{KernelError, words};
use super::syscall::{Access, Grace, Map, Words};
use super::table::{Key, Plain};
use crate::data_plane::PlaneError;

/// Entries in an array, named by the words of a mapped index. Only one process writes: the holder of the lock
/// on `bpf_dir`.
#[derive(Debug)]
pub(super) struct BucketTable<K, V> {
    name: &'static str,
    entries: Map,
    index: Words,
    /// A power of two.
    buckets: u32,
    /// Keys by word and bit of the filter.
    keys: HashMap<(usize, u64), u32>,
    /// Entries that no program can be reading.
    free: Vec<u32>,
    /// Entries that no word names any more, but that a program may still be reading.
    retired: Vec<u32>,
    grace: Grace,
    types: PhantomData<fn(K) -> V>,
}

/// Where a key stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Of the word, counted over all buckets.
    word: usize,
    entry: u32,
}

impl<K: Key + buckets::Key, V: Plain> BucketTable<K, V> {
    /// Opens the pins of the entries and of their index in `directory`, whose layouts have been checked.
    /// Words that do not name an entry of their own hash are taken back: one of the two pins was lost.
    pub(super) fn open(
        name: &'static str,
        index: &'static str,
        directory: &Path,
    ) -> Result<Self, KernelError> {
        let open = |name: &'static str| {
            let data = MapData::from_pin(directory.join(name));
            data.and_then(Map::new).map_err(|error| KernelError::map(name, &error))
        };
        let (entries, buckets) = (open(name)?, open(index)?);
        let fault = |error: &(dyn std::error::Error + 'static)| KernelError::map(index, error);
        let table = Self {
            name,
            index: buckets.words(Access::Write).map_err(|error| fault(&error))?,
            buckets: buckets.entries - FILTER,
            keys: HashMap::new(),
            free: Vec::new(),
            retired: Vec::new(),
            grace: Grace::new().map_err(|error| fault(&error))?,
            types: PhantomData,
            entries,
        };
        table.adopt().map_err(|error| KernelError::Map { map: error.object, reason: error.reason })
    }

    /// Sorts the entries into used and unused ones. Of the unused ones nobody knows since when.
    fn adopt(mut self) -> Result<Self, PlaneError> {
        let mut unused = vec![true; self.entries.entries as usize];
        for (word, value) in self.named().collect::<Vec<_>>() {
            let entry = value as u32;
            let place = unused.get_mut(entry as usize).filter(|unused| **unused && entry != 0);
            let (key, _) = self.read(entry)?;
            let hash = key.hash();
            match place {
                Some(unused) if hash.word(entry) == value && self.places(hash).any(|place| place == word) => {
                    *unused = false;
                    *self.keys.entry(self.filter(hash)).or_default() += 1;
                }
                _ => self.withdraw(word)?,
            }
        }
        self.write_filter()?;
        // The lowest are taken first: entries in use lie close together.
        self.retired = (1..self.entries.entries).rev().filter(|entry| is_set(&unused, *entry)).collect();
        Ok(self)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, PlaneError> {
        let place = self.find(key)?;
        place.map(|place| self.read(place.entry).map(|(_, value)| value)).transpose()
    }

    /// Sets the value of a key. Whoever looks it up meanwhile finds the old one or this one.
    pub(super) fn put(&mut self, key: &K, value: &V) -> Result<(), PlaneError> {
        let hash = key.hash();
        let old = self.find(key)?;
        let word = match old {
            Some(place) => place.word,
            None => self.vacancy(hash).ok_or_else(|| self.crowded(key))?,
        };
        let entry = self.allocate(key)?;
        let bytes = [key.as_bytes(), value.as_bytes()].concat();
        if let Err(error) = self.entries.update(entry.as_bytes(), &bytes) {
            self.free.push(entry);
            return Err(self.fault(key, "write", &error));
        }
        if old.is_none() {
            self.set_bit(hash)?;
        }
        self.publish(word, hash.word(entry))?;
        self.retired.extend(old.map(|place| place.entry));
        Ok(())
    }

    /// Deletes a key; `false`: it was not there.
    pub(super) fn delete(&mut self, key: &K) -> Result<bool, PlaneError> {
        let Some(place) = self.find(key)? else { return Ok(false) };
        self.withdraw(place.word)?;
        self.retired.push(place.entry);
        self.clear_bit(key.hash())?;
        Ok(true)
    }

    /// All keys with their values.
    pub(super) fn entries(&self) -> Result<Vec<(K, V)>, PlaneError> {
        self.named().map(|(_, value)| self.read(value as u32)).collect()
    }

    /// The words that name entries, with their places.
    fn named(&self) -> impl Iterator<Item = (usize, u64)> {
        let words = self.index.iter().take(self.buckets as usize * WAYS).enumerate();
        words.filter(|(_, value)| *value != EMPTY && *value != HOLE)
    }

    fn find(&self, key: &K) -> Result<Option<Place>, PlaneError> {
        let hash = key.hash();
        match self.search(hash) {
            Some(place) if self.read(place.entry)?.0 == *key => Ok(Some(place)),
            _ => Ok(None),
        }
    }

    /// As the programs search.
    fn search(&self, hash: Hash) -> Option<Place> {
        let words = self.places(hash).map(|word| (word, self.word(word)));
        let mut words = words.take_while(|(_, value)| *value != EMPTY);
        words.find_map(|(word, value)| hash.candidate(value).map(|entry| Place { word, entry }))
    }

    /// The words that may name a key, in the order in which they are searched.
    fn places(&self, hash: Hash) -> impl Iterator<Item = usize> + use<K, V> {
        [hash.first(self.buckets), hash.second(self.buckets)]
            .into_iter()
            .flat_map(|bucket| (0..WAYS).map(move |way| bucket as usize * WAYS + way))
    }

    fn word(&self, place: usize) -> u64 {
        self.index.get(place).unwrap_or(EMPTY)
    }

    /// Where a new key can stand.
    fn vacancy(&self, hash: Hash) -> Option<usize> {
        let vacant = self.places(hash).find(|place| matches!(self.word(*place), EMPTY | HOLE));
        vacant.filter(|_| self.search(hash).is_none())
    }

    /// Takes a word back. Only the last of those in use, and never the last of a bucket, becomes empty again:
    /// a search would stop there, before keys that stand behind it or in their second bucket.
    fn withdraw(&self, word: usize) -> Result<(), PlaneError> {
        let is_last = word % WAYS != WAYS - 1 && self.word(word + 1) == EMPTY;
        self.publish(word, if is_last { EMPTY } else { HOLE })
    }

    /// The word of the filter that has a key's bit, and the bit.
    fn filter(&self, hash: Hash) -> (usize, u64) {
        let (element, word, bit) = hash.filter();
        ((self.buckets + element) as usize * WAYS + word, bit)
    }

    /// Lets programs search for a key.
    fn set_bit(&mut self, hash: Hash) -> Result<(), PlaneError> {
        let (word, bit) = self.filter(hash);
        self.publish(word, self.word(word) | bit)?;
        *self.keys.entry((word, bit)).or_default() += 1;
        Ok(())
    }

    /// A key is gone: clears its bit unless another key has it too.
    fn clear_bit(&mut self, hash: Hash) -> Result<(), PlaneError> {
        let (word, bit) = self.filter(hash);
        let keys = self.keys.entry((word, bit)).or_default();
        *keys = keys.saturating_sub(1);
        if *keys == 0 { self.publish(word, self.word(word) & !bit) } else { Ok(()) }
    }

    /// Makes the filter say what [`Self::keys`] says.
    fn write_filter(&self) -> Result<(), PlaneError> {
        let first = self.buckets as usize * WAYS;
        let mut filter: BTreeMap<_, u64> =
            (first..first + FILTER as usize * WAYS).map(|word| (word, 0)).collect();
        for (word, bit) in self.keys.keys() {
            *filter.entry(*word).or_default() |= bit;
        }
        filter.into_iter().try_for_each(|(word, bits)| self.publish(word, bits))
    }

    fn publish(&self, word: usize, value: u64) -> Result<(), PlaneError> {
        self.index.publish(word, value).map_err(|error| {
            PlaneError::new(
                format!("index of map {}, word {word}", self.name),
                format!("cannot write it: {error}"),
            )
        })
    }

    fn read(&self, entry: u32) -> Result<(K, V), PlaneError> {
        read(self.name, &self.entries, entry)
    }

    /// An entry that no program is reading.
    fn allocate(&mut self, key: &K) -> Result<u32, PlaneError> {
        if self.free.is_empty() && !self.retired.is_empty() {
            self.grace.wait().map_err(|error| self.fault(key, "wait for the programs to write", &error))?;
            self.free.append(&mut self.retired);
        }
        self.free.pop().ok_or_else(|| {
            let reason =
                format!("cannot write the entry: it is full, all {} are in use", self.entries.entries - 1);
            PlaneError::new(self.object(key), reason)
        })
    }

    fn crowded(&self, key: &K) -> PlaneError {
        let reason =
            "cannot write the entry: other keys with a hash like it take its places (cure: another port)";
        PlaneError::new(self.object(key), reason.to_owned())
    }

    fn fault(&self, key: &K, doing: &str, error: &io::Error) -> PlaneError {
        PlaneError::new(self.object(key), format!("cannot {doing} the entry: {error}"))
    }

    fn object(&self, key: &K) -> String {
        format!("map {}, key {}", self.name, key.show())
    }
}

/// All keys with their values, without the table: for who changes nothing. Words are believed.
pub(super) fn look<K: Key, V: Plain>(
    name: &'static str,
    index: &'static str,
    directory: &Path,
) -> Result<Vec<(K, V)>, KernelError> {
    let open = |name: &'static str| {
        let data = MapData::from_pin(directory.join(name));
        data.and_then(Map::new).map_err(|error| KernelError::map(name, &error))
    };
    let (entries, buckets) = (open(name)?, open(index)?);
    let count = buckets.entries.saturating_sub(FILTER) as usize * WAYS;
    let index = buckets.words(Access::Read).map_err(|error| KernelError::map(index, &error))?;
    let named = index.iter().take(count).filter(|word| *word != EMPTY && *word != HOLE);
    let found = named.map(|word| read(name, &entries, word as u32)).collect::<Result<_, _>>();
    found.map_err(|error| KernelError::Map { map: error.object, reason: error.reason })
}

fn read<K: Key, V: Plain>(name: &str, entries: &Map, entry: u32) -> Result<(K, V), PlaneError> {
    let mut bytes = entries.value_buffer();
    let found = entries.lookup(entry.as_bytes(), &mut bytes);
    let parsed = K::read_from_prefix(&bytes).ok().and_then(|(key, rest)| {
        let (value, _) = V::read_from_prefix(rest).ok()?;
        Some((key, value))
    });
    let fault = |reason| PlaneError::new(format!("map {name}, entry {entry}"), reason);
    match (found, parsed) {
        (Ok(true), Some(entry)) => Ok(entry),
        (Err(error), _) => Err(fault(format!("cannot read it: {}", words(&error)))),
        _ => Err(fault("does not exist: run `sluice cleanup`".to_owned())),
    }
}

fn is_set(flags: &[bool], index: u32) -> bool {
    flags.get(index as usize).copied().unwrap_or_default()
}
