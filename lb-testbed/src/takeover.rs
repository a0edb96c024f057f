//! Other programs under the links that a daemon has pinned, on the same maps.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use aya::maps::{Array, Map, MapData, ProgramArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::hash::{self, Seed};
use lb_common::{flow_table, names};
use lb_userspace::model::Plane;

/// What takes over.
#[derive(Clone, Copy, Debug)]
pub struct Takeover<'a> {
    /// Where the daemon has pinned links and maps.
    pub bpf_dir: &'a Path,
    /// Which programs.
    pub plane: Plane,
    /// What they are in.
    pub object: &'a [u8],
    /// The daemon's `kernel.flows`.
    pub flows: u32,
    /// A map that the daemon has not pinned, with an entry for each flow.
    pub own_map: Option<&'a str>,
}

impl Takeover<'_> {
    /// Puts the object's programs under every link, each in one step. They stay there until the daemon's successor comes.
    ///
    /// # Errors
    /// The object does not load, or there is no link.
    pub fn run(self) -> anyhow::Result<()> {
        let mut ebpf = self.load()?;
        let (program, rare, place) = match self.plane {
            Plane::Xdp => (names::PROGRAM_XDP, names::PROGRAM_XDP_RARE, names::MAP_RARE_XDP),
            _ => (names::PROGRAM_TC, names::PROGRAM_TC_RARE, names::MAP_RARE_TC),
        };
        // The control has none: the daemon's stays.
        if ebpf.program(rare).is_some() {
            self.verify(&mut ebpf, rare)?;
            let fd = ebpf.program(rare).context(rare)?.fd()?;
            let map = MapData::from_pin(self.map(place)).context(place)?;
            ProgramArray::try_from(Map::ProgramArray(map))?.set(0, fd, 0)?;
        }
        self.verify(&mut ebpf, program)?;
        let mut links = 0;
        for entry in fs::read_dir(self.bpf_dir.join("links"))? {
            self.replace(&mut ebpf, program, FdLink::from(PinnedLink::from_pin(entry?.path())?))?;
            links += 1;
        }
        ensure!(links > 0, "{}: no link to take over", self.bpf_dir.display());
        Ok(())
    }

    fn map(&self, name: &str) -> std::path::PathBuf {
        self.bpf_dir.join("maps").join(name)
    }

    fn load(&self) -> anyhow::Result<Ebpf> {
        let seed = seed(self.bpf_dir)?;
        let (key, secret) = (hash::key(seed), flow_table::secret(seed));
        let buckets = flow_table::buckets(self.flows);
        let mut loader = EbpfLoader::new();
        for name in names::MAPS {
            loader.map_pin_path(name, self.map(name));
        }
        if let Some(map) = self.own_map {
            loader.map_max_entries(map, self.flows);
        }
        let loader = loader.override_global(names::GLOBAL_HASH_KEY, &key, true);
        // The control has its own flow tables.
        let loader = loader.override_global(names::GLOBAL_FLOW_SECRET, &secret, false);
        Ok(loader.override_global(names::GLOBAL_FLOW_COUNT, &buckets, false).load(self.object)?)
    }

    fn verify(&self, ebpf: &mut Ebpf, name: &str) -> anyhow::Result<()> {
        match self.plane {
            Plane::Xdp => xdp(ebpf, name)?.load()?,
            _ => tc(ebpf, name)?.load()?,
        }
        Ok(())
    }

    /// The link holds its program from then on.
    fn replace(&self, ebpf: &mut Ebpf, name: &str, link: FdLink) -> anyhow::Result<()> {
        match self.plane {
            Plane::Xdp => {
                xdp(ebpf, name)?.attach_to_link(XdpLink::try_from(link)?)?;
            }
            _ => {
                tc(ebpf, name)?.attach_to_link(SchedClassifierLink::try_from(link)?)?;
            }
        }
        Ok(())
    }
}

/// The hash seed that a daemon has pinned.
///
/// # Errors
/// There is none.
pub fn seed(bpf_dir: &Path) -> anyhow::Result<Seed> {
    let map = MapData::from_pin(bpf_dir.join("maps").join(names::MAP_SEED)).context(names::MAP_SEED)?;
    Ok(Array::try_from(Map::Array(map))?.get(&0, 0)?)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| name.to_owned())?.try_into()?)
}

fn tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| name.to_owned())?.try_into()?)
}
