//! Puts flows into a loaded flow table, as if a program had seen them. No program may run meanwhile.

use std::marker::PhantomData;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{Array, Map, MapData};
use lb_common::FlowKey;
use lb_common::flow_table::{self, Bucket, LANES, Place, Secret};
use lb_common::hash::Seed;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Both maps of a table whose entries have `N` bytes.
pub struct FlowMap<V, const N: usize> {
    buckets: Array<MapData, Bucket>,
    entries: Array<MapData, [u8; N]>,
    secret: Secret,
    types: PhantomData<V>,
}

impl<V: FromBytes + IntoBytes + Immutable, const N: usize> FlowMap<V, N> {
    /// Opens the pins in the folder `maps`.
    ///
    /// # Errors
    /// There are none.
    pub fn open(maps: &Path, entries: &str, buckets: &str, seed: Seed) -> Result<Self> {
        let open = |name: &str| MapData::from_pin(maps.join(name)).with_context(|| format!("map {name}"));
        Ok(Self {
            buckets: Array::try_from(Map::Array(open(buckets)?))?,
            entries: Array::try_from(Map::Array(open(entries)?))?,
            secret: flow_table::secret(seed),
            types: PhantomData,
        })
    }

    /// Adds a flow to its first bucket, or to its second where another flow of its mark is in the way; in place of
    /// itself if it is there.
    ///
    /// # Errors
    /// There is no room, or the kernel refuses.
    pub fn insert(&mut self, key: &FlowKey, value: &V) -> Result<()> {
        let place = self.place(key);
        for number in [place.first, place.second] {
            let mut bucket = self.buckets.get(&number, 0)?;
            let find = |mark| flow_table::find_in(|word| bucket.lanes[word], mark);
            let Some(lane) = find(place.mark).or_else(|| find(0)) else { continue };
            let is_marked = find(place.mark).is_some();
            if is_marked && !self.is_at(number, lane, key)? {
                continue;
            }
            let bytes = [key.as_bytes(), value.as_bytes()].concat();
            let bytes = <[u8; N]>::try_from(bytes).map_err(|bytes| anyhow!("{} bytes", bytes.len()))?;
            self.entries.set(flow_table::entry(number, lane), bytes, 0)?;
            set(&mut bucket, lane, place.mark);
            self.buckets.set(number, bucket, 0)?;
            if number != place.first && !is_marked {
                self.add_moved(place.first, 1)?;
            }
            return Ok(());
        }
        bail!("no room for {key:?}")
    }

    /// Takes a flow out.
    ///
    /// # Errors
    /// It is not there, or the kernel refuses.
    pub fn remove(&mut self, key: &FlowKey) -> Result<()> {
        let place = self.place(key);
        for number in [place.first, place.second] {
            let mut bucket = self.buckets.get(&number, 0)?;
            let Some(lane) = flow_table::find_in(|word| bucket.lanes[word], place.mark) else { continue };
            if self.is_at(number, lane, key)? {
                set(&mut bucket, lane, 0);
                self.buckets.set(number, bucket, 0)?;
                return if number == place.first { Ok(()) } else { self.add_moved(place.first, u64::MAX) };
            }
        }
        bail!("{key:?} is not there")
    }

    /// What is remembered of a flow.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn get(&self, key: &FlowKey) -> Result<Option<V>> {
        let place = self.place(key);
        for number in [place.first, place.second] {
            let bucket = self.buckets.get(&number, 0)?;
            let Some(lane) = flow_table::find_in(|word| bucket.lanes[word], place.mark) else { continue };
            let entry = self.entries.get(&flow_table::entry(number, lane), 0)?;
            let (found, rest) = FlowKey::read_from_prefix(&entry).map_err(|_| anyhow!("a short entry"))?;
            if found == *key {
                return Ok(V::read_from_prefix(rest).ok().map(|(value, _)| value));
            }
        }
        Ok(None)
    }

    /// Leaves no room for a flow: takes every free lane of its buckets. Which ones, for [`Self::give_back`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn crowd(&mut self, key: &FlowKey) -> Result<Vec<(u32, u32)>> {
        let place = self.place(key);
        // Any but its own.
        let other = if place.mark == 1 { 2 } else { 1 };
        let mut taken = Vec::new();
        for number in [place.first, place.second] {
            let mut bucket = self.buckets.get(&number, 0)?;
            while let Some(lane) = flow_table::find_in(|word| bucket.lanes[word], 0) {
                set(&mut bucket, lane, other);
                taken.push((number, lane));
            }
            self.buckets.set(number, bucket, 0)?;
        }
        Ok(taken)
    }

    /// Gives lanes back.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn give_back(&mut self, taken: Vec<(u32, u32)>) -> Result<()> {
        for (number, lane) in taken {
            let mut bucket = self.buckets.get(&number, 0)?;
            set(&mut bucket, lane, 0);
            self.buckets.set(number, bucket, 0)?;
        }
        Ok(())
    }

    fn is_at(&self, bucket: u32, lane: u32, key: &FlowKey) -> Result<bool> {
        Ok(self.entries.get(&flow_table::entry(bucket, lane), 0)?.starts_with(key.as_bytes()))
    }

    fn add_moved(&mut self, bucket: u32, number: u64) -> Result<()> {
        let mut changed = self.buckets.get(&bucket, 0)?;
        changed.moved = changed.moved.wrapping_add(number);
        Ok(self.buckets.set(bucket, changed, 0)?)
    }

    fn place(&self, key: &FlowKey) -> Place {
        Place::of(key, &self.secret, self.buckets.len())
    }
}

fn set(bucket: &mut Bucket, lane: u32, mark: u16) {
    let (word, shift) = ((lane / LANES) as usize, lane % LANES * 16);
    bucket.lanes[word] = bucket.lanes[word] & !(0xffff << shift) | u64::from(mark) << shift;
}
