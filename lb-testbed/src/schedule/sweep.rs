//! The sweep of the flow tables, as the controller does it on real maps: what has expired is read a second
//! time and then deleted, `half_open` before `flows`.

use lb_common::{BackendId, Claim, Flow, FlowKey, HalfOpen, ServiceId, ticks};
use lb_ebpf::host::Memory;
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

impl Bed {
    /// Deletes what has expired, reports what lives.
    pub fn sweep(&self) -> Sweep {
        self.sweep_while(|_| ())
    }

    /// The same while `meanwhile` happens.
    pub fn sweep_while(&self, mut meanwhile: impl FnMut(Moment)) -> Sweep {
        let mut report = Sweep::default();
        report.half_open = table(&self.model.half_open, self.now(), &mut report, &mut meanwhile);
        meanwhile(Moment::BetweenTables);
        report.flows = table(&self.model.flows, self.now(), &mut report, &mut meanwhile);
        self.sweep_exact();
        report
    }

    /// Deletes what has expired of the exact entries, and takes back the hints of hosts without any.
    fn sweep_exact(&self) {
        let exact = &self.model.exact;
        let is_over =
            |claim: Claim| claim.whose == ServiceId::NOBODY || ticks::is_past(claim.expires, self.now());
        exact.entries.borrow_mut().retain(|_, entry| {
            let entry = entry.get();
            !(is_over(entry.confirmed) && is_over(entry.pending))
        });
        let used: Vec<_> = exact.entries.borrow().keys().map(|key| key.endpoint).collect();
        self.model.exact_hints.borrow_mut().retain(|index| {
            self.model.backends.get(index).is_some_and(|backend| used.contains(&backend.endpoint()))
        });
    }
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
