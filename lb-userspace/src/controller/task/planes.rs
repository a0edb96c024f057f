//! The planes, lent to blocking threads one call at a time.

use std::collections::BTreeMap;
use std::panic::resume_unwind;

use tokio::task::spawn_blocking;

use crate::controller::apply::Confirmed;
use crate::controller::flows::Entries;
use crate::controller::kernel_state::Identities;
use crate::data_plane::PlaneError;
use crate::data_plane::flows::FlowSource;
use crate::data_plane::kernel::{FlowCut, KernelTables, Sweep};
use crate::data_plane::proxy::{ProxyAction, ProxyCounters, ProxyPlane, ProxyState};

/// The kernel planes with all that is known of their maps.
pub(super) struct Kernel {
    /// `None` while a blocking thread has it.
    tables: Option<Box<dyn KernelTables>>,
    pub(super) confirmed: Confirmed,
    pub(super) identities: Identities,
    /// The last sweep.
    pub(super) sweep: Sweep,
    /// Idle time-out of each table, in ticks.
    pub(super) idle: BTreeMap<u32, u32>,
    pub(super) drift: Drift,
    /// The last cuts within a drain.
    cuts: Vec<FlowCut>,
}

impl Kernel {
    pub(super) fn new(
        tables: Box<dyn KernelTables>,
        confirmed: Confirmed,
        identities: Identities,
        sweep: Sweep,
    ) -> Self {
        Self {
            tables: Some(tables),
            confirmed,
            identities,
            sweep,
            idle: BTreeMap::new(),
            drift: Drift::default(),
            cuts: Vec::new(),
        }
    }

    /// Takes in the cuts that drains ask for; those of them that are new, and find entries.
    pub(super) fn new_cuts(&mut self, cuts: Vec<FlowCut>) -> Vec<FlowCut> {
        let entries = &self.sweep.by_backend;
        let is_new = |cut: &&FlowCut| {
            !self.cuts.contains(cut) && entries.get(&cut.backend).is_some_and(|entries| *entries > 0)
        };
        let new = cuts.iter().filter(is_new).copied().collect();
        self.cuts = cuts;
        new
    }

    /// What is in the flow tables now, to be looked at without the controller.
    pub(super) fn entries(&self) -> Option<Entries> {
        let tables = self.tables.as_ref()?;
        Some(Entries::new(tables.flow_tables(), tables.now(), &self.confirmed.applied))
    }

    /// Runs `call` on a blocking thread.
    pub(super) async fn call<R: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut dyn KernelTables, &mut Confirmed) -> R + Send + 'static,
    ) -> Result<R, PlaneError> {
        let mut tables = self.tables.take().ok_or_else(|| gone("the kernel planes"))?;
        let mut confirmed = std::mem::take(&mut self.confirmed);
        let thread = spawn_blocking(move || {
            let result = call(tables.as_mut(), &mut confirmed);
            (tables, confirmed, result)
        });
        match thread.await {
            Ok((tables, confirmed, result)) => {
                self.tables = Some(tables);
                self.confirmed = confirmed;
                Ok(result)
            }
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => Err(gone("the kernel planes")),
        }
    }
}

/// Entries of the maps that were found not to be as they were left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drift {
    found: u64,
    repaired: u64,
}

impl Drift {
    /// An audit found so many.
    pub(super) fn find(&mut self, entries: usize) {
        self.found += entries as u64;
    }

    /// Everything that is desired is applied.
    pub(super) fn settle(&mut self) {
        self.repaired += std::mem::take(&mut self.found);
    }

    /// So many since the start.
    pub(super) fn repaired(self) -> u64 {
        self.repaired
    }
}

/// The proxy plane with what it has confirmed.
pub(super) struct Proxy<P> {
    /// `None` while a blocking thread has it.
    plane: Option<P>,
    pub(super) applied: ProxyState,
}

impl<P: ProxyPlane + 'static> Proxy<P> {
    pub(super) fn new(plane: P) -> Self {
        Self { plane: Some(plane), applied: ProxyState::default() }
    }

    /// Does every action; one that fails holds back no other.
    pub(super) async fn apply(&mut self, actions: Vec<ProxyAction>) -> Vec<PlaneError> {
        if actions.is_empty() {
            return Vec::new();
        }
        let Some(mut plane) = self.plane.take() else { return vec![gone("the proxy plane")] };
        let thread = spawn_blocking(move || {
            let results: Vec<_> = actions.iter().map(|action| plane.apply(action)).collect();
            (plane, actions, results)
        });
        match thread.await {
            Ok((plane, actions, results)) => {
                self.plane = Some(plane);
                let mut errors = Vec::new();
                for (action, result) in actions.iter().zip(results) {
                    match result {
                        Ok(()) => self.applied.record(action),
                        Err(error) => errors.push(error),
                    }
                }
                errors
            }
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => vec![gone("the proxy plane")],
        }
    }

    pub(super) fn connections(&self) -> Option<Box<dyn FlowSource>> {
        self.plane.as_ref().map(ProxyPlane::connections)
    }

    pub(super) fn traffic(&self) -> ProxyCounters {
        self.plane.as_ref().map(ProxyPlane::traffic).unwrap_or_default()
    }

    pub(super) fn into_plane(self) -> Option<P> {
        self.plane
    }
}

fn gone(what: &str) -> PlaneError {
    PlaneError::new(what, "the runtime is shutting down")
}
