//! Drain and stop: open connections end, and what must not stay is taken away.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::task::spawn_blocking;

use crate::cli::{Failure, cleanup};
use crate::controller::request::Handle;
use crate::model::{Phase, Plane};
use crate::network::{Network, NetworkError, addresses, neighbours, qdiscs};
use crate::supervisor::signals::{Intent, Signals};

use super::End;
use super::build::{Daemon, Parts};
use super::interfaces::Attacher;

/// For tasks that have been told to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends the daemon.
pub(super) async fn stop(
    daemon: Daemon,
    mut signals: Signals,
    end: End,
    detach: bool,
) -> Result<(), Failure> {
    let proxied = match end {
        End::Graceful => proxied_vips(&daemon.controller).await,
        End::Fast | End::Failed(_) => BTreeSet::new(),
    };
    let Daemon { supervisor, phase, parts, .. } = daemon;
    phase.send_replace(Phase::Draining);
    let Parts { config, network, serving, proxy, attacher } = parts;
    for late in supervisor.stop(PATIENCE).await {
        tracing::error!("{late}");
    }
    if let Ok(hosted) = proxy.await
        && matches!(end, End::Graceful)
    {
        let (drain_timeout, drain_spread) = {
            let daemon = &config.borrow().daemon;
            (daemon.drain_timeout, daemon.drain_spread)
        };
        tracing::info!(?drain_timeout, ?drain_spread, "draining; a further signal ends it");
        let drained = spawn_blocking(move || hosted.proxy.stop(drain_timeout, drain_spread));
        tokio::select! {
            drained = drained => drained.map_err(|error| anyhow!("the proxy plane cannot be drained: {error}"))?,
            () = further_signal(&mut signals) => tracing::warn!("stopping with open connections"),
        }
    }
    phase.send_replace(Phase::Stopping);
    let attacher = match attacher {
        Some(attacher) => attacher.await.ok(),
        None => None,
    };
    if detach {
        remove(attacher, network).await?;
    } else {
        let bpf_dir = config.borrow().daemon.bpf_dir.clone();
        leave(attacher, network, proxied, &bpf_dir).await;
    }
    drop(serving);
    tracing::info!("stopped");
    match end {
        End::Graceful | End::Fast => Ok(()),
        End::Failed(error) => Err(error.into()),
    }
}

async fn further_signal(signals: &mut Signals) {
    while signals.next().await == Intent::Reload {}
}

/// VIPs that only the proxy plane serves, and so nobody once it is gone.
async fn proxied_vips(controller: &Handle) -> BTreeSet<IpAddr> {
    let Ok(status) = controller.status().await else { return BTreeSet::new() };
    let of = |proxied: bool| {
        let services =
            status.services.iter().filter(move |service| proxied == (service.plane == Some(Plane::Proxy)));
        services.flat_map(|service| service.listen.iter().map(|listen| listen.ip()))
    };
    let others: BTreeSet<_> = of(false).collect();
    of(true).filter(|ip| !others.contains(ip)).collect()
}

/// Takes everything away.
async fn remove(attacher: Option<Attacher>, network: Arc<Network>) -> Result<(), Failure> {
    if let Some(attacher) = attacher {
        let report = attacher.into_programs().remove()?;
        for line in cleanup::words(&report).lines() {
            tracing::info!("{line}");
        }
        qdiscs::release(&report.qdiscs).await?;
    }
    let_go(network).await?;
    addresses::release().await?;
    Ok(())
}

/// Gives up the neighbours that were kept resolved.
async fn let_go(network: Arc<Network>) -> Result<usize, NetworkError> {
    match Arc::into_inner(network) {
        Some(network) => network.release().await,
        None => neighbours::release().await,
    }
}

/// Leaves the kernel planes forwarding, and says so.
async fn leave(
    attacher: Option<Attacher>,
    network: Arc<Network>,
    proxied: BTreeSet<IpAddr>,
    bpf_dir: &std::path::Path,
) {
    for ip in proxied {
        // Whoever looks for a live VIP must not find this one.
        if let Err(error) = network.take_address(ip).await {
            tracing::warn!(%ip, %error, "VIP stays on this host");
        }
    }
    if attacher.is_some() {
        tracing::info!(
            "the kernel planes stay pinned under {} and go on forwarding; `sluice cleanup` removes them",
            bpf_dir.display()
        );
    } else if let Err(error) = let_go(network).await {
        tracing::warn!(%error, "neighbours stay resolved, though nothing needs them any more");
    }
}
