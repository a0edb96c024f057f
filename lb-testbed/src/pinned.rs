//! Pin directories of tests, and interfaces to attach to.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::MapInfo;
use aya::programs::ProgramInfo;
use aya::programs::links::{FdLink, PinnedLink};
use lb_common::limits;
use lb_userspace::controller::table_sizes::TableSizes;
use lb_userspace::kernel::{Adopted, KernelError, KernelPlane, Settings};
use lb_userspace::network::Link;

use crate::bpffs::Bpffs;
use crate::namespace::Namespace;
use crate::object;

/// A pin directory in a BPF file system of its own, and the object.
pub struct Fixture {
    /// Where the pin directory is made.
    pub bpffs: Bpffs,
    /// As the daemon embeds it.
    pub object: Vec<u8>,
}

impl Fixture {
    /// # Errors
    /// No object, or no rights.
    pub fn new() -> Result<Self> {
        Ok(Self { bpffs: Bpffs::mount()?, object: object::bytes()? })
    }

    /// The pin directory.
    pub fn dir(&self) -> PathBuf {
        self.bpffs.join("sluice")
    }

    /// Opens a pin directory as the daemon does.
    ///
    /// # Errors
    /// It is refused.
    pub fn open_with(
        &self,
        dir: &Path,
        flows: u32,
        hash_seed: Option<[u64; 2]>,
    ) -> Result<(KernelPlane, Adopted), KernelError> {
        KernelPlane::open(&Settings {
            bpf_dir: dir,
            flows,
            backends: limits::BACKENDS,
            hash_seed,
            tables: TableSizes::default(),
            object: &self.object,
        })
    }

    /// Opens [`Self::dir`].
    ///
    /// # Errors
    /// It is refused.
    pub fn open(&self) -> Result<(KernelPlane, Adopted), KernelError> {
        self.open_with(&self.dir(), 1024, None)
    }

    /// What a refused start says.
    ///
    /// # Errors
    /// It is accepted.
    pub fn refusal(&self, dir: &Path) -> Result<KernelError> {
        match self.open_with(dir, 1024, None) {
            Ok(_) => bail!("{}: was accepted", dir.display()),
            Err(error) => Ok(error),
        }
    }

    /// Id and program of a pinned link.
    ///
    /// # Errors
    /// There is none.
    pub fn link(&self, name: &str) -> Result<(u32, u32)> {
        let path = self.dir().join("links").join(name);
        let link = FdLink::from(PinnedLink::from_pin(&path).with_context(|| path.display().to_string())?);
        let info = link.info()?;
        Ok((info.id(), info.program_id()))
    }

    /// Names of the pinned links.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn links(&self) -> Result<BTreeSet<String>> {
        names_in(&self.dir().join("links"))
    }

    /// Everything that is pinned, each with its id and a link also with that of its program.
    ///
    /// # Errors
    /// A pin cannot be read.
    pub fn pins(&self) -> Result<BTreeMap<PathBuf, (u32, u32)>> {
        let mut pins = BTreeMap::new();
        for folder in names_in(&self.dir())? {
            let folder = self.dir().join(folder);
            for name in names_in(&folder)? {
                let path = folder.join(name);
                let ids = match folder.file_name().and_then(OsStr::to_str) {
                    Some("links" | "local") => {
                        let info = FdLink::from(PinnedLink::from_pin(&path)?).info()?;
                        (info.id(), info.program_id())
                    }
                    Some("programs") => (ProgramInfo::from_pin(&path)?.id(), 0),
                    _ => (MapInfo::from_pin(&path)?.id(), 0),
                };
                pins.insert(path, ids);
            }
            pins.insert(folder, (0, 0));
        }
        Ok(pins)
    }

    /// Id of a pinned program.
    ///
    /// # Errors
    /// There is none.
    pub fn program_id(&self, name: &str) -> Result<u32> {
        Ok(ProgramInfo::from_pin(self.dir().join("programs").join(name))?.id())
    }
}

/// Names in a folder.
///
/// # Errors
/// There is none.
pub fn names_in(directory: &Path) -> Result<BTreeSet<String>> {
    std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// What a shell command prints.
///
/// # Errors
/// It fails.
pub fn run(command: &str) -> Result<String> {
    let output = Command::new("sh").args(["-c", command]).output()?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A namespace that this thread is in from now on, with a veth pair `v0` - `v1`.
///
/// # Errors
/// No rights.
pub fn veth(label: &str) -> Result<Namespace> {
    let namespace = Namespace::new(label)?;
    namespace.enter()?;
    run("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up")?;
    Ok(namespace)
}

/// The interface of this name, as the network module would describe it.
///
/// # Errors
/// There is none.
pub fn link(name: &str, is_virtual: bool) -> Result<Link> {
    let index = run(&format!("ip -o link show dev {name}"))?
        .split(':')
        .next()
        .and_then(|index| index.parse().ok())
        .context("an interface index")?;
    Ok(Link { index, name: name.to_owned(), up: true, mtu: 1500, is_virtual, is_loopback: false })
}
