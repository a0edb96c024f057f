//! What can go wrong with the kernel planes: each error names the object, what the kernel said, and the cure.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::controller::table_sizes::TableSize;
use crate::model::Plane;

/// Why the kernel planes could not be opened, attached or removed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// This host, this process or this binary has no kernel planes.
    #[error("kernel planes are not available: {0}")]
    Unavailable(#[from] Unavailable),
    /// `bpf_dir` cannot be walked to.
    #[error("bpf_dir {}: must be an absolute path without `.` and `..`", path.display())]
    Path {
        /// As configured.
        path: PathBuf,
    },
    /// `bpf_dir` is not on a BPF file system, and none could be mounted.
    #[error("bpf_dir {}: not on a BPF file system ({reason}); mount one: {command}", path.display())]
    NotBpffs {
        /// As configured.
        path: PathBuf,
        /// What was found or refused.
        reason: String,
        /// What mounts it.
        command: String,
    },
    /// A level of `bpf_dir` is a symbolic link or no directory.
    #[error(
        "bpf_dir: {} is a symbolic link or no directory: name the real path in daemon.bpf_dir",
        path.display()
    )]
    NotDirectory {
        /// The level.
        path: PathBuf,
    },
    /// Somebody else than root may change a level of `bpf_dir`.
    #[error(
        "bpf_dir: {} belongs to uid {owner} with mode {mode:04o}, so others than root can change what is pinned \
         there; it must belong to uid 0 {wanted}. Find out who made it, remove it (rm -r {}) or set another \
         daemon.bpf_dir",
        path.display(),
        path.display()
    )]
    Foreign {
        /// The level.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// What the mode should be.
        wanted: &'static str,
    },
    /// Another process works on `bpf_dir`.
    #[error(
        "bpf_dir {}: another sluice is running on it: stop that one, or set another daemon.bpf_dir",
        path.display()
    )]
    Locked {
        /// As configured.
        path: PathBuf,
    },
    /// A file operation under `bpf_dir` failed.
    #[error("{}: cannot {doing}: {source}", path.display())]
    File {
        /// What was touched.
        path: PathBuf,
        /// A verb.
        doing: &'static str,
        /// The kernel's words.
        source: io::Error,
    },
    /// The kernel object in this binary cannot be used.
    #[error("the kernel object in this binary cannot be loaded: {reason}")]
    Object {
        /// aya's and the kernel's words.
        reason: String,
    },
    /// A pinned map was made by another version, or with another setting.
    #[error(
        "{}: the pinned map has {what} {pinned}, this sluice needs {needed}: {cure}",
        path.display()
    )]
    Layout {
        /// The pin.
        path: PathBuf,
        /// Which property.
        what: &'static str,
        /// Of the pinned map.
        pinned: u64,
        /// Of this build and config.
        needed: u64,
        /// What to do.
        cure: String,
    },
    /// The pinned maps were made by a build that takes their contents for something else.
    #[error(
        "{}: the pinned maps have layout {pinned}, this sluice has layout {needed}. Nothing was changed, and what is \
         attached goes on forwarding: run the sluice that made them, or run `sluice cleanup` (ends open connections)",
        path.display()
    )]
    OtherLayout {
        /// Where the number is, or should be.
        path: PathBuf,
        /// Of the maps; 0: from before layouts were numbered.
        pinned: u32,
        /// Of this build.
        needed: u32,
    },
    /// Programs are attached, and a map of theirs cannot be found.
    #[error(
        "{}: the map is not pinned any more, though the program of {} uses it. Nothing was changed, and what is \
         attached goes on forwarding: put the pin back, or run `sluice cleanup` (ends open connections)",
        path.display(),
        link.display()
    )]
    MissingMap {
        /// Where it should be pinned.
        path: PathBuf,
        /// A link of those programs.
        link: PathBuf,
    },
    /// A pool's tables are pinned with another size.
    #[error(transparent)]
    TableSize(#[from] TableSize),
    /// The configured seed is not the one in force.
    #[error(
        "kernel.hash_seed differs from the seed kept with the pins ({}): open connections depend on it. Set \
         the old one or \"random\"; to change it, stop sluice and run `sluice cleanup` (ends open connections)",
        path.display()
    )]
    Seed {
        /// The pin.
        path: PathBuf,
    },
    /// A map cannot be opened, made or written.
    #[error("map {map}: {reason}")]
    Map {
        /// Its name.
        map: String,
        /// The kernel's words.
        reason: String,
    },
    /// The kernel refuses a program.
    #[error("program {program}: {reason}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The kernel's words; of the verifier's the last.
        reason: String,
    },
    /// A program cannot be attached.
    #[error("interface {interface}: cannot attach {plane}: {reason}; {cure}")]
    Attach {
        /// Its name.
        interface: String,
        /// What was asked for.
        plane: Plane,
        /// The kernel's words.
        reason: String,
        /// What to do.
        cure: String,
    },
}

impl KernelError {
    /// Whether what is pinned and the config contradict each other: whatever runs here next with this config refuses.
    pub fn is_contradiction(&self) -> bool {
        matches!(
            self,
            Self::Layout { .. }
                | Self::OtherLayout { .. }
                | Self::MissingMap { .. }
                | Self::TableSize(_)
                | Self::Seed { .. }
        )
    }

    pub(super) fn file(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, doing, source }
    }

    pub(super) fn map(map: impl Into<String>, source: &(dyn std::error::Error + 'static)) -> Self {
        Self::Map { map: map.into(), reason: words(source) }
    }
}

/// Why there are no kernel planes here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// `kernel.plane = "off"`.
    #[error("kernel.plane = \"off\"")]
    Off,
    /// The binary was built without the kernel object.
    #[error("this binary was built without the kernel object: run `cargo xtask build-ebpf` and build again")]
    NoObject,
    /// The kernel lacks what the programs need.
    #[error("Linux {found} is too old: 5.13 is needed (batched access to LPM tries)")]
    KernelTooOld {
        /// What runs.
        found: String,
    },
    /// The process lacks a capability.
    #[error("this process has no {}: run as root, or grant it", Names(missing))]
    NoCapability {
        /// Their names.
        missing: Vec<&'static str>,
    },
    /// bpf(2) is refused for another reason: seccomp, lockdown, a kernel built without it.
    #[error(
        "bpf(2) is refused: {0}: allow it in the container's seccomp profile or the kernel's lockdown mode"
    )]
    Refused(String),
}

struct Names<'a>(&'a [&'static str]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" and no "))
    }
}

/// An error with all its sources; of text with many lines (a verifier's log) the last few.
pub(super) fn words(error: &(dyn std::error::Error + 'static)) -> String {
    const LINES: usize = 6;
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Some errors print their source themselves.
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    let all = parts.join(": ");
    let lines: Vec<&str> = all.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.split_first() {
        Some((first, rest)) if rest.len() > LINES => {
            format!("{first} ... {}", rest[rest.len() - LINES..].join(" / "))
        }
        _ => lines.join(" / "),
    }
}
