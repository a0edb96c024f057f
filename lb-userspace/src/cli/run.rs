//! `sluice run`: the daemon, phase by phase.

mod announce;
mod build;
mod interfaces;
mod kernel;
mod local;
mod refresh;
mod silent;
mod stop;
mod tasks;
mod vips;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::time::timeout;

use crate::config::{self, Config, Environment};
use crate::controller::task::Progress;
use crate::model::Phase;
use crate::supervisor::notify;
use crate::supervisor::signals::{Intent, Signals};
use crate::telemetry::{self, Log};

use super::Failure;
use build::Daemon;

/// The data planes have threads of their own; this is for the controller and its inputs.
const WORKERS: usize = 2;
/// How long a start goes on with a plane that refuses something: a port that the last daemon is about to leave.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Why the daemon stops.
enum End {
    /// Somebody asked for it; open connections may end.
    Graceful,
    /// Somebody asked for it, and does not want to wait.
    Fast,
    /// It cannot go on.
    Failed(anyhow::Error),
}

/// Reads the config file, then lives until a signal or a failure. `socket` is used instead of the config's.
pub fn run(file: &Path, socket: Option<&Path>, detach: bool) -> Result<(), Failure> {
    let mut environment = config::environment();
    if let Some(socket) = socket {
        // As the variable would do it, now and at every reload.
        environment.insert(super::SOCKET_VARIABLE.into(), socket.to_string_lossy().into_owned());
    }
    let config = Config::load(file, &environment).map_err(Failure::ConfigInvalid)?;
    let log = telemetry::init(&config.daemon.log, config.daemon.log_format).map_err(anyhow::Error::new)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let result = runtime.block_on(live(file, environment, config, log, detach));
    // A blocking thread may still drain connections that nobody wants to wait for.
    runtime.shutdown_background();
    result
}

async fn live(
    file: &Path,
    environment: Environment,
    config: Config,
    log: Log,
    detach: bool,
) -> Result<(), Failure> {
    let mut signals = Signals::new().context("signals cannot be taken over")?;
    let mut daemon = Daemon::build(file, environment, config, log).await?;
    let end = match settle(&mut daemon, &mut signals).await {
        None => {
            daemon.phase.send_replace(Phase::Ready);
            notify::ready();
            tracing::info!("ready");
            serve(&mut daemon, &mut signals).await
        }
        Some(end) => end,
    };
    notify::stopping();
    stop::stop(daemon, signals, end, detach).await
}

/// Waits until the planes have what the config asks for; else why the daemon ends here.
async fn settle(daemon: &mut Daemon, signals: &mut Signals) -> Option<End> {
    let mut progress = daemon.progress.clone();
    let settled = async {
        // An error says that the controller is gone: the supervisor tells why.
        let _ = progress.wait_for(|progress| *progress != Progress::Starting).await;
        if timeout(START_PATIENCE, progress.wait_for(|progress| *progress == Progress::Done)).await.is_ok() {
            return None;
        }
        match &*progress.borrow() {
            Progress::Behind(reason) => Some(anyhow!("{reason}")),
            Progress::Starting | Progress::Done => None,
        }
    };
    tokio::select! {
        biased;
        end = daemon.supervisor.early_end() => Some(End::Failed(end.into())),
        () = asked_to_stop(signals) => Some(End::Graceful),
        failure = settled => failure.map(End::Failed),
    }
}

/// Ignores what asks for a reload: the file has just been read.
async fn asked_to_stop(signals: &mut Signals) {
    while signals.next().await == Intent::Reload {}
}

/// Lives.
async fn serve(daemon: &mut Daemon, signals: &mut Signals) -> End {
    loop {
        tokio::select! {
            end = daemon.supervisor.early_end() => return End::Failed(end.into()),
            intent = signals.next() => match intent {
                Intent::Reload => daemon.refresh.notify_one(),
                Intent::Stop => return End::Graceful,
                Intent::StopNow => return End::Fast,
            },
        }
    }
}
