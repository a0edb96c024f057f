//! The status document from what the controller knows. Pure.

mod drain;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use lb_common::{Counter, SocketKey, Traffic};

use super::apply::Confirmed;
use super::desired::{Fold, Judged, Pools};
use super::fill;
use super::ids::Part;
use super::kernel_state::Identities;
use super::ownership::{self, Ownership};
use super::placement::Placement;
use super::slots::TableState;
use crate::config::Config;
use crate::data_plane::kernel::{KernelCounters, Sweep};
use crate::data_plane::proxy::ProxyCounters;
use crate::maglev;
use crate::model::status::{
    BackendStatus, InterfacePlane, KeptStatus, Leaving, LocalTraffic, PoolStatus, ServiceStatus, Status,
    VipStatus, rfc3339,
};
use crate::model::{BackendState, Plane, Pool, Protocol, Scheduler, Service, Tracking};

/// Everything that the document shows.
pub struct View<'a> {
    /// Of the daemon.
    pub version: &'a str,
    /// Of the process.
    pub phase: &'a str,
    /// Of the process.
    pub started_at: SystemTime,
    /// One moment on both clocks.
    pub now: (SystemTime, Instant),
    /// In force.
    pub config: &'a Config,
    /// Of this moment.
    pub fold: &'a Fold,
    /// By service.
    pub placements: &'a BTreeMap<String, Placement>,
    /// By VIP.
    pub owners: &'a BTreeMap<IpAddr, Ownership>,
    /// By interface.
    pub planes: &'a [InterfacePlane],
    /// Of sockets of this host.
    pub local: &'a LocalTraffic,
    /// Where there are kernel planes.
    pub kernel: Option<Kernel<'a>>,
    /// Of the proxy plane.
    pub traffic: &'a ProxyCounters,
    /// With what was changed at run time.
    pub pools: &'a Pools,
    /// Entries of the maps that were repaired.
    pub drift_repaired: u64,
    /// What becomes of what was changed.
    pub kept: KeptStatus,
}

/// The kernel planes' part of a [`View`].
pub struct Kernel<'a> {
    /// What stands in the maps.
    pub confirmed: &'a Confirmed,
    /// Who is who there.
    pub identities: &'a Identities,
    /// The last sweep.
    pub sweep: &'a Sweep,
    /// Read now.
    pub counters: &'a KernelCounters,
    /// Packets a second, by service index.
    pub rate: &'a dyn Fn(u32) -> f64,
}

/// Builds the document.
pub fn build(view: &View<'_>) -> Status {
    let counters = view.kernel.as_ref().map(|kernel| &kernel.counters.counters);
    let count = |counter| counters.and_then(|counters| counters.get(&counter)).copied().unwrap_or(0);
    let counted = |is_asked: fn(Counter) -> bool| {
        let asked = Counter::ALL.iter().copied().filter(|counter| is_asked(*counter));
        asked.map(|counter| (counter.name().to_owned(), count(counter))).collect()
    };
    let tables: Vec<_> = view.kernel.iter().flat_map(|kernel| fill::tables(kernel.sweep)).collect();
    Status {
        version: view.version.to_owned(),
        phase: view.phase.to_owned(),
        started_at: rfc3339(view.started_at),
        planes: view.planes.to_vec(),
        local: view.local.clone(),
        services: view.config.services.iter().map(|configured| service(view, configured)).collect(),
        pools: view.config.pools.iter().map(|configured| pool(view, configured)).collect(),
        verdicts: counted(Counter::is_verdict),
        drops: counted(Counter::is_drop),
        events: counted(Counter::is_event),
        warnings: view.kept.problems.iter().cloned().chain(tables.iter().filter_map(fill::warning)).collect(),
        tables,
        drift_repaired: view.drift_repaired,
        kept: view.kept.clone(),
    }
}

