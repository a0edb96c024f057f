//! `sluice status`: the status document as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::model::status::{BackendStatus, LocalTraffic, PoolStatus, ServiceStatus, Status};

use super::drain;
use super::output::plain;
use super::table::Align::{Left, Right};
use super::table::Table;

const ABOUT_FLOWS: &str = "\
FLOWS: on the proxy plane the open connections; on the kernel planes the tracked flows alone, since those of a
stable slot need no entry and nobody can count them. NEW: flows begun since the start.
";

/// The whole document. Pure: the same document gives the same text.
pub fn render(status: &Status) -> String {
    let mut text = format!("sluice {}, {}, started at {}\n", status.version, status.phase, status.started_at);
    if !status.planes.is_empty() {
        text.push('\n');
        text.push_str(&planes(status));
    }
    text.push_str(&local(&status.local));
    text.push('\n');
    text.push_str(&services(&status.services));
    text.push_str(&vips(&status.services));
    for pool in &status.pools {
        text.push('\n');
        text.push_str(&pool_text(pool));
    }
    let tables = [fills(status), counts("DROPS", &status.drops), counts("EVENTS", &status.events)];
    for table in tables.into_iter().flatten() {
        text.push('\n');
        text.push_str(&table);
    }
    for warning in &status.warnings {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\nwarning: {}", plain(warning));
    }
    text.push('\n');
    text.push_str(ABOUT_FLOWS);
    text
}

/// The counters that are not zero.
fn counts(head: &str, counts: &BTreeMap<String, u64>) -> Option<String> {
    let mut table = Table::new([(head, Left), ("PACKETS", Right)]);
    let counted = counts.iter().filter(|(_, count)| **count > 0);
    let rows = counted.map(|(name, count)| table.row([name.clone(), count.to_string()])).count();
    (rows > 0).then(|| table.render(""))
}

/// The tables that remember flows, where they remember any.
fn fills(status: &Status) -> Option<String> {
    let mut text = Table::new([("TABLE", Left), ("ENTRIES", Right), ("CAPACITY", Right)]);
    for table in &status.tables {
        text.row([table.name.clone(), table.entries.to_string(), table.capacity.to_string()]);
    }
    status.tables.iter().any(|table| table.entries > 0).then(|| text.render(""))
}

fn planes(status: &Status) -> String {
    let mut table = Table::new([("INTERFACE", Left), ("PLANE", Left), ("REASON", Left)]);
    for plane in &status.planes {
        table.row([plane.interface.clone(), or_dash(plane.plane), plane.reason.clone()]);
    }
    table.render("")
}

/// Whether clients on this host reach the VIPs of kernel planes.
fn local(local: &LocalTraffic) -> String {
    let place = match &local.cgroup {
        Some(cgroup) => format!("led to backends at {}", plain(&cgroup.display().to_string())),
        None => "not led to backends".to_owned(),
    };
    format!("clients on this host: {place} ({})\n", plain(&local.reason))
}

fn services(services: &[ServiceStatus]) -> String {
    let mut table = Table::new([
        ("SERVICE", Left),
        ("LISTEN", Left),
        ("POOL", Left),
        ("FORWARD", Left),
        ("PLANE", Left),
        ("FLOWS", Right),
        ("NEW", Right),
        ("PACKETS/S", Right),
        ("BYTES", Right),
        ("DROPS", Right),
        ("REASON", Left),
    ]);
    for service in services {
        let listen = service.listen.iter().map(|listen| format!("{}/{listen}", service.protocol));
        table.row([
            service.name.clone(),
            listen.collect::<Vec<_>>().join(" "),
            service.pool.clone(),
            service.forward.clone(),
            or_dash(service.plane),
            service.flows.to_string(),
            or_dash(service.new_flows),
            service.rate.map_or_else(dash, |rate| format!("{rate:.0}")),
            bytes(service.bytes),
            service.drops.to_string(),
            service.reason.clone(),
        ]);
    }
    table.render("")
}

/// Once for each address, however many services share it.
fn vips(services: &[ServiceStatus]) -> String {
    let vips: BTreeMap<_, _> =
        services.iter().flat_map(|service| &service.vips).map(|vip| (vip.address, vip)).collect();
    if vips.is_empty() {
        return String::new();
    }
    let mut table = Table::new([("VIP", Left), ("OWNER", Left), ("REASON", Left)]);
    for vip in vips.values() {
        table.row([vip.address.to_string(), vip.owner.clone(), vip.reason.clone()]);
    }
    format!("\n{}", table.render(""))
}

fn pool_text(pool: &PoolStatus) -> String {
    let mut table = Table::new([
        ("BACKEND", Left),
        ("STATE", Left),
        ("WEIGHT", Right),
        ("SHARE", Right),
        ("FLOWS", Right),
        ("NEW", Right),
        ("BYTES", Right),
        ("LAST CHECK", Left),
        ("REASON", Left),
    ]);
    for backend in &pool.backends {
        table.row([
            backend.address.to_string(),
            backend.state.clone(),
            weight(backend),
            format!("{:.1} %", backend.share * 100.0),
            backend.flows.to_string(),
            or_dash(backend.new_flows),
            bytes(backend.bytes),
            last_check(backend),
            backend.reason.clone(),
        ]);
    }
    let mut text =
        format!("pool {}: {}, table of {} slots\n", plain(&pool.name), pool.scheduler, pool.table_size);
    text.push_str(&table.render("  "));
    for backend in &pool.backends {
        if let Some(drain) = &backend.drain {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {} drains: {}", backend.address, drain::words(drain));
        }
    }
    for leaving in &pool.leaving {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {} leaves: {}", leaving.address, drain::words(&leaving.drain));
    }
    for removed in &pool.removed {
        let _ = writeln!(text, "  {removed} is in the file, removed at run time");
    }
    text
}

/// The weight, what is left of it where that differs, and what the file says where it was set at run time.
fn weight(backend: &BackendStatus) -> String {
    let mut text = if u32::from(backend.weight) == backend.effective_weight {
        backend.weight.to_string()
    } else {
        format!("{} of {}", backend.effective_weight, backend.weight)
    };
    match backend.configured_weight {
        None => text.push_str(" (added)"),
        Some(configured) if configured != backend.weight => {
            // Writing to a string cannot fail.
            let _ = write!(text, " (file: {configured})");
        }
        Some(_) => {}
    }
    text
}

fn last_check(backend: &BackendStatus) -> String {
    match &backend.last_check {
        Some(check) => {
            let outcome = if check.ok { "ok" } else { "failed" };
            format!("{outcome} in {:.1} ms: {}", check.took_ms, check.detail)
        }
        None => dash(),
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(dash, |value| value.to_string())
}

fn dash() -> String {
    "-".into()
}

/// In the largest binary unit that leaves at least 1.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 1024.0 && units.len() > 0 {
        value /= 1024.0;
        unit = units.next();
    }
    format!("{value:.1} {}", unit.copied().unwrap_or_default())
}
