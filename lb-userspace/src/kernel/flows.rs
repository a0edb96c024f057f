//! The flow tables, shared by those who sweep them and those who only look.

use std::path::Path;
use std::sync::Arc;

use lb_common::{Flow, FlowKey, HalfOpen, names};

use super::error::KernelError;
use super::syscall::Batch;
use super::table::Table;
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::{FlowTables, TrackedFlow};

/// Both tables.
#[derive(Debug)]
pub(super) struct Flows {
    pub(super) half_open: Table<FlowKey, HalfOpen>,
    pub(super) flows: Table<FlowKey, Flow>,
}

impl Flows {
    /// Opens the pins in `maps`.
    pub(super) fn open(maps: &Path) -> Result<Arc<Self>, KernelError> {
        let half_open = Table::open(names::MAP_HALF_OPEN, maps)?;
        Ok(Arc::new(Self { half_open, flows: Table::open(names::MAP_FLOWS, maps)? }))
    }

    /// The entry of one flow.
    pub(super) fn get(&self, key: &FlowKey) -> Result<Option<TrackedFlow>, PlaneError> {
        if let Some(flow) = self.flows.get(key)? {
            return Ok(Some(TrackedFlow::Flow(flow)));
        }
        if let Some(half_open) = self.half_open.get(key)? {
            return Ok(Some(TrackedFlow::HalfOpen(half_open)));
        }
        // A promotion between the two look-ups inserts there before it deletes here.
        Ok(self.flows.get(key)?.map(TrackedFlow::Flow))
    }
}

impl FlowTables for Flows {
    fn scan(&self, each: &mut dyn FnMut(&FlowKey, TrackedFlow)) -> Result<(), PlaneError> {
        // In the order of promotions: rather twice than not at all.
        self.half_open.scan(Batch::Read, |keys, entries| {
            keys.iter().zip(entries).for_each(|(key, entry)| each(key, TrackedFlow::HalfOpen(*entry)));
            Ok(())
        })?;
        self.flows.scan(Batch::Read, |keys, entries| {
            keys.iter().zip(entries).for_each(|(key, entry)| each(key, TrackedFlow::Flow(*entry)));
            Ok(())
        })
    }
}