fn service(view: &View<'_>, service: &Service) -> ServiceStatus {
    let placement = view.placements.get(&service.name);
    let (forward, plane) = match placement {
        Some(Placement::Kernel { plane, .. }) => ("nat", Some(*plane)),
        Some(Placement::Proxy { .. }) => ("proxy", Some(Plane::Proxy)),
        Some(Placement::Refused { .. }) | None => ("nat", None),
    };
    let mut status = ServiceStatus {
        name: service.name.clone(),
        listen: service.listen.clone(),
        protocol: service.protocol.name().into(),
        forward: forward.into(),
        plane,
        reason: placement.map(Placement::reason).unwrap_or_default().to_owned(),
        vips: ownership::vips(service)
            .filter_map(|address| {
                let Ownership { owner, reason } = view.owners.get(&address)?;
                Some(VipStatus { address, owner: owner.name().into(), reason: reason.clone() })
            })
            .collect(),
        pool: service.pool.clone(),
        flows: 0,
        new_flows: None,
        packets: None,
        bytes: 0,
        reply_packets: None,
        reply_bytes: 0,
        drops: 0,
        rate: None,
    };
    let is_kernel = placement.is_some_and(Placement::is_kernel);
    for listen in service.listens() {
        if let (true, Some(kernel)) = (is_kernel, &view.kernel) {
            let key = SocketKey::new(listen.address, listen.protocol.number());
            let Some(entry) = kernel.confirmed.applied.services.get(&key) else { continue };
            let index = entry.id.index();
            let traffic = kernel.counters.services.get(&index).copied().unwrap_or_default();
            status.flows += kernel.sweep.by_service.get(&index).copied().unwrap_or(0);
            // Which datagram is the first of its flow is known only where every flow is remembered.
            if listen.protocol == Protocol::Tcp || entry.tracks_always() {
                *status.new_flows.get_or_insert(0) += traffic.new_flows;
            }
            *status.packets.get_or_insert(0) += traffic.packets;
            status.bytes += traffic.bytes;
            *status.reply_packets.get_or_insert(0) += traffic.reply_packets;
            status.reply_bytes += traffic.reply_bytes;
            status.drops += traffic.drops;
            *status.rate.get_or_insert(0.0) += (kernel.rate)(index);
        } else if let Some((traffic, _)) = view.traffic.get(&listen) {
            status.flows += traffic.connections;
            *status.new_flows.get_or_insert(0) += traffic.new_connections;
            if listen.protocol == Protocol::Udp {
                *status.packets.get_or_insert(0) += traffic.packets;
                *status.reply_packets.get_or_insert(0) += traffic.reply_packets;
            }
            status.bytes += traffic.bytes;
            status.reply_bytes += traffic.reply_bytes;
            status.drops += traffic.failures;
        }
    }
    status
}

fn pool(view: &View<'_>, pool: &Pool) -> PoolStatus {
    let judged = view.fold.of(&pool.name);
    let heard: HashMap<_, _> = view.pools.heard(&pool.name).collect();
    let slots = slots(view, pool, judged);
    let total: u64 = slots.values().sum();
    let weights: u32 = judged.iter().map(|judged| judged.member.weight).sum();
    let share = |judged: &Judged, slots: u64| match (total, weights) {
        (0, 0) => 0.0,
        // A scheduler without slots goes by weight.
        (0, weights) => f64::from(judged.member.weight) / f64::from(weights),
        (total, _) => slots as f64 / total as f64,
    };
    let backend = |judged: &Judged| {
        let slots = slots.get(&judged.member.address).copied().unwrap_or(0);
        let (last_check, agent) = heard.get(&judged.member.address).cloned().unwrap_or_default();
        BackendStatus {
            last_check: last_check.cloned(),
            agent,
            ..backend(view, pool, judged, slots, share(judged, slots))
        }
    };
    let leaving = |judged: &Judged| {
        judged.leaving?;
        Some(Leaving { address: judged.member.address, drain: drain::drain(view, pool, judged)? })
    };
    PoolStatus {
        name: pool.name.clone(),
        scheduler: pool.scheduler.name().into(),
        table_size: pool.table_size,
        moved_slots: tables(view, pool).map(TableState::moved).sum(),
        backends: judged.iter().filter(|judged| judged.leaving.is_none()).map(backend).collect(),
        leaving: judged.iter().filter_map(leaving).collect(),
        removed: view.pools.removed(&pool.name),
    }
}

/// A pool's tables on the kernel planes.
fn tables<'a>(view: &'a View<'_>, pool: &Pool) -> impl Iterator<Item = &'a TableState> {
    let parts = view.kernel.iter().flat_map(|kernel| Part::ALL.map(move |part| (kernel, part)));
    parts.filter_map(|(kernel, part)| {
        let number = kernel.identities.table(&pool.name, part)?;
        kernel.confirmed.tables.get(&number)
    })
}

