//! Makes the unix socket: in a directory that no stranger writes to, never wider than 0660, never a live one's
//! place.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

const MODE: u32 = 0o660;
const BACKLOG: i32 = 128;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("admin.socket = {path:?}: {reason}")]
pub struct SocketError {
    /// As configured.
    pub path: PathBuf,
    /// What is wrong, and the cure.
    pub reason: String,
    /// Whether rights are missing.
    pub denied: bool,
}

/// A listening socket; dropping it takes the file away, unless another one has taken its place.
#[derive(Debug)]
pub struct AdminSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
    inode: (u64, u64),
}

impl AdminSocket {
    /// Makes it, and its directory where that is missing.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let error = |reason: String| SocketError { path: path.to_owned(), reason, denied: false };
        let io_error = |doing: &str, source: io::Error| SocketError {
            path: path.to_owned(),
            reason: format!("cannot {doing}: {source}"),
            denied: source.kind() == io::ErrorKind::PermissionDenied,
        };

        let directory = match path.parent() {
            Some(directory) if path.is_absolute() => directory,
            _ => return Err(error("is not an absolute path".into())),
        };
        // A directory that this makes is 0755 at most, whatever the umask allows.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|source| io_error("make its directory", source))?;
        guarded(directory).map_err(|source| io_error("look at its directory", source))?.map_err(error)?;
        match fs::symlink_metadata(path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("look at it", source)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(error("something that is not a socket is there (hint: remove it)".into()));
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(|source| io_error("remove the stale socket", source))?;
                }
                Err(source) => return Err(io_error("tell whether a daemon answers there", source)),
                Ok(_) => {
                    return Err(error(
                        "another daemon answers there (hint: stop it, or choose another path)".into(),
                    ));
                }
            },
        }

        let socket =
            Socket::new(Domain::UNIX, Type::STREAM, None).map_err(|source| io_error("make it", source))?;
        let address = SockAddr::unix(path).map_err(|source| io_error("name it", source))?;
        socket.bind(&address).map_err(|source| io_error("bind it", source))?;
        // Until `listen` nobody can connect: the mode that the umask left is never in force.
        let listening = fs::set_permissions(path, Permissions::from_mode(MODE))
            .and_then(|()| fs::symlink_metadata(path))
            .and_then(|metadata| socket.listen(BACKLOG).map(|()| (metadata.dev(), metadata.ino())));
        let inode = listening.map_err(|source| io_error("open it to others", source))?;
        Ok(Self { listener: Some(socket.into()), path: path.to_owned(), inode })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener for a tokio runtime, which must be entered; `None` when it was taken before.
    pub(super) fn take_listener(&mut self) -> io::Result<Option<tokio::net::UnixListener>> {
        let Some(listener) = self.listener.take() else { return Ok(None) };
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener).map(Some)
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the admin socket stays behind");
        }
    }
}

/// Whether only root and this user can put something else in the place of an entry of `directory`: the inner
/// result says what is open. Above it, a sticky directory such as `/tmp` will do.
fn guarded(directory: &Path) -> io::Result<Result<(), String>> {
    let own = rustix::process::geteuid().as_raw();
    let directory = directory.canonicalize()?;
    for level in directory.ancestors() {
        let found = fs::metadata(level)?;
        let sticky = level != directory && found.mode() & 0o1000 != 0;
        if found.uid() != 0 && found.uid() != own {
            return Ok(Err(format!(
                "{} belongs to uid {} (hint: a directory of root, such as /run/sluice)",
                level.display(),
                found.uid()
            )));
        }
        if found.mode() & 0o022 != 0 && !sticky {
            return Ok(Err(format!(
                "others may write in {} (mode {:04o}; hint: chmod go-w {0})",
                level.display(),
                found.mode() & 0o7777
            )));
        }
    }
    Ok(Ok(()))
}
