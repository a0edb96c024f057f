//! The control of the flood tests: the programs of a usual balancer in the place of ours, on the same maps.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use aya::maps::{Array, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::hash::Seed;
use lb_common::names;
use lb_userspace::model::Plane;

/// Its flow table, in the object.
const CONNECTIONS: &str = "CONNECTIONS";

/// Puts the control's programs under every link that a daemon has pinned, with a flow table of their own for so
/// many flows. They stay there until that daemon's successor comes.
///
/// # Errors
/// There is no object of it, or no link.
pub fn take_over(bpf_dir: &Path, plane: Plane, flows: u32) -> anyhow::Result<()> {
    let path = std::env::var_os("SLUICE_CONTROL_OBJECT").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/control.o"),
        PathBuf::from,
    );
    let object = fs::read(&path).with_context(|| format!("{} (cure: cargo xtask test)", path.display()))?;
    let maps = bpf_dir.join("maps");
    let seed = MapData::from_pin(maps.join(names::MAP_SEED)).context(names::MAP_SEED)?;
    let seed: Seed = Array::try_from(Map::Array(seed))?.get(&0, 0)?;
    let mut loader = EbpfLoader::new();
    for name in names::MAPS {
        loader.map_pin_path(name, maps.join(name));
    }
    let loader = loader.map_max_entries(CONNECTIONS, flows).override_global(names::GLOBAL_SEED, &seed, true);
    let mut ebpf = loader.load(&object)?;
    load(&mut ebpf, plane)?;
    let mut links = 0;
    for entry in fs::read_dir(bpf_dir.join("links"))? {
        let link = FdLink::from(PinnedLink::from_pin(entry?.path())?);
        replace(&mut ebpf, plane, link)?;
        links += 1;
    }
    ensure!(links > 0, "{}: no link to take over", bpf_dir.display());
    Ok(())
}

fn load(ebpf: &mut Ebpf, plane: Plane) -> anyhow::Result<()> {
    match plane {
        Plane::Xdp => xdp(ebpf)?.load()?,
        _ => tc(ebpf)?.load()?,
    }
    Ok(())
}

/// The link holds its program from then on.
fn replace(ebpf: &mut Ebpf, plane: Plane, link: FdLink) -> anyhow::Result<()> {
    match plane {
        Plane::Xdp => {
            xdp(ebpf)?.attach_to_link(XdpLink::try_from(link)?)?;
        }
        _ => {
            tc(ebpf)?.attach_to_link(SchedClassifierLink::try_from(link)?)?;
        }
    }
    Ok(())
}

fn xdp(ebpf: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    Ok(ebpf.program_mut(names::PROGRAM_XDP).context(names::PROGRAM_XDP)?.try_into()?)
}

fn tc(ebpf: &mut Ebpf) -> anyhow::Result<&mut SchedClassifier> {
    Ok(ebpf.program_mut(names::PROGRAM_TC).context(names::PROGRAM_TC)?.try_into()?)
}
