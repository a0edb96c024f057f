//! Reloads that no client of the API asked for (SIGHUP, and the file when it is watched), and what follows any.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::controller::request::{Handle, RequestError};
use crate::supervisor::watch::FileWatch;
use crate::supervisor::{Outcome, notify};
use crate::telemetry::Log;

/// Reloads whenever `asked` is notified.
pub(super) async fn on_demand(asked: Arc<Notify>, controller: Handle, stop: CancellationToken) -> Outcome {
    while stop.run_until_cancelled(asked.notified()).await.is_some() {
        notify::reloading();
        match controller.reload().await {
            Ok(reloaded) => tracing::info!(changes = reloaded.changes.len(), "reloaded"),
            Err(RequestError::ConfigInvalid(problems)) => {
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                tracing::error!("not reloaded: the old config stays in force");
            }
            Err(error) => tracing::error!("not reloaded: {error}"),
        }
        notify::ready();
    }
    Ok(())
}

/// Asks for a reload when the file has changed, as long as the config in force wants that.
pub(super) async fn on_change(
    file: PathBuf,
    config: watch::Receiver<Config>,
    asked: Arc<Notify>,
    stop: CancellationToken,
) -> Outcome {
    let mut watch = FileWatch::new(&file);
    while stop.run_until_cancelled(watch.changed()).await.is_some() {
        if config.borrow().daemon.watch {
            asked.notify_one();
        }
    }
    Ok(())
}

/// Has the log show what the config in force asks for.
pub(super) async fn follow_filter(
    log: Log,
    mut config: watch::Receiver<Config>,
    stop: CancellationToken,
) -> Outcome {
    while let Some(Ok(())) = stop.run_until_cancelled(config.changed()).await {
        let filter = config.borrow_and_update().daemon.log.clone();
        if let Err(error) = log.set_filter(&filter) {
            tracing::error!("the log stays as it is: {error}");
        }
    }
    stop.cancelled().await;
    Ok(())
}
