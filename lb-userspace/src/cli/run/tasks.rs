//! The tasks between the parts. Each runs until it is told to stop; one whose channel is closed waits for that
//! too, since the task at the other end has ended early and is the one to name.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::controller::task::Controller;
use crate::health::{Checker, Observation, Targets};
use crate::kernel;
use crate::network::{Facts, Network, Reached};
use crate::proxy;
use crate::state::{self, Saved, Snapshot, Store};
use crate::supervisor::Outcome;

use super::interfaces::Attacher;
use super::silent::Silent;
use super::vips::Hosted;

/// Between two looks at who refuses clients on the kernel planes; and looking takes at most this part of the time.
const LOOK: Duration = Duration::from_millis(25);
const LOOK_PART: u32 = 8;

/// Runs the controller, then hands the proxy plane over.
pub(super) async fn control(
    controller: Controller<Hosted>,
    ended: oneshot::Sender<Hosted>,
    stop: CancellationToken,
) -> Outcome {
    if let Some(proxy) = controller.run(stop).await {
        // Where nobody waits for it, dropping it resets its connections.
        let _ = ended.send(proxy);
    }
    Ok(())
}

/// Follows what decides about interfaces, then hands the programs over.
pub(super) async fn attach(
    mut attacher: Attacher,
    config: watch::Receiver<Config>,
    ended: oneshot::Sender<Attacher>,
    stop: CancellationToken,
) -> Outcome {
    let outcome = attacher.run(config, stop).await;
    // Where nobody waits for them, everything stays attached.
    let _ = ended.send(attacher);
    outcome
}

/// Checks the backends that the controller wants checked, and those at once that the network has lost. Of one that
/// falls silent the neighbour is asked for anew.
pub(super) async fn check(
    mut targets: watch::Receiver<Targets>,
    mut facts: watch::Receiver<Facts>,
    (observations, at_once): (mpsc::Sender<Observation>, u32),
    mut suspects: mpsc::Receiver<SocketAddr>,
    network: Arc<Network>,
    stop: CancellationToken,
) -> Outcome {
    let (observer, mut observed) = mpsc::channel(observations.max_capacity());
    let mut checker = Checker::start(observer, at_once as usize);
    let mut silent = Silent::default();
    let mut reached = Reached::default();
    checker.set_targets(targets.borrow_and_update().clone());
    facts.mark_changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Ok(()) = targets.changed() => {
                let targets = targets.borrow_and_update().clone();
                silent.retain(&targets);
                checker.set_targets(targets);
            }
            Ok(()) = facts.changed() => {
                let ways = reached.take_in(&facts.borrow_and_update());
                ways.lost.iter().for_each(|(host, why)| checker.lose(*host, why));
                ways.regained.iter().for_each(|host| checker.recheck(*host));
            }
            Some(backend) = suspects.recv() => checker.suspect(backend),
            Some(observation) = observed.recv() => {
                if silent.falls(&observation, &targets.borrow())
                    && let Err(error) = network.renew(observation.address.ip()).await
                {
                    tracing::warn!("the neighbour of a silent backend cannot be asked for: {error}");
                }
                if observations.send(observation).await.is_err() {
                    stop.cancelled().await;
                    return Ok(());
                }
            }
        }
    }
}

/// Names the backends that refuse clients: those of the proxy plane as they do, those of the kernel planes soon after.
pub(super) async fn suspect(
    mut proxied: proxy::Refusals,
    mut counted: Option<kernel::Refusals>,
    suspects: mpsc::Sender<SocketAddr>,
    stop: CancellationToken,
) -> Outcome {
    let mut next = Instant::now();
    loop {
        let named = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(backend) = proxied.recv() => vec![backend],
            () = sleep_until(next), if counted.is_some() => {
                let (begin, looked) = (Instant::now(), block_in_place(|| counted.as_mut().map(kernel::Refusals::look)));
                next = begin + LOOK.max(begin.elapsed() * LOOK_PART);
                looked.transpose().unwrap_or_else(|error| {
                    tracing::error!(object = error.object, "who refuses clients is not seen any more: {}", error.reason);
                    counted = None;
                    None
                }).unwrap_or_default()
            }
        };
        for backend in named {
            // Full: it is asked for again.
            let _ = suspects.try_send(backend);
        }
    }
}

/// Writes down what is changed at run time.
pub(super) async fn keep(
    store: Store,
    snapshots: watch::Receiver<Snapshot>,
    saves: watch::Sender<Saved>,
    stop: CancellationToken,
) -> Outcome {
    state::keep(store, snapshots, saves, stop.clone()).await;
    // Ends before only where the runtime does.
    stop.cancelled().await;
    Ok(())
}

/// Has neighbours resolved that replies wait for.
pub(super) async fn resolve(
    mut wanted: mpsc::Receiver<Vec<(IpAddr, u32)>>,
    network: Arc<Network>,
    stop: CancellationToken,
) -> Outcome {
    while let Some(Some(wanted)) = stop.run_until_cancelled(wanted.recv()).await {
        if let Err(error) = network.resolve(wanted).await {
            tracing::warn!("a neighbour that replies wait for cannot be resolved: {error}");
        }
    }
    stop.cancelled().await;
    Ok(())
}
