//! What is installed on this machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;

/// Programs that `demo` and `test` run, each with the package that has it.
pub(crate) const TOOLS: &[(&str, &str)] =
    &[("ip", "iproute2"), ("ethtool", "ethtool"), ("nsenter", "util-linux")];

/// Everything that a plan depends on.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Rust toolchains, the one that runs xtask first, then rustup's, then the distribution's.
    pub(super) toolchains: Vec<Toolchain>,
    /// Every bpf-linker that starts.
    pub(super) linkers: Vec<Linker>,
    /// Whether distribution packages can be installed; else why not.
    pub(super) packages: Result<(), &'static str>,
    /// Those of [`TOOLS`] that are not installed.
    pub(super) missing_tools: Vec<(&'static str, &'static str)>,
}

/// One Rust toolchain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// The folder of its rustc and cargo.
    pub(crate) bin: PathBuf,
    /// What rustup calls it; `None`: it is not rustup's.
    pub(super) rustup: Option<String>,
    /// Major and minor version.
    pub(super) version: (u32, u32),
    /// Major version of its LLVM.
    pub(super) llvm: u32,
    /// Whether it has the library's source, which `-Z build-std` compiles for the BPF target.
    pub(super) has_source: bool,
}

/// One bpf-linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linker {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// As it says, such as `0.13.0`.
    pub(super) version: String,
    /// Major version of its LLVM; `None`: linked into it, so it cannot be told.
    pub(super) llvm: Option<u32>,
}

impl Facts {
    /// Looks; changes nothing. Takes tenths of a second.
    pub(super) fn gather() -> Self {
        let mut toolchains: Vec<Toolchain> = Vec::new();
        for (bin, rustup) in toolchain_folders() {
            if toolchains.iter().all(|known| known.bin != bin) {
                toolchains.extend(Toolchain::inspect(bin, rustup));
            }
        }
        Self {
            toolchains,
            linkers: process::find_all("bpf-linker").into_iter().filter_map(Linker::inspect).collect(),
            packages: package_manager(),
            missing_tools: TOOLS.iter().copied().filter(|(tool, _)| !process::installed(tool)).collect(),
        }
    }
}

impl Toolchain {
    fn inspect(bin: PathBuf, rustup: Option<String>) -> Option<Self> {
        if !bin.join("cargo").is_file() {
            return None;
        }
        let rustc = bin.join("rustc");
        let verbose = process::output(Command::new(&rustc).arg("-vV"))?;
        let sysroot = process::output(Command::new(&rustc).args(["--print", "sysroot"]))?;
        Some(Self {
            version: version(field(&verbose, "release: ")?)?,
            llvm: version(field(&verbose, "LLVM version: ")?)?.0,
            has_source: Path::new(sysroot.trim())
                .join("lib/rustlib/src/rust/library/core/Cargo.toml")
                .is_file(),
            bin,
            rustup,
        })
    }
}

impl Linker {
    fn inspect(path: PathBuf) -> Option<Self> {
        let said = process::output(Command::new(&path).arg("--version"))?;
        let version = said.trim().strip_prefix("bpf-linker ")?.to_owned();
        Some(Self { llvm: shared_llvm(&path).map(|(_, major)| major), path, version })
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        write!(f, "rustc {major}.{minor} (LLVM {}) in {}", self.llvm, self.bin.display())
    }
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bpf-linker {}", self.version)?;
        if let Some(llvm) = self.llvm {
            write!(f, " (LLVM {llvm})")?;
        }
        write!(f, " in {}", self.path.parent().unwrap_or(Path::new("/")).display())
    }
}

/// Folders that may hold a toolchain, in the order of [`Facts::toolchains`], with rustup's names.
fn toolchain_folders() -> Vec<(PathBuf, Option<String>)> {
    let mut folders: Vec<(PathBuf, Option<String>)> = Vec::new();
    // A row is the name, perhaps remarks, and the folder.
    let listed = process::output(Command::new("rustup").args(["toolchain", "list", "--verbose"]));
    for row in listed.iter().flat_map(|rows| rows.lines()) {
        if let (Some(name), Some(folder)) = (row.split_whitespace().next(), row.find('/')) {
            let folder = row.get(folder..).unwrap_or_default().trim();
            folders.push((Path::new(folder).join("bin"), Some(name.to_owned())));
        }
    }
    let own = process::own_cargo();
    let own = own.parent().unwrap_or(Path::new(""));
    match folders.iter().position(|(bin, _)| bin == own) {
        Some(place) => folders.swap(0, place),
        None => folders.insert(0, (own.to_owned(), None)),
    }
    folders.push(("/usr/bin".into(), None));
    folders
}

/// The libLLVM that a program loads, and its major version.
pub(super) fn shared_llvm(program: &Path) -> Option<(PathBuf, u32)> {
    loaded_llvm(&process::output(Command::new("ldd").arg(program))?)
}

/// Reads what `ldd` prints: `libLLVM.so.22.1-rust-1.95.0-stable => /path (0x...)`.
fn loaded_llvm(listing: &str) -> Option<(PathBuf, u32)> {
    listing.lines().find_map(|line| {
        let (name, rest) = line.trim().split_once(" => ")?;
        let tail = name.strip_prefix("libLLVM")?;
        let major = tail.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?;
        let path = rest.rsplit_once(" (")?.0;
        Some((path.into(), major.parse().ok()?))
    })
}

/// Whether `apt-get install` can work here; else why not.
fn package_manager() -> Result<(), &'static str> {
    if !process::installed("apt-get") {
        return Err("there is no apt-get");
    }
    if !rustix::process::geteuid().is_root() {
        return Err("installing packages needs root");
    }
    Ok(())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// The first two numbers of a dotted version.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libllvm_is_found_in_what_ldd_prints() {
        let rustup = "\tlibc.so.6 => /lib/libc.so.6 (0x00007f1)\n\
                      \tlibLLVM.so.22.1-rust-1.95.0-stable => /t/bin/../lib/libLLVM.so.22.1-rust-1.95.0-stable (0x7e)\n";
        assert_eq!(
            loaded_llvm(rustup),
            Some(("/t/bin/../lib/libLLVM.so.22.1-rust-1.95.0-stable".into(), 22))
        );
        let older = "\tlibLLVM-19.so.1 => /usr/lib/llvm-19/lib/libLLVM-19.so.1 (0x7f)\n";
        assert_eq!(loaded_llvm(older), Some(("/usr/lib/llvm-19/lib/libLLVM-19.so.1".into(), 19)));
    }

    #[test]
    fn a_program_without_a_loadable_libllvm_has_none() {
        assert_eq!(loaded_llvm("\tstatically linked\n"), None);
        assert_eq!(loaded_llvm("\tlibLLVM.so.22.1 => not found\n"), None);
    }

    #[test]
    fn versions_are_read_with_and_without_suffix() {
        assert_eq!(version("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(version("22.1.2"), Some((22, 1)));
        assert_eq!(version("nightly"), None);
    }
}
