//! Signals as intents.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// SIGHUP: read the config file again.
    Reload,
    /// The first SIGTERM or SIGINT: stop, and let open connections end.
    Stop,
    /// A further one: stop now.
    StopNow,
}

/// The process's signals. From its construction on, none of them ends the process by itself.
#[derive(Debug)]
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    stopping: bool,
}

impl Signals {
    /// Takes the signals over. Needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            stopping: false,
        })
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Intent {
        tokio::select! {
            _ = self.hangup.recv() => return Intent::Reload,
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        if std::mem::replace(&mut self.stopping, true) { Intent::StopNow } else { Intent::Stop }
    }
}
