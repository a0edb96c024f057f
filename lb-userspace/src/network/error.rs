//! What can go wrong with netlink, in words that name the object and the cure.

use std::io;

/// Why the kernel's network tables could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {source}{hint}")]
pub struct NetworkError {
    action: String,
    source: io::Error,
    hint: &'static str,
}

impl NetworkError {
    /// `action` names the object.
    pub(super) fn new(action: impl Into<String>, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::PermissionDenied => {
                " (hint: this needs CAP_NET_ADMIN in the namespace's user namespace: run as root or grant it)"
            }
            io::ErrorKind::NotFound => " (hint: `ip link` and `ip address` show what is there)",
            _ => "",
        };
        Self { action: action.into(), source, hint }
    }

    /// From the library's error, which may or may not carry the kernel's answer.
    pub(super) fn netlink(action: impl Into<String>, error: &rtnetlink::Error) -> Self {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        Self::new(action, source)
    }

    /// What kind of error the kernel answered.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Its number, where the kernel answered.
    pub(super) fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}
