//! Ctrl-C and SIGTERM. By default they would end this process at once and leave the namespaces behind.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Tells when the first of them came.
pub struct Interrupt {
    /// Disconnected then.
    came: Receiver<()>,
}

impl Interrupt {
    /// From here on they only interrupt.
    ///
    /// # Errors
    /// They cannot be caught.
    pub fn catch() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = runtime
            .block_on(async {
                anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
            })
            .context("signals cannot be caught")?;
        let (sender, came) = mpsc::channel();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            drop(sender);
        });
        Ok(Self { came })
    }

    /// Lets time pass, for the traffic to go on.
    ///
    /// # Errors
    /// A signal came.
    pub fn wait(&self, duration: Duration) -> Result<()> {
        match self.came.recv_timeout(duration) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => bail!("interrupted"),
        }
    }

    /// Whether a signal came.
    pub fn came(&self) -> bool {
        self.wait(Duration::ZERO).is_err()
    }
}
