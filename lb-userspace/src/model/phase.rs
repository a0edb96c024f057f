//! Where the process is in its life.

use std::fmt;

/// Where the process is in its life. It only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The config is read; listeners, maps and programs are being put in place.
    Starting,
    /// Every service is in force as far as this host allows; the service manager has been told.
    Ready,
    /// A graceful stop: nothing new is accepted, open connections of the proxy plane run on until they end or
    /// the drain time-out passes.
    Draining,
    /// Tasks have ended, what has to be taken away is being taken away.
    Stopping,
}

impl Phase {
    /// As the status document says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
