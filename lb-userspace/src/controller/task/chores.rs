//! What the controller does for the kernel planes from time to time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use lb_common::service::VIP_MARKER;
use lb_common::{Service, ticks};

use super::planes::Kernel;
use super::{Controller, now};
use crate::controller::{fill, maintain};
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::Sweep;
use crate::data_plane::proxy::ProxyPlane;

/// Between two looks for neighbours that replies wait for.
const WANTED: Duration = Duration::from_millis(250);
/// Between two readings of the services' counters.
const SAMPLE: Duration = Duration::from_secs(1);
/// The window of [`Rates`].
const RATE_WINDOW: usize = 10;
/// Between two sweeps, at least; and a sweep takes at most this part of the time.
const SWEEP: (Duration, u32) = (Duration::from_secs(1), 10);
/// Between two looks for slots to settle: a part of the idle time-out within these bounds.
const SETTLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const SETTLE_PART: u32 = 64;
/// Between two looks whether what the kernel has is as it was left. A reload looks, too.
pub const AUDIT: Duration = Duration::from_secs(30);

/// When each chore is due.
#[derive(Debug)]
pub(super) struct Chores {
    wanted: Instant,
    sample: Instant,
    sweep: Instant,
    settle: Instant,
    audit: Instant,
    pub(super) rates: Rates,
    alarms: Alarms,
}

impl Chores {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            wanted: now + WANTED,
            sample: now,
            sweep: now + SWEEP.0,
            settle: now + SETTLE.0,
            audit: now + AUDIT,
            rates: Rates::default(),
            alarms: Alarms::default(),
        }
    }

    pub(super) fn next(&self) -> Instant {
        self.wanted.min(self.sample).min(self.sweep).min(self.settle).min(self.audit)
    }
}

impl<P: ProxyPlane + 'static> Controller<P> {
    /// Does the chores that are due; whether the planes have to be reconciled.
    pub(super) async fn do_chores(&mut self, now: Instant) -> bool {
        match self.try_chores(now).await {
            Ok(reconcile) => reconcile,
            Err(error) => {
                tracing::error!(object = error.object, "{}; it will be tried again", error.reason);
                self.try_again();
                false
            }
        }
    }

    /// Looks whether the maps are as they were left; whether the planes have to be reconciled.
    pub(super) async fn find_drift(&mut self) -> Result<bool, PlaneError> {
        self.chores.audit = now() + AUDIT;
        let Ok(kernel) = &mut self.kernel else { return Ok(false) };
        let drift = audit(kernel).await?;
        kernel.drift.find(drift);
        Ok(drift > 0)
    }

    async fn try_chores(&mut self, now: Instant) -> Result<bool, PlaneError> {
        let drifted = self.chores.audit <= now && self.find_drift().await?;
        let Ok(kernel) = &mut self.kernel else { return Ok(false) };
        let chores = &mut self.chores;
        if chores.wanted <= now {
            chores.wanted = now + WANTED;
            let wanted = kernel.call(|tables, _| tables.take_wanted()).await??;
            if !wanted.is_empty() {
                // Full: the data path asks again with the next packet.
                let _ = self.channels.outputs.wanted.try_send(wanted);
            }
        }
        if chores.sample <= now {
            chores.sample = now + SAMPLE;
            let services = service_indexes(kernel);
            let counters = kernel.call(move |tables, _| tables.counters(&services, &[])).await??;
            let packets = counters.services.iter().map(|(index, traffic)| (*index, traffic.packets));
            chores.rates.sample(now, packets.collect());
        }
        if chores.sweep <= now {
            chores.sweep = now + SWEEP.0;
            let tracked = kernel.confirmed.tables.values().any(|table| table.is_tracked())
                || kernel.confirmed.applied.services.values().any(Service::tracks_always);
            kernel.call(|tables, _| tables.sweep_exact(tables.now())).await??;
            if tracked || kernel.sweep.flows + kernel.sweep.half_open > 0 {
                kernel.sweep = kernel.call(maintain::sweep).await??;
                chores.alarms.ring(&kernel.sweep);
                let end = self::now();
                chores.sweep = end + SWEEP.0.max((end - now) * SWEEP.1);
            }
        }
        if chores.settle <= now {
            let idle = kernel.idle.clone();
            let shortest = idle.values().min().copied().unwrap_or(u32::MAX);
            let seconds = u64::from(shortest / ticks::SECOND / SETTLE_PART);
            chores.settle = now + Duration::from_secs(seconds).clamp(SETTLE.0, SETTLE.1);
            if kernel.confirmed.tables.values().any(|table| table.is_tracked()) {
                kernel.call(move |tables, confirmed| maintain::settle(tables, confirmed, &idle)).await??;
            }
        }
        Ok(drifted)
    }
}

/// Believes what stands in the maps; how many entries of them are not as they were left.
pub(super) async fn audit(kernel: &mut Kernel) -> Result<usize, PlaneError> {
    let drift = kernel.call(|tables, confirmed| confirmed.audit(tables)).await??;
    if !drift.is_empty() {
        kernel.identities.unsettle();
    }
    for action in drift.iter().take(10) {
        let action = format!("{action:?}");
        // Tables are long.
        let action = action.chars().take(200).collect::<String>();
        tracing::warn!(missing = action, "the kernel's maps are not as they were left; repairing");
    }
    Ok(drift.len())
}

/// Indexes of the services in the maps.
pub(super) fn service_indexes(kernel: &Kernel) -> Vec<u32> {
    let services = kernel.confirmed.applied.services.values();
    services.filter(|service| service.flags & VIP_MARKER == 0).map(|service| service.id.index()).collect()
}

/// The tables whose fill has been warned of.
#[derive(Debug, Default)]
struct Alarms(BTreeSet<String>);

impl Alarms {
    /// Warns of a table once, until it has room again.
    fn ring(&mut self, sweep: &Sweep) {
        for table in fill::tables(sweep) {
            match fill::warning(&table) {
                Some(warning) if self.0.insert(table.name.clone()) => tracing::warn!("{warning}"),
                Some(_) => {}
                None if self.0.remove(&table.name) => {
                    tracing::info!("the table {} has room again", table.name);
                }
                None => {}
            }
        }
    }
}

/// Packets by service index over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rates(VecDeque<(Instant, BTreeMap<u32, u64>)>);

impl Rates {
    fn sample(&mut self, now: Instant, packets: BTreeMap<u32, u64>) {
        self.0.push_back((now, packets));
        if self.0.len() > RATE_WINDOW + 1 {
            self.0.pop_front();
        }
    }

    /// Packets a second of one service over the window, or since there are samples of it.
    pub(super) fn of(&self, service: u32) -> f64 {
        let mut samples = self.0.iter().filter_map(|(at, packets)| Some((*at, *packets.get(&service)?)));
        let (Some((start, first)), Some((end, last))) = (samples.next(), samples.next_back()) else {
            return 0.0;
        };
        let seconds = (end - start).as_secs_f64();
        // Counters that were cleared in between begin at zero.
        if seconds > 0.0 { last.saturating_sub(first) as f64 / seconds } else { 0.0 }
    }
}
