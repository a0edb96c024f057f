//! One build of the daemon after another, under flows that live long and new ones.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::maps::{Array, Map, MapData};
use aya::programs::ProgramInfo;
use lb_common::layout::LAYOUT;
use lb_common::{limits, names};
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::client::churn::Churn;
use lb_testbed::client::long::LongFlows;
use lb_testbed::eventually::eventually;
use lb_testbed::object;
use lb_testbed::pinned::link;
use lb_testbed::snapshot::{Objects, Snapshot};
use lb_userspace::config::PlaneChoice;
use lb_userspace::controller::table_sizes::TableSizes;
use lb_userspace::kernel::{KernelPlane, Settings};
use lb_userspace::model::Plane;

const DEADLINE: Duration = Duration::from_secs(20);
const FLOWS: u64 = 100;
/// New flows a second.
const RATE: u32 = 100;
/// Between two records of a flow.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long each build serves.
const WHILE: Duration = Duration::from_secs(2);

#[test]
fn tc_goes_on_through_another_build_and_back() -> anyhow::Result<()> {
    upgrades(Plane::Tc, names::PROGRAM_TC)
}

#[test]
fn xdp_goes_on_through_another_build_and_back() -> anyhow::Result<()> {
    upgrades(Plane::Xdp, names::PROGRAM_XDP)
}

#[test]
fn a_build_of_another_layout_touches_nothing() -> anyhow::Result<()> {
    let mut bed = Bed::start(Setup::on(Plane::Tc))?;
    bed.backend("weight", &bed.servers[0], &["7"])?;
    let load = Load::start(&bed)?;
    ensure!(bed.sluice.stop(DEADLINE)?.success(), "{}", bed.sluice.log());
    set_number(&bed, LAYOUT + 1)?;
    let state = bed.sluice.config().with_file_name("state").join("changes");
    let before =
        (Snapshot::of(&bed.topology.lb)?, Objects::pinned(&bed.sluice.bpf_dir())?, fs::read(&state)?);
    let refused = bed.sluice.start().err().context("the daemon took over maps of another layout")?;
    let refused = format!("{refused:#}");
    let expected = format!("the pinned maps have layout {}, this sluice has layout {LAYOUT}", LAYOUT + 1);
    ensure!(refused.contains(&expected), "{refused}");
    let after = (Snapshot::of(&bed.topology.lb)?, Objects::pinned(&bed.sluice.bpf_dir())?, fs::read(&state)?);
    ensure!(before.0 == after.0, "{:#?}", before.0.difference(&after.0));
    ensure!(before.1 == after.1 && before.2 == after.2, "{:?}, then {:?}", before.1, after.1);
    load.goes_on()?;

    set_number(&bed, LAYOUT)?;
    bed.sluice.start()?;
    let links = Objects::pinned(&bed.sluice.bpf_dir())?.links;
    ensure!(links == before.1.links, "{links:?} instead of {:?}", before.1.links);
    load.goes_on()?;
    load.unbroken()
}

fn set_number(bed: &Bed, number: u32) -> anyhow::Result<()> {
    let map = MapData::from_pin(bed.sluice.bpf_dir().join("maps").join(names::MAP_LAYOUT))?;
    Ok(Array::<_, u32>::try_from(Map::Array(map))?.set(0, number, 0)?)
}

/// This build's daemon, then another build's, which attaches and goes, then this build's again; on slots within a change,
/// so that the flows depend on what the programs have written.
fn upgrades(plane: Plane, program: &str) -> anyhow::Result<()> {
    let mut bed = Bed::start(Setup::on(plane))?;
    let old = bed.long(FLOWS, Some(INTERVAL))?;
    bed.backend("weight", &bed.servers[0], &["10"])?;
    let load = Load::start(&bed)?;
    let links = Objects::pinned(&bed.sluice.bpf_dir())?.links;
    let tag = |bed: &Bed| -> anyhow::Result<u64> {
        Ok(ProgramInfo::from_pin(bed.sluice.bpf_dir().join("programs").join(program))?.tag())
    };
    let ours = tag(&bed)?;
    load.goes_on()?;

    ensure!(bed.sluice.stop(DEADLINE)?.success(), "{}", bed.sluice.log());
    let other = object::rebuilt(&object::bytes()?)?;
    bed.topology.lb.run(|| attach(&bed, plane, &other))??;
    ensure!(tag(&bed)? != ours, "the other build's program is the same");
    ensure!(Objects::pinned(&bed.sluice.bpf_dir())?.links == links, "the links were not kept");
    load.goes_on()?;

    bed.sluice.start()?;
    ensure!(tag(&bed)? == ours, "the programs are not those of the daemon that runs");
    ensure!(Objects::pinned(&bed.sluice.bpf_dir())?.links == links, "the links were not kept");
    load.goes_on()?;
    load.unbroken()?;
    let old = old.finish()?;
    ensure!(old.broken == 0, "{old}");
    Ok(())
}

/// What the other build's daemon does with the kernel: takes over the maps, and puts its programs under every link.
fn attach(bed: &Bed, plane: Plane, object: &[u8]) -> anyhow::Result<()> {
    let bpf_dir = &bed.sluice.bpf_dir();
    let (flows, backends) = (Setup::on(plane).flows, limits::BACKENDS);
    let settings =
        Settings { bpf_dir, flows, backends, hash_seed: None, tables: TableSizes::default(), object };
    let (mut other, adopted) = KernelPlane::open(&settings)?;
    ensure!(adopted.maps == names::MAPS && adopted.links.len() == 4, "{adopted:?}");
    let hosts = std::iter::once(&bed.topology.client).chain(&bed.topology.backends);
    for host in hosts {
        other.programs.attach(&link(&host.link, true)?, PlaneChoice::Force(plane))?;
    }
    Ok(())
}

/// Flows that live long and new ones.
struct Load {
    long: LongFlows,
    churn: Churn,
}

impl Load {
    fn start(bed: &Bed) -> anyhow::Result<Self> {
        Ok(Self { long: bed.long(FLOWS, Some(INTERVAL))?, churn: bed.churn(RATE) })
    }

    /// New flows are really begun meanwhile.
    fn goes_on(&self) -> anyhow::Result<()> {
        let (start, begun) = (Instant::now(), self.churn.begun());
        eventually("the load goes on", WHILE + DEADLINE, || Ok((start.elapsed() >= WHILE).then_some(())))?;
        ensure!(self.churn.begun() > begun, "no new flows");
        Ok(())
    }

    fn unbroken(self) -> anyhow::Result<()> {
        let (churn, long) = (self.churn.stop()?, self.long.finish()?);
        ensure!(churn.lost == 0 && long.broken == 0, "new: {churn}; long: {long}");
        Ok(())
    }
}
