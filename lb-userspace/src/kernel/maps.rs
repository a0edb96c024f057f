//! The kernel planes' maps as the controller sees them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::hash::Seed;
use lb_common::service::VIP_MARKER;
use lb_common::{
    Address, Backend, Counter, Endpoint, FlowKey, Handshakes, NextHop, Service, Slot, SocketKey, Station,
    Traffic, Vip, names, ticks,
};
use rustix::time::{ClockId, clock_gettime};

use super::bpffs::{self, BpfDir};
use super::buckets::BucketTable;
use super::error::KernelError;
use super::exact::ExactEntries;
use super::flows::Flows;
use super::inner::{self, MapOfMaps};
use super::routes::Routes;
use super::sweep;
use super::syscall::Batch;
use super::table::{PerCpu, Table};
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::{
    FlowCut, FlowTables, KernelAction, KernelCounters, KernelState, KernelTables, Slots, Sweep, TrackedFlow,
};

/// The pinned maps, open. Outlives the programs' owner: the controller holds it on its own thread.
#[derive(Debug)]
pub struct Tables {
    services: BucketTable<SocketKey, Service>,
    endpoints: BucketTable<SocketKey, Endpoint>,
    backends: Table<u32, Backend>,
    tables: MapOfMaps,
    old_seen: MapOfMaps,
    flows: Arc<Flows>,
    exact: ExactEntries,
    vips: Table<u32, Vip>,
    routes: Routes,
    wanted: Table<Address, u32>,
    stations: Table<Station, NextHop>,
    counters: PerCpu,
    service_traffic: PerCpu,
    backend_traffic: PerCpu,
    handshakes: PerCpu,
}

impl Tables {
    /// Opens the pins, whose layouts have been checked.
    pub(super) fn open(dir: &BpfDir, seed: Seed) -> Result<Self, KernelError> {
        let maps = &dir.path().join(bpffs::MAPS);
        Ok(Self {
            services: BucketTable::open(names::MAP_SERVICES, names::MAP_SERVICE_BUCKETS, maps)?,
            endpoints: BucketTable::open(names::MAP_ENDPOINTS, names::MAP_ENDPOINT_BUCKETS, maps)?,
            backends: Table::open(names::MAP_BACKENDS, maps)?,
            tables: MapOfMaps::open(inner::TABLES, dir)?,
            old_seen: MapOfMaps::open(inner::OLD_SEEN, dir)?,
            flows: Flows::open(maps, seed)?,
            exact: ExactEntries::open(maps)?,
            vips: Table::open(names::MAP_VIPS, maps)?,
            routes: Routes::open(maps)?,
            wanted: Table::open(names::MAP_WANTED, maps)?,
            stations: Table::open(names::MAP_STATIONS, maps)?,
            counters: PerCpu::open(names::MAP_COUNTERS, maps)?,
            service_traffic: PerCpu::open(names::MAP_SERVICE_TRAFFIC, maps)?,
            backend_traffic: PerCpu::open(names::MAP_BACKEND_TRAFFIC, maps)?,
            handshakes: PerCpu::open(names::MAP_HANDSHAKES, maps)?,
        })
    }

    /// Where the backends are that an earlier daemon left in the maps.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn backends(&mut self) -> Result<BTreeSet<IpAddr>, PlaneError> {
        let mut backends = BTreeSet::new();
        self.backends.scan(Batch::Read, |_, entries| {
            let live = entries.iter().filter(|backend| backend.id.is_some());
            backends.extend(live.map(|backend| backend.address.ip()));
            Ok(())
        })?;
        Ok(backends)
    }

    fn swap(&self, table: u32, slots: &[Slot]) -> Result<(), PlaneError> {
        // A place that another table size left behind would make slots beyond its end unreadable.
        if self.old_seen.size(table)? != Some(slots.len()) {
            self.old_seen.replace(table, slots.iter().map(|_| 0))?;
        }
        self.tables.replace(table, slots.iter().map(|slot| slot.0))
    }
}

impl KernelTables for Tables {
    fn apply(&mut self, action: &KernelAction) -> Result<(), PlaneError> {
        match action {
            KernelAction::PutBackend { index, backend } => self.backends.put(index, backend),
            KernelAction::SwapTable { table, slots } => self.swap(*table, slots),
            KernelAction::DropTable { table } => {
                self.tables.remove(*table)?;
                self.old_seen.remove(*table)
            }
            KernelAction::PutService { key, service } => {
                if service.flags & VIP_MARKER == 0 {
                    self.vips.put(&service.id.index(), &Vip { key: *key, service: *service })?;
                }
                self.services.put(key, service)
            }
            KernelAction::RemoveService { key } => self.services.delete(key).map(drop),
            KernelAction::PutEndpoint { key, endpoint } => {
                let old = self.endpoints.get(key)?;
                if old.is_none_or(|old| old.backend != endpoint.backend) {
                    self.exact.expect(endpoint)?;
                }
                self.endpoints.put(key, endpoint)
            }
            KernelAction::RemoveEndpoint { key } => self.endpoints.delete(key).map(drop),
            KernelAction::PutLocal { address } => self.routes.put_local(address),
            KernelAction::RemoveLocal { address } => self.routes.remove_local(address),
            KernelAction::PutRoute { prefix, hop } => self.routes.put(prefix, hop),
            KernelAction::RemoveRoute { prefix } => self.routes.remove(prefix),
            KernelAction::PutStation { station, hop } => self.stations.put(station, hop),
            KernelAction::RemoveStation { station } => self.stations.delete(station).map(drop),
        }
    }

