//! Which backend each slot of a pool's table should have, kept so that an unchanged pool costs nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::BackendId;

use crate::maglev::{self, MaglevError};

/// Maglev tables by table number.
#[derive(Clone, Debug, Default)]
pub struct Assignments(BTreeMap<u32, Assignment>);

#[derive(Clone, Debug)]
struct Assignment {
    backends: Vec<(SocketAddr, u32)>,
    /// Indexes into `backends`.
    slots: Vec<u32>,
}

impl Assignments {
    /// The backend of each of `size` slots of `table`, by weight; empty where no backend has any.
    pub fn of(
        &mut self,
        table: u32,
        size: u32,
        backends: &[(SocketAddr, u32, BackendId)],
    ) -> Result<Vec<BackendId>, MaglevError> {
        let weights: Vec<_> = backends.iter().map(|(address, weight, _)| (*address, *weight)).collect();
        if self.0.get(&table).is_none_or(|known| known.backends != weights) {
            let slots = maglev::build(&weights, size)?;
            self.0.insert(table, Assignment { backends: weights, slots });
        }
        let slots = self.0.get(&table).map(|known| known.slots.as_slice()).unwrap_or_default();
        let id = |index: &u32| backends.get(*index as usize).map_or(BackendId::NONE, |(.., id)| *id);
        Ok(slots.iter().map(id).collect())
    }

    /// Forgets all but these tables.
    pub fn retain(&mut self, wanted: impl Fn(u32) -> bool) {
        self.0.retain(|table, _| wanted(*table));
    }
}
