//! What an earlier daemon has left pinned, only looked at: for who compares with it while no daemon runs.

use std::sync::Arc;

use aya_obj::Object;
use lb_common::{Backend, Endpoint, Flow, HalfOpen, Service, Slot, SocketKey, names, ticks};

use super::bpffs::{self, BpfDir};
use super::error::{KernelError, words};
use super::flows::Flows;
use super::inner::{self, MapOfMaps};
use super::load::{Settings, pinned_seed};
use super::syscall::Batch;
use super::table::Table;
use super::{buckets, layout, maps};
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::{FlowTables as _, KernelState, Sweep, TrackedFlow};

/// What is left.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Services, endpoints, backends and tables; nothing of the network.
    pub state: KernelState,
    /// Live entries of flows by backend and by service, and nothing else of a sweep.
    pub sweep: Sweep,
    /// When it was looked at, in ticks.
    pub now: u32,
}

/// Whether a daemon with these settings could take over what is pinned, if anything is. Changes nothing.
///
/// # Errors
/// What that daemon would refuse, or there is no right to look.
pub fn fits(settings: &Settings<'_>) -> Result<(), KernelError> {
    look(settings).map(drop)
}

fn look(settings: &Settings<'_>) -> Result<Option<BpfDir>, KernelError> {
    let Some(dir) = BpfDir::look(settings.bpf_dir)? else { return Ok(None) };
    let object =
        Object::parse(settings.object).map_err(|error| KernelError::Object { reason: words(&error) })?;
    let pinned = layout::check(&dir, &object, settings)?;
    pinned_seed(&dir, settings.hash_seed)?;
    Ok((pinned.len() == names::MAPS.len()).then_some(dir))
}

/// Looks at what is pinned under `bpf_dir`; `None`: nothing is. Changes nothing.
///
/// # Errors
/// What a daemon with these settings would refuse.
pub fn left(settings: &Settings<'_>) -> Result<Option<Left>, KernelError> {
    let Some(dir) = look(settings)? else { return Ok(None) };
    let failed = |error: PlaneError| KernelError::Map { map: error.object, reason: error.reason };
    let maps = &dir.path().join(bpffs::MAPS);
    let mut left = Left::default();
    let state = &mut left.state;
    let backends: Table<u32, Backend> = Table::open(names::MAP_BACKENDS, maps)?;
    let scanned = backends.scan(Batch::Read, |indexes, backends| {
        let live = indexes.iter().zip(backends).filter(|(_, backend)| backend.id.is_some());
        state.backends.extend(live.map(|(index, backend)| (*index, *backend)));
        Ok(())
    });
    scanned.map_err(failed)?;
    let services: Vec<(SocketKey, Service)> =
        buckets::look(names::MAP_SERVICES, names::MAP_SERVICE_BUCKETS, maps)?;
    state.services.extend(services);
    let endpoints: Vec<(SocketKey, Endpoint)> =
        buckets::look(names::MAP_ENDPOINTS, names::MAP_ENDPOINT_BUCKETS, maps)?;
    state.endpoints.extend(endpoints);
    let tables = MapOfMaps::look(inner::TABLES, &dir)?;
    for table in tables.placed().map_err(failed)? {
        if let Some(words) = tables.read(table).map_err(failed)? {
            state.tables.insert(table, Arc::new(words.into_iter().map(Slot).collect()));
        }
    }
    let (now, sweep) = (maps::now(), &mut left.sweep);
    // The seed says where a flow is to be looked for, and all are.
    let flows = Flows::open(maps, [0, 0])?;
    let scanned = flows.scan(&mut |key, flow| {
        let backend = match flow {
            TrackedFlow::Flow(Flow { backend, expires, .. }) if !ticks::is_past(expires, now) => backend,
            TrackedFlow::HalfOpen(HalfOpen { backend, expires, proven, .. })
                if proven != 0 && !ticks::is_past(expires, now) =>
            {
                backend
            }
            _ => return,
        };
        *sweep.by_backend.entry(backend).or_default() += 1;
        *sweep.by_service.entry(key.service.index()).or_default() += 1;
    });
    scanned.map_err(failed)?;
    left.now = now;
    Ok(Some(left))
}
