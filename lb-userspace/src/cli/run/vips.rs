//! The VIPs that this host has to own: put on an interface before the proxy plane listens on them, kept there,
//! and taken off when no service needs them any more.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::data_plane::PlaneError;
use crate::data_plane::flows::FlowSource;
use crate::data_plane::proxy::{ProxyAction, ProxyCounters, ProxyPlane};
use crate::network::addresses::PutAddress;
use crate::network::{Facts, Network};
use crate::proxy::Proxy;
use crate::supervisor::Outcome;

/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// The proxy plane on VIPs that are put on the host first.
pub(super) struct Hosted {
    pub(super) proxy: Proxy,
    pub(super) vips: watch::Receiver<BTreeSet<IpAddr>>,
    pub(super) network: Arc<Network>,
    pub(super) runtime: runtime::Handle,
}

impl ProxyPlane for Hosted {
    /// Blocks; must not be called on the reactor.
    fn apply(&mut self, action: &ProxyAction) -> Result<(), PlaneError> {
        if let ProxyAction::Listen { listen, .. } = action
            && self.vips.borrow().contains(&listen.address.ip())
        {
            self.runtime
                .block_on(self.network.put_address(listen.address.ip()))
                .map_err(|error| PlaneError::new(format!("listen {listen}"), error))?;
        }
        self.proxy.apply(action)
    }

    fn connections(&self) -> Box<dyn FlowSource> {
        self.proxy.connections()
    }

    fn traffic(&self) -> ProxyCounters {
        self.proxy.traffic()
    }
}

/// Keeps the wanted VIPs on the host, also where somebody else takes one off, and takes off what was wanted
/// once. At the end all stay: which of them may go is decided by who stops the daemon.
pub(super) async fn keep(
    mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
    mut facts: watch::Receiver<Facts>,
    network: Arc<Network>,
    stop: CancellationToken,
) -> Outcome {
    let mut put = BTreeSet::new();
    loop {
        let vips = wanted.borrow_and_update().clone();
        let (local, ours) = {
            let facts = facts.borrow_and_update();
            (facts.local.clone(), facts.ours.clone())
        };
        let mut failed = false;
        for &ip in vips.difference(&local) {
            match network.put_address(ip).await {
                Ok(PutAddress::Ours(interface)) if put.insert(ip) => {
                    tracing::info!(%ip, interface, "VIP is an address of this host now");
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%ip, "VIP cannot be put on this host: {error}");
                    failed = true;
                }
            }
        }
        // What an earlier daemon left is among them.
        put.extend(vips.iter().chain(&ours));
        for ip in put.difference(&vips).copied().collect::<Vec<_>>() {
            match network.take_address(ip).await {
                Ok(()) => {
                    put.remove(&ip);
                }
                Err(error) => {
                    tracing::error!(%ip, "VIP cannot be taken off: {error}");
                    failed = true;
                }
            }
        }
        let changed = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = wanted.changed() => changed,
            changed = facts.changed() => changed,
            () = sleep(PAUSE), if failed => Ok(()),
        };
        if changed.is_err() {
            stop.cancelled().await;
            return Ok(());
        }
    }
}
