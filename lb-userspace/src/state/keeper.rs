//! The task that writes: the newest changes, one write at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::store::Store;
use crate::model::Override;

/// First and longest pause before a write that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What should be kept.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts up with every change.
    pub version: u64,
    /// All that is not as the file says.
    pub overrides: Arc<Vec<Override>>,
}

/// What became of the last write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Of the snapshot.
    pub version: u64,
    /// Why it could not be written; it is tried again.
    pub failure: Option<String>,
}

/// Writes every snapshot that is the newest when its turn comes; the last one before it ends at `stop`. Where the
/// disk does not answer, only this task waits.
pub async fn keep(
    mut store: Store,
    mut snapshots: watch::Receiver<Snapshot>,
    saved: watch::Sender<Saved>,
    stop: CancellationToken,
) {
    let mut pause = RETRY.0;
    loop {
        let is_stopping = stop.is_cancelled();
        let Snapshot { version, overrides } = snapshots.borrow_and_update().clone();
        let last = saved.borrow().clone();
        if last.version != version || last.failure.is_some() {
            let write = spawn_blocking(move || {
                let result = store.save(&overrides);
                (store, result)
            });
            // The runtime is shutting down.
            let Ok((returned, result)) = write.await else { return };
            store = returned;
            let failure = result.err().map(|error| error.to_string());
            report(last.failure.as_deref(), failure.as_deref());
            pause = if failure.is_none() { RETRY.0 } else { (pause * 2).min(RETRY.1) };
            saved.send_replace(Saved { version, failure });
        }
        if is_stopping {
            return;
        }
        let is_behind = saved.borrow().failure.is_some();
        tokio::select! {
            () = stop.cancelled() => {}
            // The controller has ended; at the stop there is nothing more to write.
            changed = snapshots.changed() => if changed.is_err() { stop.cancelled().await },
            () = sleep(pause), if is_behind => {}
        }
    }
}

/// Each failure is told once.
fn report(before: Option<&str>, now: Option<&str>) {
    match now {
        Some(failure) if before != now => {
            tracing::error!(
                "what was changed at run time would not survive a restart: {failure}; tried again"
            );
        }
        None if before.is_some() => tracing::info!("what was changed at run time is on disk again"),
        _ => {}
    }
}
