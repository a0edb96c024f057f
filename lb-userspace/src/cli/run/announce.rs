//! Tells links where VIPs are: hosts that have asked before do not ask again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::network::{Network, OnLink};
use crate::supervisor::Outcome;

/// How often a VIP is announced, and how long between: a frame may get lost, and the link may have come up a
/// moment ago (RFC 4861 §10, `MAX_NEIGHBOR_ADVERTISEMENT` and `RETRANS_TIMER`).
const TIMES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// Announces every VIP that is new, or found elsewhere than before.
pub(super) async fn tell(
    mut found: watch::Receiver<BTreeMap<IpAddr, OnLink>>,
    network: Arc<Network>,
    stop: CancellationToken,
) -> Outcome {
    let mut told = BTreeMap::new();
    let mut pending: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let mut next = Instant::now();
    loop {
        let vips = found.borrow_and_update().clone();
        pending.retain(|vip, _| vips.contains_key(vip));
        let moved = vips.iter().filter(|(vip, link)| told.get(*vip) != Some(*link));
        for (vip, _) in moved {
            pending.insert(*vip, TIMES);
            next = Instant::now();
        }
        told = vips;
        if next <= Instant::now() {
            next += PAUSE;
            for (vip, left) in &mut pending {
                *left -= 1;
                let Some(link) = told.get(vip) else { continue };
                if let Err(error) = network.announce(*vip, *link) {
                    tracing::warn!(%vip, "not announced: {error}");
                }
            }
            pending.retain(|_, left| *left > 0);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = sleep_until(next), if !pending.is_empty() => {}
            changed = found.changed() => if changed.is_err() {
                stop.cancelled().await;
                return Ok(());
            }
        }
    }
}
