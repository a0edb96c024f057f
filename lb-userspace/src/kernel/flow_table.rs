//! A flow table as the controller sees it: it reads what the programs write, and ends and frees entries.

use std::marker::PhantomData;
use std::mem::offset_of;
use std::path::Path;

use aya::maps::MapData;
use lb_common::flow_table::{self, Bucket, LANES, Place, Secret, WORDS};
use lb_common::{Flow, FlowKey, HalfOpen};
use zerocopy::{FromBytes, IntoBytes};

use super::error::KernelError;
use super::syscall::{Access, Map, Words};
use super::table::Plain;

/// Words of a bucket.
const BUCKET: usize = size_of::<Bucket>() / size_of::<u64>();
/// Words of the longest entry.
const ENTRY: usize = (size_of::<FlowKey>() + size_of::<HalfOpen>()).div_ceil(size_of::<u64>());
/// The word of a bucket that counts its moved flows.
const MOVED: usize = WORDS + 1;

/// Both maps of a table, mapped.
#[derive(Debug)]
pub(super) struct FlowTable<V> {
    buckets: Words,
    count: u32,
    entries: Words,
    /// Words of an entry.
    stride: usize,
    secret: Secret,
    types: PhantomData<fn() -> V>,
}

/// A flow as it was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<V> {
    pub(super) key: FlowKey,
    pub(super) value: V,
    bucket: u32,
    lane: u32,
    /// The word of lanes, when the entry had not been read yet.
    lanes: u64,
}

impl<V: Plain> FlowTable<V> {
    /// Opens the pins in `directory`, whose layouts have been checked.
    pub(super) fn open(
        name: &'static str,
        index: &'static str,
        directory: &Path,
        secret: Secret,
    ) -> Result<Self, KernelError> {
        let open = |name: &'static str| -> Result<(Map, Words), KernelError> {
            let map = MapData::from_pin(directory.join(name)).and_then(Map::new);
            let map = map.map_err(|error| KernelError::map(name, &error))?;
            let words = map.words(Access::Write).map_err(|error| KernelError::map(name, &error))?;
            Ok((map, words))
        };
        let ((entries, entry_words), (buckets, bucket_words)) = (open(name)?, open(index)?);
        Ok(Self {
            buckets: bucket_words,
            count: buckets.entries,
            stride: entries.element_size.div_ceil(size_of::<u64>()),
            entries: entry_words,
            secret,
            types: PhantomData,
        })
    }

    /// Flows that it is for.
    pub(super) fn capacity(&self) -> u64 {
        flow_table::capacity(self.count).into()
    }

    /// The value of a flow.
    pub(super) fn get(&self, key: &FlowKey) -> Option<V> {
        let place = Place::of(key, &self.secret, self.count);
        [place.first, place.second].into_iter().find_map(|bucket| {
            let lane = flow_table::find_in(|word| self.lanes(bucket, word), place.mark)?;
            let found = self.read(bucket, lane, 0)?;
            (found.key == *key).then_some(found.value)
        })
    }

    /// Every flow. One that comes or goes meanwhile may be seen or not.
    pub(super) fn iter(&self) -> impl Iterator<Item = Found<V>> {
        let words = (0..self.count).flat_map(|bucket| (0..WORDS).map(move |word| (bucket, word)));
        words.flat_map(move |(bucket, word)| {
            let lanes = if self.lanes(bucket, word) == 0 { 0..0 } else { 0..LANES };
            lanes.filter_map(move |lane| {
                let lanes = self.lanes(bucket, word);
                if lanes >> (16 * lane) & 0xffff == 0 {
                    return None;
                }
                self.read(bucket, word as u32 * LANES + lane, lanes)
            })
        })
    }

    /// Frees the entry of a flow; `false`: another flow came or went beside it since, so that it may be another's now.
    pub(super) fn free(&self, found: &Found<V>) -> bool {
        let word = found.bucket as usize * BUCKET + (found.lane / LANES) as usize;
        let others = found.lanes & !(0xffff << (16 * (found.lane % LANES)));
        if !self.buckets.replace(word, found.lanes, others) {
            return false;
        }
        let first = Place::of(&found.key, &self.secret, self.count).first;
        if first != found.bucket {
            self.buckets.subtract(first as usize * BUCKET + MOVED, 1);
        }
        true
    }

    fn lanes(&self, bucket: u32, word: usize) -> u64 {
        self.buckets.get(bucket as usize * BUCKET + word).unwrap_or_default()
    }

    /// Reads the value before the key, so that it is the key's own: programs write in the other order.
    fn read(&self, bucket: u32, lane: u32, lanes: u64) -> Option<Found<V>> {
        let first = flow_table::entry(bucket, lane) as usize * self.stride;
        let mut words = [0_u64; ENTRY];
        for (number, word) in words.iter_mut().enumerate().take(self.stride).rev() {
            *word = self.entries.get(first + number)?;
        }
        let (key, rest) = FlowKey::read_from_prefix(words.as_bytes()).ok()?;
        let (value, _) = V::read_from_prefix(rest).ok()?;
        Some(Found { key, value, bucket, lane, lanes })
    }
}

impl FlowTable<Flow> {
    /// Lets a flow's entry expire: from now on it counts as absent. `false`: a packet has changed it since it was
    /// found. Nobody else frees entries of this table, so it is the same flow's still.
    pub(super) fn expire(&self, found: &Found<Flow>, now: u32) -> bool {
        /// The word of an entry that holds the last two fields of its flow.
        const LAST: usize = (size_of::<FlowKey>() + offset_of!(Flow, expires)) / size_of::<u64>();
        let first = flow_table::entry(found.bucket, found.lane) as usize * self.stride;
        let word = |expires: u32| zerocopy::transmute!([expires, found.value.closing]);
        self.entries.replace(first + LAST, word(found.value.expires), word(now.wrapping_sub(1)))
    }
}
