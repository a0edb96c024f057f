//! The exact entries: which endpoints have any, and the end of those that nobody uses any more.

use std::collections::BTreeSet;
use std::path::Path;

use lb_common::{Claim, Endpoint, Exact, ExactKey, ServiceId, SocketKey, names, ticks};

use super::error::KernelError;
use super::syscall::Batch;
use super::table::{Key, Table};
use crate::data_plane::PlaneError;

/// The entries and the hints that make programs look for them.
#[derive(Debug)]
pub(super) struct ExactEntries {
    entries: Table<ExactKey, Exact>,
    /// By index of the endpoint's backend.
    hints: Table<u32, u32>,
}

impl Key for ExactKey {
    fn show(&self) -> String {
        format!("client {} port {} endpoint {}", self.client.ip(), self.port.get(), self.endpoint.show())
    }
}

impl ExactEntries {
    /// Opens the pins in `maps`.
    pub(super) fn open(maps: &Path) -> Result<Self, KernelError> {
        let entries = Table::open(names::MAP_EXACT, maps)?;
        Ok(Self { entries, hints: Table::open(names::MAP_EXACT_HINTS, maps)? })
    }

    /// An endpoint appears, or goes on under another backend id: it may have entries from before. The next sweep takes
    /// the hint back where it has none.
    pub(super) fn expect(&self, endpoint: &Endpoint) -> Result<(), PlaneError> {
        self.hints.put(&endpoint.backend.index(), &1)
    }

    /// Deletes what has expired at `now`, and takes back the hints of endpoints without entries. `endpoints` is
    /// asked only where there is a hint; programs give one with every entry that they make.
    pub(super) fn sweep(
        &self,
        now: u32,
        endpoints: impl FnOnce() -> Result<Vec<(SocketKey, Endpoint)>, PlaneError>,
    ) -> Result<u64, PlaneError> {
        let mut hinted = BTreeSet::new();
        self.hints.scan(Batch::Read, |indexes, hints| {
            hinted.extend(indexes.iter().zip(hints).filter(|(_, hint)| **hint != 0).map(|(index, _)| *index));
            Ok(())
        })?;
        if hinted.is_empty() {
            return Ok(0);
        }
        let (live, used) = self.live(now)?;
        let indexes = endpoints()?.into_iter().map(|(key, endpoint)| (endpoint.backend.index(), key));
        let indexes: std::collections::BTreeMap<_, _> = indexes.collect();
        let has_entries = |index: &u32| indexes.get(index).is_some_and(|endpoint| used.contains(endpoint));
        let unused: Vec<_> = hinted.iter().filter(|index| !has_entries(index)).copied().collect();
        unused.iter().try_for_each(|index| self.hints.put(index, &0))?;
        if unused.is_empty() {
            return Ok(live);
        }
        // Programs insert first and hint then. What was inserted before the hint went is found now.
        let (live, used) = self.live(now)?;
        for index in unused {
            if indexes.get(&index).is_some_and(|endpoint| used.contains(endpoint)) {
                self.hints.put(&index, &1)?;
            }
        }
        Ok(live)
    }

    /// Deletes what has expired; how many entries live, and of which endpoints.
    fn live(&self, now: u32) -> Result<(u64, BTreeSet<SocketKey>), PlaneError> {
        let mut live = 0;
        let mut used = BTreeSet::new();
        self.entries.scan(Batch::Read, |keys, entries| {
            for (key, entry) in keys.iter().zip(entries) {
                if is_over(entry, now) && self.entries.get(key)?.is_none_or(|entry| is_over(&entry, now)) {
                    self.entries.delete(key)?;
                } else {
                    live += 1;
                    used.insert(key.endpoint);
                }
            }
            Ok(())
        })?;
        Ok((live, used))
    }
}

fn is_over(entry: &Exact, now: u32) -> bool {
    let is_over = |part: &Claim| part.whose == ServiceId::NOBODY || ticks::is_past(part.expires, now);
    is_over(&entry.confirmed) && is_over(&entry.pending)
}