    fn make_tables(&mut self, tables: &[(u32, Slots)]) -> Result<(), PlaneError> {
        let seen = self.old_seen.placed()?;
        for (table, _) in tables.iter().filter(|(table, _)| seen.contains(table)) {
            // A daemon died between the two updates.
            self.old_seen.remove(*table)?;
        }
        self.old_seen.place(tables.iter().map(|(table, slots)| (*table, slots.iter().map(|_| 0))))?;
        self.tables.place(tables.iter().map(|(table, slots)| (*table, slots.iter().map(|slot| slot.0))))
    }

    /// Backends without an id are left out: an index that was retired and one that was never used look the
    /// same.
    fn read_back(&mut self, known: &KernelState) -> Result<KernelState, PlaneError> {
        let mut state = KernelState::default();
        self.backends.scan(Batch::Read, |indexes, backends| {
            let live = indexes.iter().zip(backends).filter(|(_, backend)| backend.id.is_some());
            state.backends.extend(live.map(|(index, backend)| (*index, *backend)));
            Ok(())
        })?;
        for table in self.tables.placed()? {
            let known = known.tables.get(&table);
            if let Some(known) = known
                && self.tables.holds(table, known.iter().map(|slot| slot.0))?
            {
                state.tables.insert(table, Arc::clone(known));
            } else if let Some(words) = self.tables.read(table)? {
                state.tables.insert(table, Arc::new(words.into_iter().map(Slot).collect()));
            }
        }
        state.services.extend(self.services.entries()?);
        state.endpoints.extend(self.endpoints.entries()?);
        self.routes.read_back(&mut state)?;
        self.stations.scan(Batch::Read, |stations, hops| {
            state.stations.extend(stations.iter().copied().zip(hops.iter().copied()));
            Ok(())
        })?;
        Ok(state)
    }

    fn old_seen(&mut self, table: u32) -> Result<Vec<u32>, PlaneError> {
        let words = self.old_seen.read(table)?.unwrap_or_default();
        // The value is in the first four bytes of its word in memory, the rest is zero.
        Ok(words.into_iter().map(|word| zerocopy::transmute!(word)).map(|[seen, _]: [u32; 2]| seen).collect())
    }

    fn sweep(&mut self, now: u32) -> Result<Sweep, PlaneError> {
        Ok(sweep::sweep(&self.flows.half_open, &self.flows.flows, now))
    }

    fn cut(&mut self, cuts: &[FlowCut]) -> Result<u64, PlaneError> {
        Ok(sweep::cut(&self.flows.flows, cuts, self.now()))
    }

    fn sweep_exact(&mut self, now: u32) -> Result<u64, PlaneError> {
        self.exact.sweep(now, || self.endpoints.entries())
    }

    fn counters(&mut self, services: &[u32], backends: &[u32]) -> Result<KernelCounters, PlaneError> {
        let mut sums = KernelCounters::default();
        for counter in Counter::ALL {
            sums.counters.insert(*counter, self.counters.sum(*counter as u32)?);
        }
        for index in services {
            sums.services.insert(*index, self.service_traffic.sum::<Traffic>(*index)?);
        }
        for index in backends {
            sums.backends.insert(*index, self.backend_traffic.sum::<Traffic>(*index)?);
            sums.handshakes.insert(*index, self.handshakes.sum::<Handshakes>(*index)?);
        }
        Ok(sums)
    }

    fn clear_traffic(&mut self, service: Option<u32>, backend: Option<u32>) -> Result<(), PlaneError> {
        if let Some(index) = service {
            self.service_traffic.shift(index, names::GONE)?;
        }
        if let Some(index) = backend {
            self.backend_traffic.shift(index, names::GONE)?;
            self.handshakes.shift(index, names::GONE)?;
        }
        Ok(())
    }

    fn take_wanted(&mut self) -> Result<Vec<(IpAddr, u32)>, PlaneError> {
        let mut wanted = Vec::new();
        self.wanted.scan(Batch::Take, |addresses, interfaces| {
            wanted.extend(addresses.iter().map(Address::ip).zip(interfaces.iter().copied()));
            Ok(())
        })?;
        Ok(wanted)
    }

    fn flow_tables(&self) -> Arc<dyn FlowTables> {
        Arc::clone(&self.flows) as Arc<dyn FlowTables>
    }

    fn flow(&mut self, key: &FlowKey) -> Result<Option<TrackedFlow>, PlaneError> {
        Ok(self.flows.get(key))
    }

    fn now(&self) -> u32 {
        now()
    }
}

/// The clock of the programs, in ticks.
pub(super) fn now() -> u32 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    let nanos = time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned();
    ticks::from_nanos(nanos)
}
