//! Nothing is lost between the counters: every frame that came in is counted once more, as what became of it, and
//! what went to backends and back is the same by service, by backend and in all.

use std::path::Path;

use anyhow::{Context, ensure};
use aya::Pod;
use aya::maps::{Map, MapData, PerCpuArray};
use lb_common::{Counter, Traffic, names};

/// Compares the counters of the maps in `bpf_dir`. Frames that are on their way while this reads make a difference,
/// which has gone at the next look.
///
/// # Errors
/// What does not add up; or the maps cannot be read.
pub fn holds(bpf_dir: &Path) -> anyhow::Result<()> {
    let counters: PerCpuArray<_, u64> = open(bpf_dir, names::MAP_COUNTERS)?;
    let count =
        |counter: Counter| -> anyhow::Result<u64> { Ok(counters.get(&(counter as u32), 0)?.iter().sum()) };
    let received = count(Counter::Received)?;
    let mut accounted = 0;
    let mut parts = Vec::new();
    for counter in Counter::ALL.iter().filter(|counter| **counter != Counter::Received && !counter.is_event())
    {
        let frames = count(*counter)?;
        accounted += frames;
        parts.push(format!("{} {frames}", counter.name()));
    }
    ensure!(
        received == accounted,
        "{received} frames were received and {accounted} accounted for: {parts:?}"
    );

    let (forwarded, replied) = (count(Counter::Forwarded)?, count(Counter::Replied)?);
    for map in [names::MAP_SERVICE_TRAFFIC, names::MAP_BACKEND_TRAFFIC] {
        let traffic = total(&open(bpf_dir, map)?)?;
        ensure!(
            (traffic.packets, traffic.reply_packets) == (forwarded, replied),
            "{forwarded} frames were forwarded and {replied} replied, {map} holds {traffic:?}"
        );
    }
    Ok(())
}

fn open<V: Pod>(bpf_dir: &Path, name: &str) -> anyhow::Result<PerCpuArray<MapData, V>> {
    let path = bpf_dir.join("maps").join(name);
    let map = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
    Ok(PerCpuArray::try_from(Map::PerCpuArray(map))?)
}

fn total(map: &PerCpuArray<MapData, Traffic>) -> anyhow::Result<Traffic> {
    let mut sum = Traffic::default();
    for index in 0..map.len() {
        for part in map.get(&index, 0)?.iter() {
            sum.packets += part.packets;
            sum.reply_packets += part.reply_packets;
        }
    }
    Ok(sum)
}
