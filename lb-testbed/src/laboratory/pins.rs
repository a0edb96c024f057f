//! What stands in the maps, read and spoilt behind the daemon's back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use aya::Pod;
use aya::maps::{Array, Map, MapData};
use lb_common::address::TCP;
use lb_common::flow_table::Bucket;
use lb_common::hash::{self, Seed, Tuple};
use lb_common::{Port, Slot, names};

use crate::pinned::names_in;

/// The slots of the one table.
///
/// # Errors
/// There is none, or more than one.
pub(super) fn slots(bpf_dir: &Path) -> anyhow::Result<Vec<Slot>> {
    let table = table(bpf_dir)?;
    (0..table.len()).map(|slot| Ok(Slot(table.get(&slot, 0)?))).collect()
}

/// The slot of a client's flow to a VIP, in a table of so many.
pub(super) fn slot_of(client: SocketAddr, vip: SocketAddr, seed: Seed, slots: usize) -> usize {
    let tuple = Tuple {
        source: client.ip().into(),
        destination: vip.ip().into(),
        source_port: Port::new(client.port()),
        destination_port: Port::new(vip.port()),
        protocol: TCP,
    };
    hash::slot(tuple.hash_with(&hash::key(seed)), slots as u32) as usize
}

/// Forgets every flow.
///
/// # Errors
/// The kernel refuses.
pub(super) fn wipe(bpf_dir: &Path) -> anyhow::Result<()> {
    for name in [names::MAP_HALF_OPEN_BUCKETS, names::MAP_FLOW_BUCKETS] {
        let mut buckets: Array<_, Bucket> = array(&bpf_dir.join("maps").join(name))?;
        for bucket in 0..buckets.len() {
            buckets.set(bucket, Bucket::default(), 0)?;
        }
    }
    Ok(())
}

/// Gives the slots of one backend to another in the table in place, as if no flow could mind. Returns what was there.
///
/// # Errors
/// There are no two backends, or the kernel refuses.
pub(super) fn shift(bpf_dir: &Path) -> anyhow::Result<Vec<Slot>> {
    let slots = slots(bpf_dir)?;
    let backends: BTreeSet<_> = slots.iter().map(|slot| slot.current()).collect();
    let (Some(from), Some(to)) = (backends.first(), backends.last()) else { anyhow::bail!("no slots") };
    ensure!(from != to, "only {from:?} has slots");
    let shifted = slots.iter().map(|slot| if slot.current() == *from { Slot::stable(*to) } else { *slot });
    write(bpf_dir, &shifted.collect::<Vec<_>>())?;
    Ok(slots)
}

/// Writes the slots of the table in place, one after another.
///
/// # Errors
/// The kernel refuses.
pub(super) fn write(bpf_dir: &Path, slots: &[Slot]) -> anyhow::Result<()> {
    let mut table = table(bpf_dir)?;
    (0..).zip(slots).try_for_each(|(number, slot)| Ok(table.set(number, slot.0, 0)?))
}

fn table(bpf_dir: &Path) -> anyhow::Result<Array<MapData, u64>> {
    let directory = bpf_dir.join("tables");
    let names = names_in(&directory)?;
    let name = names.first().filter(|_| names.len() == 1);
    array(&directory.join(name.with_context(|| format!("{names:?} instead of one table"))?))
}

fn array<T: Pod>(pin: &Path) -> anyhow::Result<Array<MapData, T>> {
    let map = MapData::from_pin(pin).with_context(|| pin.display().to_string())?;
    Ok(Array::try_from(Map::Array(map))?)
}
