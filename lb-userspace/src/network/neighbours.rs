//! Neighbours that stay resolved.
//!
//! A *managed* neighbour (`NTF_EXT_MANAGED`, Linux 5.16, commit 7482e3841d52) is probed by the kernel for as
//! long as its interface is up, also after the daemon has died. Older kernels ignore the flag: there the
//! entries are only used (`NTF_USE`) again and again while the daemon lives.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteProtocol;
use tokio::time::Instant;

use super::NetworkError;
use super::socket::Requests;
use super::tables::{OURS, Tables};

/// How often a neighbour that does not answer is asked for.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What has to be asked of the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Upkeep {
    /// To be made managed, or asked for again.
    pub(super) keep: Vec<(u32, IpAddr)>,
    /// Managed by us and no longer wanted.
    pub(super) give_up: Vec<(u32, IpAddr)>,
}

/// Compares the neighbour table with what is wanted. `asked` holds the time of each neighbour's last request.
pub(super) fn upkeep(
    tables: &Tables,
    wanted: BTreeSet<(u32, IpAddr)>,
    asked: &mut HashMap<(u32, IpAddr), Instant>,
    now: Instant,
) -> Upkeep {
    let give_up = tables
        .neighbours
        .iter()
        .filter(|(key, entry)| entry.ours && entry.managed && !wanted.contains(key))
        .map(|(key, _)| *key)
        .collect();
    asked.retain(|key, _| wanted.contains(key));
    let mut keep = Vec::new();
    for key in wanted {
        let settled = tables.neighbours.get(&key).is_some_and(|entry| {
            entry.is_static() || (entry.managed && entry.state != NeighbourState::Failed)
        });
        let recent = asked.get(&key).is_some_and(|time| now.duration_since(*time) < RETRY);
        if !settled && !recent {
            asked.insert(key, now);
            keep.push(key);
        }
    }
    Upkeep { keep, give_up }
}

/// Has the kernel keep this neighbour resolved.
pub(super) async fn keep(handle: &Handle, key: (u32, IpAddr)) -> Result<(), NetworkError> {
    let marks = vec![
        NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
        NeighbourAttribute::Protocol(RouteProtocol::Other(OURS)),
    ];
    put(handle, key, marks).await
}

/// Has the kernel forget what it knows of this neighbour, and ask for it anew: it would go on sending to a MAC address
/// that nobody has any more for up to a minute (`base_reachable_time`, and then the probes).
pub(super) async fn renew(handle: &Handle, key: (u32, IpAddr)) -> Result<(), NetworkError> {
    match delete(handle, key).await {
        Ok(()) => {}
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error),
    }
    keep(handle, key).await
}

/// Has the kernel resolve this neighbour once. An update without the managed flag takes it away: this is how
/// a neighbour is given up, too.
pub(super) async fn use_once(handle: &Handle, key: (u32, IpAddr)) -> Result<(), NetworkError> {
    put(handle, key, Vec::new()).await
}

async fn put(
    handle: &Handle,
    (interface, ip): (u32, IpAddr),
    marks: Vec<NeighbourAttribute>,
) -> Result<(), NetworkError> {
    let mut request = handle
        .neighbours()
        .add(interface, ip)
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace();
    request.message_mut().attributes.extend(marks);
    request
        .execute()
        .await
        .map_err(|error| NetworkError::netlink(format!("neighbour {ip} on interface {interface}"), &error))
}

/// Deletes every neighbour entry that carries our mark, and says how many there were. The host's stack makes
/// those that it needs itself again. Needs no memory of what a daemon did: for `sluice cleanup`.
///
/// # Errors
/// The kernel refuses (CAP_NET_ADMIN), or cannot be asked.
pub async fn release() -> Result<usize, NetworkError> {
    let requests = Requests::open()?;
    let tables = requests.dump().await?;
    let mut released = 0;
    for (key, _) in tables.neighbours.iter().filter(|(_, entry)| entry.ours) {
        match delete(&requests.handle, *key).await {
            Ok(()) => released += 1,
            // Its interface went away meanwhile, and the entry with it.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(released)
}

async fn delete(handle: &Handle, (interface, ip): (u32, IpAddr)) -> Result<(), NetworkError> {
    let mut message = NeighbourMessage::default();
    message.header.family = match ip {
        IpAddr::V4(_) => rtnetlink::packet_route::AddressFamily::Inet,
        IpAddr::V6(_) => rtnetlink::packet_route::AddressFamily::Inet6,
    };
    message.header.ifindex = interface;
    message.attributes.push(NeighbourAttribute::Destination(ip.into()));
    handle.neighbours().del(message).execute().await.map_err(|error| {
        NetworkError::netlink(format!("deleting neighbour {ip} on interface {interface}"), &error)
    })
}

fn is_gone(error: &NetworkError) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::fixtures::{self, ip};

    #[test]
    fn asks_for_what_is_missing_failed_or_not_managed_and_no_oftener_than_the_retry_time() {
        let mut tables = Tables::default();
        tables.fold(&fixtures::neighbour(2, "10.0.0.1", NeighbourState::Reachable, true));
        tables.fold(&fixtures::neighbour(2, "10.0.0.2", NeighbourState::Failed, true));
        tables.fold(&fixtures::neighbour(2, "10.0.0.3", NeighbourState::Stale, false));
        tables.fold(&fixtures::neighbour(2, "10.0.0.4", NeighbourState::Permanent, false));
        let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
        let wanted: BTreeSet<_> = all.iter().map(|text| (2, ip(text))).collect();
        let mut asked = HashMap::new();
        let now = Instant::now();
        let first = upkeep(&tables, wanted.clone(), &mut asked, now);
        assert_eq!(first.keep, ["10.0.0.2", "10.0.0.3", "10.0.0.5"].map(|text| (2, ip(text))));
        assert_eq!(upkeep(&tables, wanted.clone(), &mut asked, now + RETRY / 2), Upkeep::default());
        assert_eq!(upkeep(&tables, wanted, &mut asked, now + RETRY).keep, first.keep);
    }

    #[test]
    fn gives_up_only_what_carries_the_mark_and_is_not_wanted() {
        let mut tables = Tables::default();
        tables.fold(&fixtures::neighbour(2, "10.0.0.1", NeighbourState::Reachable, true));
        tables.fold(&fixtures::neighbour(2, "10.0.0.2", NeighbourState::Reachable, true));
        tables.fold(&fixtures::neighbour(2, "10.0.0.3", NeighbourState::Reachable, false));
        let wanted = BTreeSet::from([(2, ip("10.0.0.1"))]);
        let upkeep = upkeep(&tables, wanted, &mut HashMap::new(), Instant::now());
        assert_eq!(upkeep, Upkeep { keep: vec![], give_up: vec![(2, ip("10.0.0.2"))] });
    }
}
