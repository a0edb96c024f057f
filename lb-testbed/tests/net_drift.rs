//! Somebody changes what the daemon has left in the kernel, behind its back: all of it is repaired and counted, at a reload
//! and within the period of the audit.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Pod;
use aya::maps::{Array, Map, MapData};
use lb_common::buckets::{self, EMPTY, FILTER, HOLE};
use lb_common::{Backend, NextHop, Slot, limits, names};
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::eventually::eventually;
use lb_testbed::pinned::names_in;
use lb_testbed::process::succeeded;
use lb_userspace::model::Plane;

/// Of the daemon's own looks, and what it takes to repair.
const AUDIT: Duration = Duration::from_secs(45);
const DEADLINE: Duration = Duration::from_secs(5);

/// Key and value.
const SERVICE: usize = 20 + 32;
/// Where the value's idle time-out is.
const ESTABLISHED: usize = 20 + 16;

#[test]
fn tc_is_repaired_and_counted() -> Result<()> {
    is_repaired(Plane::Tc)
}

#[test]
fn xdp_is_repaired_and_counted() -> Result<()> {
    is_repaired(Plane::Xdp)
}

fn is_repaired(plane: Plane) -> Result<()> {
    let bed = Bed::start(Setup::on(plane))?;
    let pins = Pins(bed.sluice.bpf_dir());
    let before = pins.look()?;
    let has_local = bed.sluice.status()?.local.cgroup.is_some();
    let mut repaired = bed.sluice.status()?.drift_repaired;
    ensure!(repaired == 0, "{repaired} repaired though nobody has spoilt anything");
    for is_asked in [true, false] {
        let spoilt = pins.spoil(has_local)?;
        ensure!(pins.look()? != before, "nothing is spoilt");
        if is_asked {
            succeeded(bed.sluice.ask(&["reload"])?)?;
        }
        eventually("all is as it was", if is_asked { DEADLINE } else { AUDIT }, || {
            let (now, count) = (pins.look()?, bed.sluice.status()?.drift_repaired - repaired);
            ensure!(now == before, "{before:?}, then {now:?}");
            ensure!(count == spoilt, "{count} repaired of {spoilt}");
            Ok(Some(()))
        })
        .with_context(|| bed.sluice.log())?;
        repaired += spoilt;
        let flows = bed.long(9, None)?.finish()?;
        ensure!(flows.broken == 0, "{flows}");
    }
    Ok(())
}

/// What the daemon has pinned.
struct Pins(PathBuf);

/// As much of it as is spoilt here.
#[derive(Debug, PartialEq)]
struct Look {
    /// Where new flows go, by slot.
    currents: Vec<u32>,
    service: Vec<u8>,
    endpoints: usize,
    hops: Vec<NextHop>,
    links: Vec<String>,
}

impl Pins {
    /// A thing of each kind; how many.
    fn spoil(&self, has_local: bool) -> Result<u64> {
        let mut slots: Array<_, u64> = self.array("tables", &self.table()?)?;
        let current = |slot| Ok::<_, anyhow::Error>(Slot(slots.get(&slot, 0)?).current());
        let first = current(0)?;
        let others = (1..slots.len()).map(current).find(|id| id.as_ref().is_ok_and(|id| *id != first));
        slots.set(0, Slot::stable(others.context("one backend has all slots")??).0, 0)?;

        let mut services: Array<_, [u8; SERVICE]> = self.array("maps", names::MAP_SERVICES)?;
        let entry = self.entry(names::MAP_SERVICE_BUCKETS)?;
        let mut service = services.get(&entry, 0)?;
        service[ESTABLISHED] ^= 1;
        services.set(entry, service, 0)?;

        let mut backends: Array<_, Backend> = self.array("maps", names::MAP_BACKENDS)?;
        let backend = backends.get(&1, 0)?;
        backends.set(1, Backend { hop: NextHop::default(), ..backend }, 0)?;

        let mut endpoints: Array<_, buckets::Bucket> = self.array("maps", names::MAP_ENDPOINT_BUCKETS)?;
        let bucket = (0..endpoints.len() - FILTER)
            .find(|bucket| endpoints.get(bucket, 0).is_ok_and(|words| words.iter().any(is_named)));
        let bucket = bucket.context("no endpoint")?;
        let mut words = endpoints.get(&bucket, 0)?;
        *words.iter_mut().find(|word| is_named(word)).context("no endpoint")? = HOLE;
        endpoints.set(bucket, words, 0)?;

        // Nothing but its pin keeps a link.
        let mut detached = 0;
        for directory in [Some("links"), Some("local").filter(|_| has_local)].into_iter().flatten() {
            let names = names_in(&self.0.join(directory))?;
            fs::remove_file(self.0.join(directory).join(names.first().context("no link")?))?;
            detached += 1;
        }
        Ok(4 + detached)
    }

    fn look(&self) -> Result<Look> {
        let slots: Array<_, u64> = self.array("tables", &self.table()?)?;
        let slots = (0..slots.len()).map(|slot| Ok(Slot(slots.get(&slot, 0)?).current().0));
        let services: Array<_, [u8; SERVICE]> = self.array("maps", names::MAP_SERVICES)?;
        let backends: Array<_, Backend> = self.array("maps", names::MAP_BACKENDS)?;
        let endpoints: Array<_, buckets::Bucket> = self.array("maps", names::MAP_ENDPOINT_BUCKETS)?;
        let mut named = 0;
        for bucket in 0..endpoints.len() - FILTER {
            named += endpoints.get(&bucket, 0)?.iter().filter(|word| is_named(word)).count();
        }
        let links = [names_in(&self.0.join("links"))?, names_in(&self.0.join("local"))?];
        Ok(Look {
            currents: slots.collect::<Result<_>>()?,
            service: services.get(&self.entry(names::MAP_SERVICE_BUCKETS)?, 0)?[20..].to_vec(),
            endpoints: named,
            hops: (1..7).map(|index| Ok(backends.get(&index, 0)?.hop)).collect::<Result<_>>()?,
            links: links.into_iter().flatten().collect(),
        })
    }

    /// The entry of the first service, markers included, in the order of the index.
    fn entry(&self, index: &str) -> Result<u32> {
        let index: Array<_, buckets::Bucket> = self.array("maps", index)?;
        for bucket in 0..limits::SERVICE_BUCKETS {
            if let Some(word) = index.get(&bucket, 0)?.into_iter().find(is_named) {
                return Ok(word as u32);
            }
        }
        anyhow::bail!("no service")
    }

    fn table(&self) -> Result<String> {
        names_in(&self.0.join("tables"))?.into_iter().next().context("no table")
    }

    fn array<T: Pod>(&self, directory: &str, name: &str) -> Result<Array<MapData, T>> {
        let pin = self.0.join(directory).join(name);
        let map = MapData::from_pin(&pin).with_context(|| pin.display().to_string())?;
        Ok(Array::try_from(Map::Array(map))?)
    }
}

fn is_named(word: &u64) -> bool {
    *word != EMPTY && *word != HOLE
}
