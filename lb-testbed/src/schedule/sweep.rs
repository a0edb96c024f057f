//! The sweep of the flow tables, as the controller does it on real maps: what has expired is read a second
//! time and then deleted, `half_open` before `flows`.

use lb_common::{BackendId, Claim, Flow, FlowKey, HalfOpen, ServiceId, ticks};
use lb_ebpf::host::{Memory, Model};
use lb_userspace::data_plane::kernel::Sweep;

use super::Bed;

/// A moment of the sweep in which other CPUs may do something that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// An expired entry has been read for the last time and will be deleted now.
    BeforeDelete(FlowKey),
    /// `half_open` is done, `flows` comes next.
    BetweenTables,
}

trait Entry: Copy {
    fn backend(&self) -> BackendId;
    fn place(&self) -> (u32, u32);
    fn expires(&self) -> u32;
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
}

impl Bed<Model> {
    /// Sweeps while something else happens.
    pub fn sweep_while(&self, meanwhile: impl FnMut(Moment)) -> Sweep {
        sweep(&self.path, meanwhile)
    }
}

/// Deletes what has expired, reports what lives.
pub(super) fn sweep(model: &Model, mut meanwhile: impl FnMut(Moment)) -> Sweep {
    let now = model.now.get();
    let mut report = Sweep::default();
    report.half_open = table(&model.half_open, now, &mut report, &mut meanwhile);
    meanwhile(Moment::BetweenTables);
    report.flows = table(&model.flows, now, &mut report, &mut meanwhile);
    sweep_exact(model, now);
    report
}

/// Deletes what has expired of the exact entries, and takes back the hints of hosts without any.
fn sweep_exact(model: &Model, now: u32) {
    let is_over = |claim: Claim| claim.whose == ServiceId::NOBODY || ticks::is_past(claim.expires, now);
    model.exact.entries.borrow_mut().retain(|_, entry| {
        let entry = entry.get();
        !(is_over(entry.confirmed) && is_over(entry.pending))
    });
    let used: Vec<_> = model.exact.entries.borrow().keys().map(|key| key.endpoint).collect();
    model
        .exact_hints
        .borrow_mut()
        .retain(|index| model.backends.get(index).is_some_and(|backend| used.contains(&backend.endpoint())));
}

fn table<V: Entry>(
    memory: &Memory<V>,
    now: u32,
    report: &mut Sweep,
    meanwhile: &mut impl FnMut(Moment),
) -> u64 {
    let mut live = 0;
    let mut keys: Vec<_> = memory.entries.borrow().keys().copied().collect();
    keys.sort_unstable();
    for key in keys {
        let Some(entry) = memory.get(&key) else { continue };
        if ticks::is_past(entry.get().expires(), now) {
            meanwhile(Moment::BeforeDelete(key));
            memory.remove(&key);
            report.deleted += 1;
        } else {
            let entry = entry.get();
            report.slots.entry(entry.place()).or_default().insert(entry.backend());
            live += 1;
        }
    }
    live
}
