//! The sweep of the flow tables: the only place that frees expired entries.

use std::collections::HashMap;

use lb_common::{BackendId, Flow, FlowKey, HalfOpen, ticks};

use super::flow_table::FlowTable;
use super::table::Plain;
use crate::data_plane::kernel::{FlowCut, Sweep};

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

/// Frees what has expired at `now`, reports what lives. `half_open` goes first: a flow that is promoted
/// meanwhile is then seen at least once.
pub(super) fn sweep(half_open: &FlowTable<HalfOpen>, flows: &FlowTable<Flow>, now: u32) -> Sweep {
    let mut report = Sweep {
        half_open_capacity: half_open.capacity(),
        flows_capacity: flows.capacity(),
        ..Sweep::default()
    };
    report.half_open = sweep_table(half_open, now, &mut report);
    report.flows = sweep_table(flows, now, &mut report);
    report
}

/// Returns the number of live entries.
fn sweep_table<V: Entry>(table: &FlowTable<V>, now: u32, report: &mut Sweep) -> u64 {
    let mut live = 0;
    for found in table.iter() {
        // Programs treat an expired entry as absent, so they start no new life in it. But one that saw it alive at
        // the last moment may be prolonging it: that one began before the tick ended, so it gets a whole tick.
        if ticks::is_past(found.value.expires().wrapping_add(1), now) && table.free(&found) {
            report.deleted += 1;
            continue;
        }
        count(report, &found.key, &found.value);
        live += 1;
    }
    live
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

/// Lets flows expire whose backend lives; how many. Freeing them is left to the sweep, a tick later: a program may have
/// seen one alive at the last moment.
pub(super) fn cut(flows: &FlowTable<Flow>, cuts: &[FlowCut], now: u32) -> u64 {
    let is_alive = |flow: &Flow| !ticks::is_past(flow.expires, now);
    let taken =
        flows.iter().filter(|found| is_alive(&found.value) && cuts.iter().any(|cut| cut.takes(&found.value)));
    taken.filter(|found| flows.expire(found, now)).count() as u64
}
