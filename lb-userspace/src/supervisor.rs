//! The process's long tasks: each has a name, and the end of one before its time ends all.

pub mod notify;
pub mod signals;
pub mod watch;

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How a task ends.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A task that ended before its time.
#[derive(Debug, thiserror::Error)]
#[error("task {task:?} {how}")]
pub struct EarlyEnd {
    /// The task's name.
    pub task: &'static str,
    /// What became of it, as the end of a sentence.
    pub how: String,
}

/// Owns the tasks. Dropping it aborts them.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<Outcome>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
}

impl Supervisor {
    /// Without a task.
    pub fn new() -> Self {
        Self::default()
    }

    /// What tells the tasks to end.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task that runs until the token is cancelled.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = Outcome> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Waits for a task that ends although nobody told it to, tells the others to end, and names it.
    /// Never returns while there is no task. Cancel safe.
    pub async fn early_end(&mut self) -> EarlyEnd {
        let Some(ended) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        self.stop.cancel();
        let (task, how) = self.describe(ended);
        EarlyEnd { task, how: how.unwrap_or_else(|| "ended although nothing told it to".into()) }
    }

    /// Tells the tasks to end, and waits for them at most `patience`; what is left is aborted. Returns those
    /// that failed or did not end.
    pub async fn stop(mut self, patience: Duration) -> Vec<EarlyEnd> {
        self.stop.cancel();
        let deadline = Instant::now() + patience;
        let mut failed = Vec::new();
        loop {
            match tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(None) => return failed,
                Ok(Some(ended)) => {
                    if let (task, Some(how)) = self.describe(ended) {
                        failed.push(EarlyEnd { task, how });
                    }
                }
                Err(_) => {
                    failed.extend(self.names.into_values().map(|task| EarlyEnd {
                        task,
                        how: format!("did not end within {patience:?} and was aborted"),
                    }));
                    return failed;
                }
            }
        }
    }

    /// The name of a task, and how it failed if it did.
    fn describe(&mut self, ended: Result<(Id, Outcome), JoinError>) -> (&'static str, Option<String>) {
        let (id, how) = match ended {
            Ok((id, Ok(()))) => (id, None),
            Ok((id, Err(error))) => (id, Some(format!("failed: {error}"))),
            Err(error) => (error.id(), Some(format!("failed: {error}"))),
        };
        (self.names.remove(&id).unwrap_or("unnamed"), how)
    }
}
