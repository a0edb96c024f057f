//! Where the process is in its life, for others to watch.

use std::fmt;

use tokio::sync::watch;

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
    /// Tasks are being ended; what is pinned stays.
    Stopping,
}

impl Phase {
    /// The first phase, and what watches it.
    pub fn channel() -> (watch::Sender<Self>, watch::Receiver<Self>) {
        watch::channel(Self::Starting)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        })
    }
}
