//! Look-ups through buckets (`lb_common::buckets`): array accesses that the verifier turns into plain loads.
#![expect(unsafe_code, reason = "map values are reached by pointer")]

use aya_ebpf::maps::Array;
use lb_common::buckets::{Bucket, EMPTY, Hash, Key, WAYS};

/// An entry as it lies in its map: the key, then the value, without padding between.
#[repr(C)]
pub struct Entry<K, V> {
    pub key: K,
    pub value: V,
}

/// The value of a key; `count` buckets.
#[inline(always)]
pub fn find<'a, K: Key, V>(
    buckets: &Array<Bucket>,
    count: u32,
    entries: &'a Array<Entry<K, V>>,
    key: &K,
) -> Option<&'a V> {
    const { assert!(size_of::<Entry<K, V>>() == size_of::<K>() + size_of::<V>()) }
    let hash = key.hash();
    let (element, word, bit) = hash.filter();
    let filter = buckets.get_ptr(count + element)?;
    // SAFETY: within the element; the controller writes words whole.
    if unsafe { (&raw const (*filter)[word]).read_volatile() } & bit == 0 {
        return None;
    }
    let entry = entries.get(search(buckets, count, hash)?)?;
    // The entry is as it was when its word was written: it is not reused before this program ends.
    if entry.key == *key { Some(&entry.value) } else { None }
}

/// The same for a key that is known to be there, if any key with its tag is.
#[inline(always)]
pub fn find_sure<'a, K: Key, V>(
    buckets: &Array<Bucket>,
    count: u32,
    entries: &'a Array<Entry<K, V>>,
    key: &K,
) -> Option<&'a V> {
    entries.get(search(buckets, count, key.hash())?).map(|entry| &entry.value)
}

/// The only entry that can be the key's: no two keys of a bucket have the same tag.
#[inline(always)]
fn search(buckets: &Array<Bucket>, count: u32, hash: Hash) -> Option<u32> {
    for number in [hash.first(count), hash.second(count)] {
        let bucket = buckets.get_ptr(number)?;
        for way in 0..WAYS {
            // SAFETY: within the bucket; the controller writes words whole, and we read each once.
            let word = unsafe { (&raw const (*bucket)[way]).read_volatile() };
            if word == EMPTY {
                return None;
            }
            if let Some(entry) = hash.candidate(word) {
                return Some(entry);
            }
        }
    }
    None
}
