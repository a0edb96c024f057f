//! The pin directory: found or made, checked at every level, and held by one process at a time.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::error::KernelError;

/// Where the kernel offers a mount point for it.
const STANDARD: &str = "/sys/fs/bpf";
/// BPF_FS_MAGIC of linux/magic.h.
const MAGIC: u32 = 0xcafe_4a11;

/// Subdirectories of the pin directory, in the order in which `cleanup` empties them.
pub(super) const SUBDIRECTORIES: [&str; 6] = [LOCAL, LINKS, PROGRAMS, MAPS, TABLES, OLD_SEEN];
pub(super) const LOCAL: &str = "local";
pub(super) const LINKS: &str = "links";
pub(super) const PROGRAMS: &str = "programs";
pub(super) const MAPS: &str = "maps";
pub(super) const TABLES: &str = "tables";
pub(super) const OLD_SEEN: &str = "old_seen";

/// A pin directory that only root can change, locked for this process.
///
/// The lock is flock(2) on the directory itself: it needs no file beside it (a BPF file system holds none),
/// names exactly this directory whatever path leads to it, and ends with the process, however that ends.
#[derive(Debug)]
pub(super) struct BpfDir {
    path: PathBuf,
    /// Holds the lock, if any.
    directory: OwnedFd,
}

impl BpfDir {
    /// Opens the directory; mounts the BPF file system and makes the directory where they are missing. Its
    /// subdirectories may be missing still ([`Self::furnish`]).
    ///
    /// Every level is opened without following links and judged by its open descriptor, so nobody can swap a
    /// level between check and use. Afterwards paths are safe to use: no level can be changed by others.
    pub(super) fn create(path: &Path) -> Result<Self, KernelError> {
        if path.starts_with(STANDARD) {
            mount_standard(path)?;
        }
        let directory = walk(path, true)?.ok_or_else(|| not_bpffs(path, "missing"))?;
        let dir = Self::lock(path, directory)?;
        dir.check_subdirectories()?;
        Ok(dir)
    }

    /// Makes the subdirectories that are missing.
    pub(super) fn furnish(&self) -> Result<(), KernelError> {
        for name in SUBDIRECTORIES {
            make(&self.directory, name.as_ref(), &self.path.join(name))?;
        }
        self.check_subdirectories()
    }

    fn check_subdirectories(&self) -> Result<(), KernelError> {
        for name in SUBDIRECTORIES {
            let path = self.path.join(name);
            let Some(level) = enter(&self.directory, name.as_ref(), &path)? else { continue };
            check(&level, &path, Rule::Private)?;
        }
        Ok(())
    }

    /// Opens the directory if it is there.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, KernelError> {
        walk(path, false)?.map(|directory| Self::lock(path, directory)).transpose()
    }

    /// Opens the directory if it is there, without the lock: for who changes nothing.
    pub(super) fn look(path: &Path) -> Result<Option<Self>, KernelError> {
        Ok(walk(path, false)?.map(|directory| Self { path: path.to_owned(), directory }))
    }

    fn lock(path: &Path, directory: OwnedFd) -> Result<Self, KernelError> {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), directory }),
            Err(Errno::WOULDBLOCK) => Err(KernelError::Locked { path: path.to_owned() }),
            Err(errno) => Err(KernelError::file(path, "lock")(errno.into())),
        }
    }

    /// As configured.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The pin of a name in a subdirectory.
    pub(super) fn pin(&self, subdirectory: &str, name: &str) -> PathBuf {
        self.path.join(subdirectory).join(name)
    }
}

impl Drop for BpfDir {
    /// Closing alone would leave the lock to a child that is between fork and exec.
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::flock(&self.directory, FlockOperation::Unlock) {
            tracing::debug!(path = %self.path.display(), %error, "cannot unlock");
        }
    }
}

/// Names in a directory of pins; a missing directory has none.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, KernelError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(KernelError::file(directory, "list")(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(KernelError::file(directory, "list"))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Removes a pin; `false`: it was not there.
pub(super) fn unpin(path: &Path) -> Result<bool, KernelError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(KernelError::file(path, "remove")(error)),
    }
}

fn not_bpffs(path: &Path, reason: impl ToString) -> KernelError {
    let at = if path.starts_with(STANDARD) { Path::new(STANDARD) } else { path.parent().unwrap_or(path) };
    let mount = format!("mount -t bpf -o nosuid,nodev,noexec,mode=0700 bpf {}", at.display());
    let command =
        if at == Path::new(STANDARD) { mount } else { format!("mkdir -p {} && {mount}", at.display()) };
    KernelError::NotBpffs { path: path.to_owned(), reason: reason.to_string(), command }
}

