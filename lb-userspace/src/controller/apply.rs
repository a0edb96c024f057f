//! Actions against the kernel planes' maps, and what they have confirmed. Calls block.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::plan;
use super::slots::TableState;
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::{KernelAction, KernelState, KernelTables, Slots};

/// New tables that are made at once. One update for all of them waits once for all programs to have ended; more would
/// keep too many descriptors open.
const AT_ONCE: usize = 64;

/// What the kernel planes have confirmed: nothing else ever enters here.
#[derive(Clone, Debug, Default)]
pub struct Confirmed {
    /// What stands in the maps.
    pub applied: KernelState,
    /// The tables again, with the times of their changes.
    pub tables: BTreeMap<u32, TableState>,
    /// Tables whose last write was reported as failed: it may have been done all the same. Until the next audit nothing
    /// is built on what is known of their slots.
    pub doubtful: BTreeSet<u32>,
}

impl Confirmed {
    /// What a previous daemon left behind, or what an audit found; `now` in ticks.
    pub fn adopt(mut observed: KernelState, now: u32) -> Self {
        observed.backends.retain(|_, backend| backend.id.is_some());
        let adopt = |(table, slots): (&u32, &Slots)| (*table, TableState::adopt(Arc::clone(slots), now));
        let tables = observed.tables.iter().map(adopt).collect();
        Self { applied: observed, tables, doubtful: BTreeSet::new() }
    }

    /// Does one action and records it.
    pub fn apply(&mut self, kernel: &mut dyn KernelTables, action: &KernelAction) -> Result<(), PlaneError> {
        if let Err(error) = kernel.apply(action) {
            if let KernelAction::SwapTable { table, .. } | KernelAction::DropTable { table } = action {
                self.doubtful.insert(*table);
            }
            return Err(error);
        }
        self.applied.record(action);
        match action {
            KernelAction::SwapTable { table, slots } => {
                let now = kernel.now();
                self.tables
                    .entry(*table)
                    .and_modify(|state| state.commit(slots.clone(), now))
                    .or_insert_with(|| TableState::adopt(slots.clone(), now));
            }
            KernelAction::DropTable { table } => {
                self.tables.remove(table);
            }
            _ => {}
        }
        Ok(())
    }

    /// Does what can be done of a plan. Once there are `errors`, what builds on something that is not there
    /// is left for a later plan.
    pub fn apply_all(
        &mut self,
        kernel: &mut dyn KernelTables,
        actions: &[KernelAction],
        errors: &mut Vec<PlaneError>,
    ) {
        let mut actions = actions;
        while let Some((action, rest)) = actions.split_first() {
            let new = self.new_tables(actions);
            if new.len() > 1 && errors.is_empty() {
                actions = actions.get(new.len()..).unwrap_or_default();
                errors.extend(self.make_tables(kernel, &new).err());
                continue;
            }
            actions = rest;
            if !errors.is_empty() && !plan::may_apply(&self.applied, action) {
                continue;
            }
            if let Err(error) = self.apply(kernel, action) {
                errors.push(error);
            }
        }
    }

    /// The tables that these actions begin with, as long as they make new ones.
    fn new_tables(&self, actions: &[KernelAction]) -> Vec<(u32, Slots)> {
        let tables = actions.iter().map_while(|action| match action {
            KernelAction::SwapTable { table, slots } if !self.applied.tables.contains_key(table) => {
                Some((*table, Arc::clone(slots)))
            }
            _ => None,
        });
        tables.take(AT_ONCE).collect()
    }

    fn make_tables(
        &mut self,
        kernel: &mut dyn KernelTables,
        tables: &[(u32, Slots)],
    ) -> Result<(), PlaneError> {
        if let Err(error) = kernel.make_tables(tables) {
            self.doubtful.extend(tables.iter().map(|(table, _)| *table));
            return Err(error);
        }
        let now = kernel.now();
        for (table, slots) in tables {
            self.applied.tables.insert(*table, Arc::clone(slots));
            self.tables.insert(*table, TableState::adopt(Arc::clone(slots), now));
        }
        Ok(())
    }

    /// Compares with what stands in the maps and believes those. Returns the actions that would undo the
    /// difference; the next plan does.
    ///
    /// Slots that differ are adopted, not written over: what they say is where flows have gone since.
    pub fn audit(&mut self, kernel: &mut dyn KernelTables) -> Result<Vec<KernelAction>, PlaneError> {
        let mut observed = kernel.read_back(&self.applied)?;
        observed.backends.retain(|_, backend| backend.id.is_some());
        let now = kernel.now();
        let drift = plan::plan(&observed, &self.applied);
        for (table, slots) in &observed.tables {
            let known = self.tables.get(table);
            let same_size = known.is_none_or(|known| known.slots().len() == slots.len());
            if same_size && self.applied.tables.get(table) != Some(slots) {
                self.tables.insert(*table, TableState::adopt(Arc::clone(slots), now));
            }
        }
        self.applied = observed;
        self.doubtful.clear();
        Ok(drift)
    }
}