/// Slots by backend, over the pool's tables; on the proxy plane those of the table that it builds.
fn slots(view: &View<'_>, pool: &Pool, judged: &[Judged]) -> BTreeMap<SocketAddr, u64> {
    let mut by_backend = BTreeMap::new();
    if let Some(kernel) = &view.kernel {
        let tables: Vec<_> = tables(view, pool).collect();
        for address in judged.iter().map(|judged| judged.member.address) {
            let ids = kernel.identities.of(address);
            let slots = ids.flat_map(|id| tables.iter().map(move |table| table.holdings(id).current)).sum();
            if slots > 0 {
                by_backend.insert(address, slots);
            }
        }
        if !tables.is_empty() {
            return by_backend;
        }
    }
    if pool.scheduler == Scheduler::Maglev {
        let members: Vec<_> = judged.iter().map(|j| (j.member.address, j.member.weight)).collect();
        for index in maglev::build(&members, pool.table_size).unwrap_or_default() {
            if let Some((address, _)) = members.get(index as usize) {
                *by_backend.entry(*address).or_insert(0) += 1;
            }
        }
    }
    by_backend
}

fn backend(view: &View<'_>, pool: &Pool, judged: &Judged, slots: u64, share: f64) -> BackendStatus {
    let address = judged.member.address;
    let mut status = BackendStatus {
        address,
        weight: judged.weight,
        configured_weight: judged.configured,
        drain: drain::drain(view, pool, judged),
        overrides: judged.overrides.iter().map(|word| (*word).to_owned()).collect(),
        effective_weight: judged.member.weight,
        state: state(judged.state).into(),
        reason: judged.reason.clone(),
        slots,
        share,
        flows: 0,
        new_flows: None,
        packets: None,
        bytes: 0,
        reply_packets: None,
        reply_bytes: 0,
        handshakes: None,
        failures: None,
        timeouts: None,
        last_check: None,
        agent: None,
    };
    let mut services = view.config.services.iter().filter(|service| service.pool == pool.name);
    let knows_udp_flows =
        services.any(|service| service.protocol == Protocol::Udp && service.tracking == Tracking::Always);
    let ids = view.kernel.iter().flat_map(|kernel| kernel.identities.of(address).map(move |id| (kernel, id)));
    for (kernel, id) in ids {
        let traffic = kernel.counters.backends.get(&id.index()).copied().unwrap_or_else(Traffic::default);
        status.flows += kernel.sweep.by_backend.get(&id).copied().unwrap_or(0);
        let protocol =
            kernel.confirmed.applied.backends.get(&id.index()).map(|entry| entry.endpoint().protocol);
        let is_tcp = protocol == Some(u16::from(Protocol::Tcp.number()));
        if let Some(found) = kernel.counters.handshakes.get(&id.index()).filter(|_| is_tcp) {
            let handshakes = status.handshakes.get_or_insert_default();
            handshakes.syns += found.syns;
            handshakes.accepted += found.accepted;
            handshakes.refused += found.refused;
        }
        if is_tcp || knows_udp_flows {
            *status.new_flows.get_or_insert(0) += traffic.new_flows;
        }
        *status.packets.get_or_insert(0) += traffic.packets;
        status.bytes += traffic.bytes;
        *status.reply_packets.get_or_insert(0) += traffic.reply_packets;
        status.reply_bytes += traffic.reply_bytes;
    }
    let services = view.config.services.iter().filter(|service| service.pool == pool.name);
    for listen in services.flat_map(Service::listens) {
        let traffic = view.traffic.get(&listen).and_then(|(_, backends)| backends.get(&address));
        if let Some(traffic) = traffic {
            status.flows += traffic.connections;
            *status.new_flows.get_or_insert(0) += traffic.new_connections;
            *status.failures.get_or_insert(0) += traffic.failures;
            *status.timeouts.get_or_insert(0) += traffic.timeouts;
            if listen.protocol == Protocol::Udp {
                *status.packets.get_or_insert(0) += traffic.packets;
                *status.reply_packets.get_or_insert(0) += traffic.reply_packets;
            }
            status.bytes += traffic.bytes;
            status.reply_bytes += traffic.reply_bytes;
        }
    }
    status
}

const fn state(state: BackendState) -> &'static str {
    match state {
        BackendState::Up => "up",
        BackendState::Down => "down",
        BackendState::Draining => "draining",
        BackendState::Maintenance => "maintenance",
        BackendState::Starting => "starting",
    }
}
