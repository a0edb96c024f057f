//! The directory and the file in it. Calls block.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::format::{self, Damage};
use crate::model::Override;
use crate::model::status::rfc3339;

/// The file's name.
pub const FILE: &str = "changes";
/// What is being written; whatever a daemon that died has left of it is written over.
const NEW: &str = "changes.new";

/// Why the changes cannot be kept, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A call failed.
    #[error("{}: {what}: {source}", path.display())]
    Call {
        /// What it was about.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
    /// Somebody has the directory.
    #[error("{}: another sluice keeps its changes there (hint: give each its own daemon.state_dir)", .0.display())]
    Taken(PathBuf),
    /// It is not what was written there.
    #[error("{}: {damage}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        damage: Damage,
    },
    /// Others could have written it.
    #[error("{}: is not a file that only its owner, this user or root, can write", .0.display())]
    Foreign(PathBuf),
}

impl StoreError {
    /// Whether the directory is there no more.
    fn is_gone(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The place of the changes. It is this process's alone while it is open.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// Holds the lock. None: it could not be opened, and it is tried again with every write.
    directory: Option<OwnedFd>,
    /// Nobody has looked into the file yet, so it must not be written over.
    unread: bool,
}

/// What an opening found.
#[derive(Debug)]
pub struct Opened {
    /// For writing, whatever was found.
    pub store: Store,
    /// What was kept; nothing where there was nothing, or nothing that could be understood.
    pub overrides: Vec<Override>,
    /// What went wrong, in words.
    pub problem: Option<String>,
}

impl Store {
    /// Opens a directory, makes it where it is missing, and reads what is kept there.
    pub fn open(path: &Path) -> Opened {
        let mut store = Self { path: path.to_owned(), directory: None, unread: true };
        match store.read() {
            Ok(overrides) => Opened { store, overrides, problem: None },
            Err(error) => {
                let aside = match &error {
                    StoreError::Taken(_) => Ok(None),
                    _ => store.set_aside(),
                };
                let problem = match aside {
                    Ok(None) => format!("what is changed at run time will not survive a restart: {error}"),
                    Ok(Some(aside)) => format!(
                        "what was changed at run time before this start is lost: {error}; set aside as {}",
                        aside.display()
                    ),
                    Err(cause) => format!(
                        "what was changed at run time before this start is lost: {error}; it cannot be set \
                         aside, so nothing is kept: {cause}"
                    ),
                };
                Opened { store, overrides: Vec::new(), problem: Some(problem) }
            }
        }
    }

    /// What a start would find in a directory, which it leaves as it is; nothing where that would be refused.
    pub fn look(path: &Path) -> Vec<Override> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).ok();
        let bytes = Self { path: path.to_owned(), directory, unread: true }.bytes();
        bytes.ok().flatten().and_then(|bytes| format::decode(&bytes).ok()).unwrap_or_default()
    }

    /// The file's path.
    pub fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// Replaces what is kept. After a failure the old file is still there, whole.
    ///
    /// # Errors
    /// Names the call and the path; trying again is safe.
    pub fn save(&mut self, overrides: &[Override]) -> Result<(), StoreError> {
        let bytes = format::encode(overrides).map_err(|error| self.error(FILE, "encode")(error.into()))?;
        self.enter()?;
        if self.unread {
            self.set_aside()?;
        }
        let saved = self.replace(&bytes);
        if let (Err(error), Some(directory)) = (&saved, &self.directory) {
            let _ = rustix::fs::unlinkat(directory, NEW, AtFlags::empty());
            if error.is_gone() {
                // Perhaps there is another one in its place.
                self.directory = None;
            }
        }
        saved
    }

    fn replace(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let directory = self.held()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = rustix::fs::openat(directory, NEW, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.error(NEW, "create")(errno.into()))?;
        let mut new = File::from(new);
        new.write_all(bytes).map_err(self.error(NEW, "write"))?;
        new.sync_all().map_err(self.error(NEW, "write"))?;
        rustix::fs::renameat(directory, NEW, directory, FILE)
            .map_err(|errno| self.error(FILE, "replace")(errno.into()))?;
        rustix::fs::fsync(directory).map_err(|errno| self.error("", "write")(errno.into()))
    }

    fn read(&mut self) -> Result<Vec<Override>, StoreError> {
        self.enter()?;
        let bytes = self.bytes()?;
        let overrides = match bytes {
            Some(bytes) => format::decode(&bytes)
                .map_err(|damage| StoreError::Damaged { path: self.path.join(FILE), damage })?,
            None => Vec::new(),
        };
        self.unread = false;
        Ok(overrides)
    }

    /// None: there is no file.
    fn bytes(&self) -> Result<Option<Vec<u8>>, StoreError> {
        // What is no file must not keep the start waiting.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self.held()?, FILE, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.error(FILE, "open")(errno.into())),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.error(FILE, "inspect")(errno.into()))?;
        let owner = rustix::process::geteuid().as_raw();
        let is_ours = stat.st_uid == 0 || stat.st_uid == owner;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || !is_ours || stat.st_mode & 0o022 != 0 {
            return Err(StoreError::Foreign(self.path.join(FILE)));
        }
        let mut bytes = Vec::new();
        File::from(file).read_to_end(&mut bytes).map_err(self.error(FILE, "read"))?;
        Ok(Some(bytes))
    }

    /// Opens and locks the directory; makes it where it is missing.
    fn enter(&mut self) -> Result<(), StoreError> {
        if self.directory.is_some() {
            return Ok(());
        }
        make(&self.path).map_err(self.error("", "make"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&self.path, flags, Mode::empty())
            .map_err(|errno| self.error("", "open")(errno.into()))?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => self.directory = Some(directory),
            Err(Errno::WOULDBLOCK) => return Err(StoreError::Taken(self.path.clone())),
            Err(errno) => return Err(self.error("", "lock")(errno.into())),
        }
        Ok(())
    }

    /// Gives the file another name, one that nothing has; none: there is no file.
    fn set_aside(&mut self) -> Result<Option<PathBuf>, StoreError> {
        let Some(directory) = &self.directory else { return Ok(None) };
        let now = rfc3339(SystemTime::now());
        for number in 0.. {
            let name = match number {
                0 => format!("{FILE}.damaged-{now}"),
                number => format!("{FILE}.damaged-{now}-{number}"),
            };
            match rustix::fs::renameat_with(directory, FILE, directory, &name, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => break,
                Err(errno) => return Err(self.error(FILE, "set aside")(errno.into())),
                Ok(()) => {
                    self.unread = false;
                    return Ok(Some(self.path.join(name)));
                }
            }
        }
        self.unread = false;
        Ok(None)
    }

    fn held(&self) -> Result<&OwnedFd, StoreError> {
        self.directory.as_ref().ok_or_else(|| self.error("", "open")(io::ErrorKind::NotFound.into()))
    }

    fn error(&self, name: &str, what: &'static str) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        move |source| StoreError::Call { path: path.clone(), what, source }
    }
}

/// Every missing level, the last one for nobody else's eyes.
fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}
