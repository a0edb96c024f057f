//! Look-ups and inserts in flow tables (`lb_common::flow_table`).
#![expect(unsafe_code, reason = "map values are reached by pointer")]

use aya_ebpf::Global;
use aya_ebpf::maps::Array;
use lb_common::FlowKey;
use lb_common::flow_table::{self, Bucket, NONE, PREFERRED, Place};

use crate::buckets::Entry;
use crate::{atomic, maps};

/// How often a lock is tried: for some microseconds.
const ATTEMPTS: u32 = 64;

/// Both maps of a table.
pub struct FlowTable<V: 'static> {
    pub buckets: &'static Array<Bucket>,
    /// How many there are.
    pub count: u32,
    pub entries: &'static Array<Entry<FlowKey, V>>,
}

impl<V: Copy> FlowTable<V> {
    /// The number of a flow's entry, or [`NONE`].
    #[inline(always)]
    pub fn find(&self, key: &FlowKey) -> u32 {
        let place = self.place(key);
        let Some(first) = self.bucket(place.first) else { return NONE };
        if let Some(lane) = first.find(self, place.mark, key) {
            return flow_table::entry(place.first, lane);
        }
        if first.moved() == 0 {
            return NONE;
        }
        match self.bucket(place.second).and_then(|second| second.find(self, place.mark, key)) {
            Some(lane) => flow_table::entry(place.second, lane),
            None => NONE,
        }
    }

    /// Where the value of an entry lies.
    #[inline(always)]
    pub fn value(&self, entry: u32) -> Option<*mut V> {
        // SAFETY: within the element.
        self.entries.get_ptr_mut(entry).map(|entry| unsafe { &raw mut (*entry).value })
    }

    /// Adds a flow; `false`: it is there, or there is no room, or another CPU did not let go of the buckets.
    #[inline(always)]
    pub fn insert(&self, key: &FlowKey, value: &V) -> bool {
        let place = self.place(key);
        let Some(first) = self.bucket(place.first) else { return false };
        if !first.lock() {
            return false;
        }
        let is_inserted = self.insert_locked(&place, &first, key, value);
        first.unlock();
        is_inserted
    }

    #[inline(always)]
    fn insert_locked(&self, place: &Place, first: &Held, key: &FlowKey, value: &V) -> bool {
        let is_free = first.lane(place.mark).is_none();
        if !is_free && first.find(self, place.mark, key).is_some() {
            return false;
        }
        let vacant = if is_free { first.lane(0) } else { None };
        if let Some(lane) = vacant
            && lane < PREFERRED
            && first.moved() == 0
        {
            return first.write(self, lane, place.mark, key, value);
        }
        let Some(second) = self.bucket(place.second) else { return false };
        if place.second == place.first {
            return vacant.is_some_and(|lane| first.write(self, lane, place.mark, key, value));
        }
        if !second.lock() {
            return false;
        }
        let is_inserted = self.insert_both(place, first, &second, vacant, key, value);
        second.unlock();
        is_inserted
    }

    /// Into the emptier one of both buckets.
    #[inline(always)]
    fn insert_both(
        &self,
        place: &Place,
        first: &Held,
        second: &Held,
        vacant: Option<u32>,
        key: &FlowKey,
        value: &V,
    ) -> bool {
        let is_free = second.lane(place.mark).is_none();
        if !is_free && second.find(self, place.mark, key).is_some() {
            return false;
        }
        let other = if is_free { second.lane(0) } else { None };
        match (vacant, other) {
            (Some(lane), None) => first.write(self, lane, place.mark, key, value),
            (Some(lane), Some(other)) if lane < PREFERRED || lane <= other => {
                first.write(self, lane, place.mark, key, value)
            }
            (_, Some(other)) => {
                first.add_moved(1);
                second.write(self, other, place.mark, key, value)
            }
            (None, None) => false,
        }
    }

    /// Deletes a flow, unless another CPU does not let go of its bucket: it then lives until it expires.
    #[inline(always)]
    pub fn remove(&self, key: &FlowKey) {
        let place = self.place(key);
        let Some(first) = self.bucket(place.first) else { return };
        if !first.lock() {
            return;
        }
        if let Some(lane) = first.find(self, place.mark, key) {
            first.set_lane(lane, 0);
        } else if first.moved() != 0
            && let Some(second) = self.bucket(place.second)
            && let Some(lane) = second.find(self, place.mark, key)
        {
            second.set_lane(lane, 0);
            first.add_moved(u64::MAX);
        }
        first.unlock();
    }

    #[inline(always)]
    fn place(&self, key: &FlowKey) -> Place {
        Place::of(key, &maps::FLOW_SECRET.each_ref().map(Global::load), self.count)
    }

    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<Held> {
        Some(Held { number, bucket: self.buckets.get_ptr_mut(number)? })
    }
}

/// A bucket in its map, shared with other CPUs and with the controller.
struct Held {
    number: u32,
    bucket: *mut Bucket,
}

impl Held {
    /// The lane with a mark; 0: a free one.
    #[inline(always)]
    fn lane(&self, mark: u16) -> Option<u32> {
        let lanes = self.bucket.cast::<u64>();
        // SAFETY: a bucket begins with its lanes; each word is read once and whole.
        flow_table::find_in(|word| unsafe { lanes.add(word).read_volatile() }, mark)
    }

    /// A flow's lane.
    #[inline(always)]
    fn find<V: Copy>(&self, table: &FlowTable<V>, mark: u16, key: &FlowKey) -> Option<u32> {
        let lane = self.lane(mark)?;
        let entry = table.entries.get_ptr(flow_table::entry(self.number, lane))?;
        // SAFETY: an element of the map, which stays. Whoever writes a key does so before its lane.
        (unsafe { (*entry).key } == *key).then_some(lane)
    }

    /// Fills a free entry, then marks its lane.
    #[inline(always)]
    fn write<V: Copy>(&self, table: &FlowTable<V>, lane: u32, mark: u16, key: &FlowKey, value: &V) -> bool {
        let Some(entry) = table.entries.get_ptr_mut(flow_table::entry(self.number, lane)) else {
            return false;
        };
        // SAFETY: an element of the map; nobody else writes it, since its lane is free and this CPU holds the lock.
        unsafe {
            (&raw mut (*entry).key).write_volatile(*key);
            (&raw mut (*entry).value).write_volatile(*value);
        }
        self.set_lane(lane, mark);
        true
    }

    #[inline(always)]
    fn set_lane(&self, lane: u32, mark: u16) {
        let lanes = self.bucket.cast::<u16>();
        // SAFETY: a bucket begins with its lanes, and `lane` is one of them.
        unsafe { lanes.add((lane & (flow_table::WAYS - 1)) as usize).write_volatile(mark) }
    }

    #[inline(always)]
    fn moved(&self) -> u64 {
        // SAFETY: within the bucket.
        unsafe { (&raw const (*self.bucket).moved).read_volatile() }
    }

    #[inline(always)]
    fn add_moved(&self, number: u64) {
        // SAFETY: within the bucket, aligned; the controller counts there too.
        unsafe { atomic::add(&raw mut (*self.bucket).moved, number) }
    }

    #[inline(always)]
    fn lock(&self) -> bool {
        // SAFETY: within the bucket, aligned.
        (0..ATTEMPTS).any(|_| unsafe { atomic::replace(&raw mut (*self.bucket).lock, 0, 1) })
    }

    #[inline(always)]
    fn unlock(&self) {
        // SAFETY: within the bucket; this CPU holds it. A plain store lets go: on x86-64 none before it is late.
        unsafe { (&raw mut (*self.bucket).lock).write_volatile(0) }
    }
}
