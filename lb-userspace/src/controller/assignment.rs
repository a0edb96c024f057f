//! Which backends the slots of a pool's table were assigned to, kept so that a pool that did not change costs nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::BackendId;

use super::slots::{Shape, TableState};
use crate::data_plane::kernel::Slots;
use crate::maglev::{self, MaglevError};

/// A backend that takes new flows: its address, weight and id.
pub type Weighted = (SocketAddr, u32, BackendId);

/// The last assignment of each table, by its number.
#[derive(Clone, Debug, Default)]
pub struct Assignments(BTreeMap<u32, Assignment>);

#[derive(Clone, Debug)]
struct Assignment {
    backends: Vec<Weighted>,
    known: Known,
}

/// How the slots are recognized that an assignment led to.
#[derive(Clone, Debug)]
enum Known {
    /// They were proposed to the kernel.
    Proposed(Slots),
    /// They were confirmed; whatever has happened to them since, no `current` has changed.
    Confirmed(Shape),
}

impl Assignments {
    /// Whether every slot of a table has the `current` that these backends give it.
    pub fn holds(&mut self, table: u32, backends: &[Weighted], state: &TableState) -> bool {
        let Some(assignment) = self.0.get_mut(&table).filter(|known| known.backends == backends) else {
            return false;
        };
        match &assignment.known {
            Known::Proposed(slots) if Arc::ptr_eq(slots, state.slots()) => {
                assignment.known = Known::Confirmed(state.shape().clone());
                true
            }
            Known::Proposed(_) => false,
            Known::Confirmed(shape) => shape == state.shape(),
        }
    }

    /// Remembers what was proposed for these backends.
    pub fn propose(&mut self, table: u32, backends: Vec<Weighted>, slots: &Slots) {
        self.0.insert(table, Assignment { backends, known: Known::Proposed(Arc::clone(slots)) });
    }

    /// Forgets all but these tables.
    pub fn retain(&mut self, wanted: impl Fn(u32) -> bool) {
        self.0.retain(|table, _| wanted(*table));
    }
}

/// The backend of each of `size` slots, by weight; empty where no backend has any.
pub fn assign(size: u32, backends: &[Weighted]) -> Result<Vec<BackendId>, MaglevError> {
    let weights: Vec<_> = backends.iter().map(|(address, weight, _)| (*address, *weight)).collect();
    let slots = maglev::build(&weights, size)?;
    let id = |index: &u32| backends.get(*index as usize).map_or(BackendId::NONE, |(.., id)| *id);
    Ok(slots.iter().map(id).collect())
}
