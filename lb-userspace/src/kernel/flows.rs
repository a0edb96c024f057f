//! The flow tables, shared by those who sweep them and those who only look.

use std::path::Path;
use std::sync::Arc;

use lb_common::hash::Seed;
use lb_common::{Flow, FlowKey, HalfOpen, flow_table, names};

use super::error::KernelError;
use super::flow_table::FlowTable;
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::{FlowTables, TrackedFlow};

/// Both tables.
#[derive(Debug)]
pub(super) struct Flows {
    pub(super) half_open: FlowTable<HalfOpen>,
    pub(super) flows: FlowTable<Flow>,
}

impl Flows {
    /// Opens the pins in `maps`.
    pub(super) fn open(maps: &Path, seed: Seed) -> Result<Arc<Self>, KernelError> {
        let secret = flow_table::secret(seed);
        let half_open = FlowTable::open(names::MAP_HALF_OPEN, names::MAP_HALF_OPEN_BUCKETS, maps, secret)?;
        let flows = FlowTable::open(names::MAP_FLOWS, names::MAP_FLOW_BUCKETS, maps, secret)?;
        Ok(Arc::new(Self { half_open, flows }))
    }

    /// The entry of one flow.
    pub(super) fn get(&self, key: &FlowKey) -> Option<TrackedFlow> {
        let flow = || self.flows.get(key).map(TrackedFlow::Flow);
        // A promotion between the two look-ups inserts there before it deletes here.
        flow().or_else(|| self.half_open.get(key).map(TrackedFlow::HalfOpen)).or_else(flow)
    }
}

impl FlowTables for Flows {
    fn scan(&self, each: &mut dyn FnMut(&FlowKey, TrackedFlow)) -> Result<(), PlaneError> {
        // In the order of promotions: rather twice than not at all.
        self.half_open.iter().for_each(|found| each(&found.key, TrackedFlow::HalfOpen(found.value)));
        self.flows.iter().for_each(|found| each(&found.key, TrackedFlow::Flow(found.value)));
        Ok(())
    }
}
