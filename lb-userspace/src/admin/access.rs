//! Who may do what: the peer of the unix socket by its credentials, a TCP client by its token.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Extension;
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rustix::process::geteuid;
use subtle::ConstantTimeEq;
use tokio::net::unix::UCred;

use super::problem::{Kind, ProblemDocument};

/// A shorter token could be guessed.
const TOKEN_LENGTH: usize = 16;

/// Why the token file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("admin.token_file = {path:?}: {reason}")]
pub struct TokenError {
    /// As configured.
    pub path: PathBuf,
    /// What is wrong, and the cure.
    pub reason: String,
}

/// The secret that allows changes over TCP. Never printed.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// Reads it; the file must be this user's or root's, and nobody else's to read.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let error = |reason: String| TokenError { path: path.to_owned(), reason };
        let io_error = |source: io::Error| error(format!("cannot read it: {source}"));
        // Opened once: what is checked is what is read.
        let mut file = fs::File::open(path).map_err(io_error)?;
        let found = file.metadata().map_err(io_error)?;
        if !found.is_file() {
            return Err(error("is not a file".into()));
        }
        if found.uid() != 0 && found.uid() != geteuid().as_raw() {
            return Err(error(format!("belongs to uid {} (hint: chown root)", found.uid())));
        }
        if found.mode() & 0o077 != 0 {
            return Err(error(format!(
                "others may read it (mode {:04o}; hint: chmod 600)",
                found.mode() & 0o7777
            )));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io_error)?;
        let token = text.trim();
        if token.len() < TOKEN_LENGTH || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(error(format!(
                "must hold one line of at least {TOKEN_LENGTH} printable characters (hint: openssl rand -hex 32)"
            )));
        }
        Ok(Self(token.into()))
    }

    fn matches(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// A process of this host.
    Unix {
        /// Whose it is; `None`: the kernel would not tell.
        uid: Option<u32>,
        /// Whether it may do anything at all.
        allowed: bool,
    },
    /// A loopback TCP client; reads without a token.
    Tcp {
        /// What allows changes; `None`: nothing does.
        token: Option<Token>,
    },
}

impl Peer {
    /// Judges the peer of the unix socket at `socket`. The file's mode has let it in already; this also holds
    /// where somebody has widened the mode.
    pub(super) fn of_unix(credentials: Option<UCred>, socket: &Path) -> Self {
        let Some(credentials) = credentials else { return Self::Unix { uid: None, allowed: false } };
        let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid());
        Self::Unix { uid: Some(uid), allowed: is_allowed(uid, gid, pid, socket) }
    }

    fn check(&self, request: &Request) -> Result<(), ProblemDocument> {
        match self {
            Self::Unix { allowed: true, .. } => Ok(()),
            Self::Unix { .. } => Err(ProblemDocument::new(
                Kind::Forbidden,
                format!("{self} is neither root, the daemon's user nor of the socket's group"),
            )),
            Self::Tcp { .. } if !names_this_host(request) => Err(ProblemDocument::new(
                Kind::Forbidden,
                "over TCP the Host header must be an IP address or localhost",
            )),
            Self::Tcp { .. } if matches!(*request.method(), Method::GET | Method::HEAD) => Ok(()),
            Self::Tcp { token: None } => Err(ProblemDocument::new(
                Kind::Forbidden,
                "changes over TCP need admin.token_file in the config (hint: or use the unix socket)",
            )),
            Self::Tcp { token: Some(token) } => {
                let presented = request
                    .headers()
                    .get(header::AUTHORIZATION)
                    .and_then(|value| value.to_str().ok())
                    .and_then(|value| value.split_once(' '))
                    .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                    .map(|(_, token)| token.trim());
                if presented.is_some_and(|presented| token.matches(presented)) {
                    Ok(())
                } else {
                    Err(ProblemDocument::new(Kind::Unauthorized, "no token, or a wrong one"))
                }
            }
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid: Some(uid), .. } => write!(f, "uid {uid}"),
            Self::Unix { uid: None, .. } => f.write_str("an unknown user"),
            Self::Tcp { .. } => f.write_str("tcp"),
        }
    }
}

fn is_allowed(uid: u32, gid: u32, pid: Option<i32>, socket: &Path) -> bool {
    uid == 0
        || uid == geteuid().as_raw()
        || fs::symlink_metadata(socket)
            .is_ok_and(|found| gid == found.gid() || pid.is_some_and(|pid| is_member(pid, uid, found.gid())))
}

/// A web page can make its own name resolve to a loopback address, and then read what a browser fetches from
/// there; what it cannot change is that the browser sends that name.
fn names_this_host(request: &Request) -> bool {
    request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok()?.parse::<Authority>().ok())
        .is_some_and(|authority| {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || host.parse::<IpAddr>().is_ok()
        })
}

/// Whether the process has `gid` among its supplementary groups, which SO_PEERCRED does not tell.
fn is_member(pid: i32, uid: u32, gid: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().split_ascii_whitespace()
    };
    // The same process still: its effective uid is the one that connected.
    field("Uid:").nth(1) == Some(uid.to_string().as_str())
        && field("Groups:").any(|group| group == gid.to_string())
}

/// Lets a request through or refuses it, before any route sees it; one log line for each that is no mere
/// reading.
pub(super) async fn check(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    let what = (!request.method().is_safe()).then(|| (request.method().clone(), request.uri().clone()));
    let response = match peer.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            tracing::warn!(%peer, method = %request.method(), path = request.uri().path(), "refused");
            return refusal.into_response();
        }
    };
    if let Some((method, uri)) = what {
        tracing::info!(%peer, %method, path = uri.path(), status = response.status().as_u16(), "admin request");
    }
    response
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const STRANGER: u32 = 4_000_000_000;

    #[test]
    fn a_stranger_is_let_in_by_the_group_of_the_socket_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let group = file.as_file().metadata().unwrap().gid();
        let own = geteuid().as_raw();
        assert!(is_allowed(0, STRANGER, None, file.path()));
        assert!(is_allowed(own, STRANGER, None, file.path()));
        assert!(is_allowed(STRANGER, group, None, file.path()));
        assert!(!is_allowed(STRANGER, STRANGER, None, file.path()));
        // This process may be of that group, but it is not the stranger's.
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(!is_allowed(STRANGER, STRANGER, Some(pid), file.path()));
    }

    #[test]
    fn supplementary_groups_are_those_of_the_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = geteuid().as_raw();
        for group in rustix::process::getgroups().unwrap() {
            assert!(is_member(pid, own, group.as_raw()));
        }
        assert!(!is_member(pid, own, STRANGER));
    }

    #[test]
    fn a_token_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let with = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Token::read(&path).map_err(|error| error.reason)
        };
        let token = with("0123456789abcdef\n", 0o600).unwrap();
        assert!(token.matches("0123456789abcdef"));
        assert!(!token.matches("0123456789abcde"));
        assert!(!token.matches("0123456789abcdef0"));
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert!(with("0123456789abcdef", 0o640).unwrap_err().contains("others may read it (mode 0640"));
        assert!(with("short", 0o600).unwrap_err().contains("at least 16"));
        assert!(with("0123456789abcdef\n0123456789abcdef", 0o600).unwrap_err().contains("one line"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(Token::read(&path).is_err());
    }
}
