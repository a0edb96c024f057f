//! What goes on by itself in the kernel planes while something is tracked: sweeping, settling, untracking.
//! Calls block.

use std::collections::BTreeMap;

use super::apply::Confirmed;
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::{KernelAction, KernelTables, Slots, Sweep};

/// Deletes what has expired from the flow tables, and untracks the slots of which they hold nothing more.
///
/// No swap lies between the sweep and its use, and every swap before it has waited for its grace period, so
/// the sweep has seen every entry that could be of another backend.
pub fn sweep(kernel: &mut dyn KernelTables, confirmed: &mut Confirmed) -> Result<Sweep, PlaneError> {
    let sweep = kernel.sweep(kernel.now())?;
    let swaps: Vec<_> = confirmed
        .tables
        .iter()
        .filter(|(table, _)| !confirmed.doubtful.contains(table))
        .filter_map(|(table, state)| Some((*table, Slots::new(state.untrack(*table, &sweep)?))))
        .collect();
    for (table, slots) in swaps {
        confirmed.apply(kernel, &KernelAction::SwapTable { table, slots })?;
    }
    Ok(sweep)
}

/// Settles the slots whose old flows have been silent for the idle time of their table (`idle`, in ticks).
pub fn settle(
    kernel: &mut dyn KernelTables,
    confirmed: &mut Confirmed,
    idle: &BTreeMap<u32, u32>,
) -> Result<(), PlaneError> {
    for (table, idle) in idle {
        if confirmed.doubtful.contains(table) {
            continue;
        }
        let Some(state) = confirmed.tables.get(table).filter(|state| state.is_tracked()) else { continue };
        let old_seen = kernel.old_seen(*table)?;
        if let Some(slots) = state.mark_settling(&old_seen, kernel.now(), *idle) {
            confirmed.apply(kernel, &KernelAction::SwapTable { table: *table, slots: slots.into() })?;
        }
        // The swap has waited for its grace period: no packet can stamp a slot any more and send a new flow
        // to its fallback.
        let Some(state) = confirmed.tables.get(table).filter(|state| state.is_settling()) else { continue };
        let old_seen = kernel.old_seen(*table)?;
        if let Some(slots) = state.settle(&old_seen, kernel.now(), *idle) {
            confirmed.apply(kernel, &KernelAction::SwapTable { table: *table, slots: slots.into() })?;
        }
    }
    Ok(())
}
