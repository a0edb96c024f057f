//! Debian's kernel package, unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

/// Debian 12's kernel for virtual machines; depends on the package of the newest build.
const META: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
pub(super) struct Kernel {
    /// As `uname -r` will print it.
    pub(super) version: String,
    /// The bootable image.
    pub(super) image: PathBuf,
    /// The folder of its modules.
    pub(super) modules: PathBuf,
}

/// The kernel in `folder`, fetched first where it is not there.
pub(super) fn fetch(folder: &Path) -> Result<Kernel> {
    if let Some(kernel) = unpacked(folder)? {
        return Ok(kernel);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let depends = process::output(Command::new("apt-cache").args(["depends", META]))
        .with_context(|| format!("apt does not know {META} (cure: apt-get update, on Debian 12)"))?;
    let name = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .with_context(|| format!("{META} depends on no kernel"))?;
    process::run(Command::new("apt-get").args(["download", name]).current_dir(folder))?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let package = entries(folder)?.into_iter().find(is_package).context("apt-get brought no package")?;
    process::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder))?;
    unpacked(folder)?.with_context(|| format!("{name} holds no kernel image"))
}

fn unpacked(folder: &Path) -> Result<Option<Kernel>> {
    let boot = folder.join("boot");
    if !boot.is_dir() {
        return Ok(None);
    }
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let kernel = entries(&boot)?.into_iter().find_map(|image| {
        let version = name(&image)?.strip_prefix("vmlinuz-")?.to_owned();
        let modules = folder.join("lib/modules").join(&version).join("kernel");
        Some(Kernel { version, image, modules })
    });
    if let Some(kernel) = &kernel {
        ensure!(kernel.modules.is_dir(), "{} is missing", kernel.modules.display());
    }
    Ok(kernel)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    list.map(|entry| Ok(entry?.path())).collect()
}
