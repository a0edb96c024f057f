//! What is known of the old flows of a backend that drains or leaves.

use std::time::Instant;

use super::View;
use crate::controller::desired::Judged;
use crate::controller::ids::Part;
use crate::model::status::{DrainStatus, rfc3339};
use crate::model::{Pool, Service};

/// Where a backend has a deadline.
pub(super) fn drain(view: &View<'_>, pool: &Pool, judged: &Judged) -> Option<DrainStatus> {
    let until = judged.leaving.or(judged.drain)?;
    let (wall, now) = view.now;
    // A moment that lies behind, as well as one ahead.
    let at = |moment: Instant| {
        wall + moment.saturating_duration_since(now) - now.saturating_duration_since(moment)
    };
    let slots = unknown_slots(view, pool, judged);
    Some(DrainStatus {
        until: rfc3339(at(until)),
        ends: rfc3339(at(until + view.config.daemon.drain_spread)),
        flows: flows(view, pool, judged),
        exact: slots == 0,
        slots,
    })
}

/// Entries that name it, and connections to it.
fn flows(view: &View<'_>, pool: &Pool, judged: &Judged) -> u64 {
    let address = judged.member.address;
    let kernel = view.kernel.iter().flat_map(|kernel| {
        let ids = kernel.identities.of(address);
        ids.map(|id| kernel.sweep.by_backend.get(&id).copied().unwrap_or(0))
    });
    let services = view.config.services.iter().filter(|service| service.pool == pool.name);
    let proxied = services.flat_map(Service::listens).filter_map(|listen| {
        let (_, backends) = view.traffic.get(&listen)?;
        Some(backends.get(&address)?.connections)
    });
    kernel.chain(proxied).sum()
}

/// Slots in which a flow without an entry is one of its own.
fn unknown_slots(view: &View<'_>, pool: &Pool, judged: &Judged) -> u64 {
    let Some(kernel) = &view.kernel else { return 0 };
    let ids: Vec<_> = kernel.identities.of(judged.member.address).collect();
    let tables = Part::ALL.into_iter().filter_map(|part| {
        let number = kernel.identities.table(&pool.name, part)?;
        kernel.confirmed.tables.get(&number)
    });
    tables.flat_map(|table| ids.iter().map(|id| table.holdings(*id).fallback)).sum()
}
