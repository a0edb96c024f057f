//! The sweep of the flow tables: the only place that deletes expired entries.

use std::collections::HashMap;

use lb_common::{BackendId, Flow, FlowKey, HalfOpen, ticks};

use super::syscall::Batch;
use super::table::{Plain, Table};
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::Sweep;

/// What both kinds of entry have.
trait Entry: Plain {
    fn backend(&self) -> BackendId;
    fn place(&self) -> (u32, u32);
    fn expires(&self) -> u32;
    /// Whether it counts as a flow.
    fn is_flow(&self) -> bool;
}

impl Entry for HalfOpen {
    fn backend(&self) -> BackendId {
        self.backend
    }
    fn place(&self) -> (u32, u32) {
        (self.table, self.slot)
    }
    fn expires(&self) -> u32 {
        self.expires
    }
    fn is_flow(&self) -> bool {
        self.proven != 0
    }
}

impl Entry for Flow {
    fn backend(&self) -> BackendId {
        self.backend
    }
    fn place(&self) -> (u32, u32) {
        (self.table, self.slot)
    }
    fn expires(&self) -> u32 {
        self.expires
    }
    fn is_flow(&self) -> bool {
        true
    }
}

/// Deletes what has expired at `now`, reports what lives. `half_open` goes first: a flow that is promoted
/// meanwhile is then seen at least once.
pub(super) fn sweep(
    half_open: &Table<FlowKey, HalfOpen>,
    flows: &Table<FlowKey, Flow>,
    now: u32,
) -> Result<Sweep, PlaneError> {
    let mut report = Sweep {
        half_open_capacity: half_open.capacity(),
        flows_capacity: flows.capacity(),
        ..Sweep::default()
    };
    report.half_open = sweep_table(half_open, now, &mut report)?;
    report.flows = sweep_table(flows, now, &mut report)?;
    Ok(report)
}

/// Returns the number of live entries.
fn sweep_table<V: Entry>(table: &Table<FlowKey, V>, now: u32, report: &mut Sweep) -> Result<u64, PlaneError> {
    let mut live = 0;
    table.scan(Batch::Read, |keys, entries| {
        for (key, entry) in keys.iter().zip(entries) {
            if ticks::is_past(entry.expires(), now) {
                // Read again: a packet that saw it alive at the last moment may have prolonged it since. The
                // window that remains, between this read and the delete, would need a packet that began
                // before the entry expired, at least one tick (17 ms) ago, and writes only now. Programs
                // treat an expired entry as absent, so they start no new life in it.
                match table.get(key)? {
                    None => continue,
                    Some(again) if ticks::is_past(again.expires(), now) => {
                        report.deleted += u64::from(table.delete(key)?);
                        continue;
                    }
                    Some(again) => count(report, key, &again),
                }
            } else {
                count(report, key, entry);
            }
            live += 1;
        }
        Ok(())
    })?;
    Ok(live)
}

fn count<V: Entry>(report: &mut Sweep, key: &FlowKey, entry: &V) {
    report.slots.entry(entry.place()).or_default().insert(entry.backend());
    if entry.is_flow() {
        add(&mut report.by_backend, entry.backend());
        add(&mut report.by_service, key.service.index());
    }
}

fn add<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u64>, key: K) {
    *counts.entry(key).or_default() += 1;
}
