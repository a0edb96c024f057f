//! Which backend a client's packet goes to.
//!
//! **A live flow without an entry belongs to its slot's `fallback`.** Everything here keeps that true.
//! A slot that is not tracked needs no look-up and no insert: every packet of it goes to `current`. Within a
//! change, a new flow is remembered for `current` before its SYN is forwarded; one that cannot be remembered
//! (table full, tuple already taken) is sent to `fallback`, where a flow without an entry belongs.
//! Services that track always treat every slot like that, so that their flows can be counted and listed.
//!
//! An entry that has expired, or whose backend is dead, counts as absent when it is read; it still refuses
//! inserts until the controller's sweep deletes it, so that no delete can hit a newcomer.

mod tcp;
mod udp;

use lb_common::{BackendId, Counter, Flow, FlowKey, HalfOpen, Service, Slot, ticks};

use crate::segment::Segment;
use crate::tables::{FlowEntry, HalfOpenEntry, Tables};

/// Where a client's packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The backend.
    pub backend: BackendId,
    /// Whether the packet opens a flow, as far as that is known: of UDP flows only where all are remembered.
    pub new_flow: bool,
}

/// The backend for a client's packet in slot `index`.
///
/// # Errors
/// [`Counter::NoBackend`], [`Counter::Settling`], [`Counter::Inconsistent`].
#[inline(always)]
pub fn backend<T: Tables>(
    tables: &T,
    service: &Service,
    key: &FlowKey,
    index: u32,
    segment: &Segment,
) -> Result<Selected, Counter> {
    let slot = tables.slot(service.table, index).ok_or(Counter::Inconsistent)?;
    let mut new_flow = segment.is_syn();
    let backend = if slot.is_tracked() || service.tracks_always() {
        let tracked = Tracked { tables, service, key, index, slot, now: tables.now() };
        if segment.is_udp() {
            let (id, is_inserted) = tracked.datagram()?;
            new_flow = is_inserted && service.tracks_always();
            id
        } else if segment.is_syn() {
            tracked.syn(segment)?
        } else {
            tracked.other(segment)
        }
    } else {
        slot.current()
    };
    if backend.is_some() { Ok(Selected { backend, new_flow }) } else { Err(Counter::NoBackend) }
}

/// Whether an id names the backend that lives at its index now.
#[inline(always)]
pub(crate) fn lives<T: Tables>(tables: &T, id: BackendId) -> bool {
    id.is_some() && tables.backend(id).is_some_and(|backend| backend.id == id)
}

/// Where a flow without an entry belongs.
#[inline(always)]
pub(crate) fn default<T: Tables>(tables: &T, slot: Slot) -> BackendId {
    if lives(tables, slot.fallback()) { slot.fallback() } else { slot.current() }
}

/// The flow's entry in the flow table, if it counts.
#[inline(always)]
pub(crate) fn live_flow<T: Tables>(tables: &T, key: &FlowKey, now: u32) -> Option<(T::Flow, Flow)> {
    let entry = tables.flow(key)?;
    let flow = entry.read();
    (!ticks::is_past(flow.expires, now) && lives(tables, flow.backend)).then_some((entry, flow))
}

/// The flow's entry in the half-open table, if it counts.
#[inline(always)]
pub(crate) fn live_half_open<T: Tables>(
    tables: &T,
    key: &FlowKey,
    now: u32,
) -> Option<(T::HalfOpen, HalfOpen)> {
    let entry = tables.half_open(key)?;
    let half = entry.read();
    (!ticks::is_past(half.expires, now) && lives(tables, half.backend)).then_some((entry, half))
}

/// A packet in a tracked slot, or of a service that tracks always.
struct Tracked<'a, T: Tables> {
    tables: &'a T,
    service: &'a Service,
    key: &'a FlowKey,
    index: u32,
    slot: Slot,
    now: u32,
}

impl<T: Tables> Tracked<'_, T> {
    /// Notes that the slot's fallback has a flow without an entry, so that it is not given up before the idle
    /// time-out has passed once more.
    #[inline(always)]
    fn stamp(&self) {
        self.tables.stamp_old(self.service.table, self.index, self.now);
    }

    /// A flow of `default` without an entry begins, or speaks: the slot's fallback is not given up before the idle
    /// time-out has passed once more. While it is about to be given up, that cannot be told in time.
    #[inline(always)]
    fn unremembered(&self, default: BackendId) -> Result<BackendId, Counter> {
        if default != self.slot.current() {
            if self.slot.is_settling() {
                return Err(Counter::Settling);
            }
            self.stamp();
        }
        Ok(default)
    }

    /// Moves an entry's end on to `timeout` from now, at most once a second.
    #[inline(always)]
    fn extend(&self, entry: &T::Flow, flow: &Flow, timeout: u32) {
        let expires = self.now.wrapping_add(timeout);
        let was_refreshed_lately = expires.wrapping_sub(flow.expires) < ticks::SECOND;
        if !was_refreshed_lately {
            entry.set_expires(expires);
        }
    }
}
