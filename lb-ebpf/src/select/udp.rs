//! UDP in a tracked slot.
//!
//! A datagram does not tell whether it begins a flow. So for one idle time-out after a change every flow that
//! speaks is taken for an old one and remembered for `fallback`; whoever has no entry then is silent, and the
//! controller lets `fallback` become `current`. No flow moves, and the old backend gets its last new flow one
//! idle time-out after the change.

use lb_common::{BackendId, Counter, Flow};

use super::{Tracked, default, live_flow};
use crate::tables::Tables;

impl<T: Tables> Tracked<'_, T> {
    /// The backend of a datagram, and whether it made the flow's entry.
    #[inline(always)]
    pub(super) fn datagram(&self) -> Result<(BackendId, bool), Counter> {
        if let Some(id) = self.known() {
            return Ok((id, false));
        }
        let id = default(self.tables, self.slot);
        if !id.is_some() || (id == self.slot.current() && !self.service.tracks_always()) {
            return Ok((id, false));
        }
        let flow = Flow {
            backend: id,
            slot: self.index,
            table: self.service.table,
            seq: 0,
            expires: self.now.wrapping_add(self.service.established),
            closing: 0,
        };
        if self.tables.admit(self.now) && self.tables.insert_flow(self.key, &flow) {
            return Ok((id, true));
        }
        // Full, guarded, or another CPU was quicker with the same flow.
        if let Some(id) = self.known() {
            return Ok((id, false));
        }
        Ok((self.unremembered(id)?, false))
    }

    /// The backend of a flow that has an entry.
    #[inline(always)]
    fn known(&self) -> Option<BackendId> {
        let (entry, flow) = live_flow(self.tables, self.key, self.now)?;
        self.extend(&entry, &flow, self.service.established);
        Some(flow.backend)
    }
}