fn is_bpffs(directory: &OwnedFd, path: &Path) -> Result<bool, KernelError> {
    let found = rustix::fs::fstatfs(directory)
        .map_err(|errno| KernelError::file(path, "ask for the file system of")(errno.into()))?;
    // The field's type differs between architectures; the magic number always fits 32 bits.
    Ok(found.f_type as u32 == MAGIC)
}

/// Mounts the BPF file system at its standard place, as systemd does, where it is not mounted yet.
fn mount_standard(path: &Path) -> Result<(), KernelError> {
    let standard = Path::new(STANDARD);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(standard, flags, Mode::empty()).map_err(|errno| not_bpffs(path, errno))?;
    if is_bpffs(&place, standard)? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", STANDARD, "bpf", flags, Some(c"mode=0700"))
        .map_err(|errno| not_bpffs(path, errno))?;
    tracing::info!(path = STANDARD, "mounted the BPF file system");
    Ok(())
}

/// What a level must be like.
#[derive(Clone, Copy)]
enum Rule {
    /// Above the BPF file system, and its root: others may make entries, if the sticky bit keeps them from
    /// touching root's.
    Shared,
    /// Within the BPF file system.
    Guarded,
    /// The pin directory and what is below it.
    Private,
}

fn check(level: &OwnedFd, path: &Path, rule: Rule) -> Result<(), KernelError> {
    let stat = rustix::fs::fstat(level).map_err(|errno| KernelError::file(path, "inspect")(errno.into()))?;
    let mode = stat.st_mode & 0o7777;
    let (fits, wanted) = match rule {
        Rule::Shared => (
            mode & 0o022 == 0 || mode & 0o1000 != 0,
            "and be writable for nobody else, or have the sticky bit",
        ),
        Rule::Guarded => (mode & 0o022 == 0, "and be writable for nobody else"),
        // The root of a BPF file system always has the sticky bit.
        Rule::Private => (mode & !0o1000 == 0o700, "with mode 0700"),
    };
    if fits && stat.st_uid == 0 {
        return Ok(());
    }
    Err(KernelError::Foreign { path: path.to_owned(), owner: stat.st_uid, mode, wanted })
}

fn enter(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<OwnedFd>, KernelError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(level) => Ok(Some(level)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => Err(KernelError::NotDirectory { path: path.to_owned() }),
        Err(errno) => Err(KernelError::file(path, "open")(errno.into())),
    }
}

fn make(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), KernelError> {
    match rustix::fs::mkdirat(parent.as_fd(), name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(KernelError::file(path, "make")(errno.into())),
    }
}

/// Opens and checks level after level; makes what is missing within the BPF file system if `create`.
/// `None`: it is missing.
fn walk(path: &Path, create: bool) -> Result<Option<OwnedFd>, KernelError> {
    let malformed = || KernelError::Path { path: path.to_owned() };
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err(malformed());
    }
    let names = components
        .map(|component| match component {
            Component::Normal(name) => Ok(name),
            _ => Err(malformed()),
        })
        .collect::<Result<Vec<_>, _>>()?;

    let mut so_far = PathBuf::from("/");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut level = rustix::fs::open("/", flags, Mode::empty())
        .map_err(|errno| KernelError::file(&so_far, "open")(errno.into()))?;
    let mut inside = false;
    for (index, name) in names.iter().enumerate() {
        so_far.push(name);
        let mut next = enter(&level, name, &so_far)?;
        if next.is_none() && create && inside {
            make(&level, name, &so_far)?;
            next = enter(&level, name, &so_far)?;
        }
        let Some(next) = next else {
            return if create {
                Err(not_bpffs(path, format!("{} is missing", so_far.display())))
            } else {
                Ok(None)
            };
        };
        let was_inside = inside;
        inside = is_bpffs(&next, &so_far)?;
        let rule = match (index + 1 == names.len(), was_inside && inside) {
            (true, _) if inside => Rule::Private,
            (_, true) => Rule::Guarded,
            (_, false) => Rule::Shared,
        };
        check(&next, &so_far, rule)?;
        level = next;
    }
    if inside {
        Ok(Some(level))
    } else if create {
        Err(not_bpffs(path, "the directory is on another one"))
    } else {
        Ok(None)
    }
}
