//! Which backend a client's packet goes to.
//!
//! **A live flow without an entry belongs to its slot's `fallback`.** Everything here keeps that true.
//! A slot that is not tracked needs no look-up and no insert: every packet of it goes to `current`. Within a
//! change, a new flow is remembered for `current` before its SYN is forwarded; one that cannot be remembered
//! (table full, tuple already taken) is sent to `fallback`, where a flow without an entry belongs.
//!
//! An entry that has expired, or whose backend is dead, counts as absent when it is read; it still refuses
//! inserts until the controller's sweep deletes it, so that no delete can hit a newcomer.

use lb_common::{BackendId, Counter, Flow, FlowKey, HalfOpen, Service, Slot, ticks};

use crate::segment::{Segment, follows, is_ahead, is_near};
use crate::tables::{FlowEntry, HalfOpenEntry, Tables};

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
) -> Result<BackendId, Counter> {
    let slot = tables.slot(service.table, index).ok_or(Counter::Inconsistent)?;
    let id = if slot.is_tracked() {
        let tracked = Tracked { tables, service, key, index, slot, now: tables.now() };
        if segment.is_syn() { tracked.syn(segment)? } else { tracked.other(segment) }
    } else {
        slot.current()
    };
    if id.is_some() { Ok(id) } else { Err(Counter::NoBackend) }
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

/// A packet in a tracked slot.
struct Tracked<'a, T: Tables> {
    tables: &'a T,
    service: &'a Service,
    key: &'a FlowKey,
    index: u32,
    slot: Slot,
    now: u32,
}

impl<T: Tables> Tracked<'_, T> {
    /// A SYN: of a flow that is known, a retransmission, a reuse of the tuple, a forgery, or a new flow.
    #[inline(always)]
    fn syn(&self, segment: &Segment) -> Result<BackendId, Counter> {
        let flow = live_flow(self.tables, self.key, self.now);
        if let Some((entry, flow)) = &flow
            && flow.closing == 0
        {
            self.keep_half_open_time(entry, flow);
            return Ok(flow.backend);
        }
        if let Some((entry, half)) = live_half_open(self.tables, self.key, self.now) {
            return match self.known_syn(&entry, &half, segment) {
                Some(id) => Ok(id),
                None => self.refused(flow),
            };
        }
        let current = self.slot.current();
        if !current.is_some() || (flow.is_none() && current == default(self.tables, self.slot)) {
            return Ok(current);
        }
        let half = HalfOpen {
            backend: current,
            slot: self.index,
            table: self.service.table,
            isn: segment.seq,
            server_isn: [0; 2],
            recorded: 0,
            expires: self.now.wrapping_add(self.service.half_open),
            proven: 0,
        };
        if self.tables.insert_half_open(self.key, &half) {
            return Ok(current);
        }
        // Full, or another CPU was quicker with the same SYN.
        if let Some((entry, half)) = live_half_open(self.tables, self.key, self.now)
            && let Some(id) = self.known_syn(&entry, &half, segment)
        {
            return Ok(id);
        }
        self.refused(flow)
    }

    /// The backend of a SYN that a half-open entry knows: a retransmission, or of a proven flow.
    #[inline(always)]
    fn known_syn(&self, entry: &T::HalfOpen, half: &HalfOpen, segment: &Segment) -> Option<BackendId> {
        if half.proven == 0 && half.isn != segment.seq {
            return None;
        }
        let expires = self.now.wrapping_add(self.service.half_open);
        if ticks::is_past(half.expires, expires) {
            entry.set_expires(expires);
        }
        Some(half.backend)
    }

    /// A SYN that cannot be remembered goes where a flow without an entry belongs, or to the backend of the
    /// closing flow that still holds its tuple.
    #[inline(always)]
    fn refused(&self, flow: Option<(T::Flow, Flow)>) -> Result<BackendId, Counter> {
        if let Some((entry, flow)) = flow {
            self.keep_half_open_time(&entry, &flow);
            return Ok(flow.backend);
        }
        if self.slot.is_settling() {
            return Err(Counter::Settling);
        }
        self.tables.stamp_old(self.service.table, self.index, self.now);
        Ok(default(self.tables, self.slot))
    }

    /// Lets an entry live at least one more half-open time.
    #[inline(always)]
    fn keep_half_open_time(&self, entry: &T::Flow, flow: &Flow) {
        let expires = self.now.wrapping_add(self.service.half_open);
        if ticks::is_past(flow.expires, expires) {
            entry.set_expires(expires);
        }
    }

    /// Any packet but a SYN.
    #[inline(always)]
    fn other(&self, segment: &Segment) -> BackendId {
        if let Some((entry, flow)) = live_flow(self.tables, self.key, self.now)
            && flow.closing == 0
        {
            return self.follow(&entry, &flow, segment);
        }
        if let Some((entry, half)) = live_half_open(self.tables, self.key, self.now)
            && let Some(id) = self.handshake(&entry, &half, segment)
        {
            return id;
        }
        // Once more: another CPU may have promoted the flow between the two look-ups.
        let id = match live_flow(self.tables, self.key, self.now) {
            Some((entry, flow)) => self.follow(&entry, &flow, segment),
            None => default(self.tables, self.slot),
        };
        // A closing entry does not speak for its flow: where the tuple was opened again while the slot was
        // stable, the entry ends before the flow, which then belongs to `fallback`.
        if id == self.slot.fallback() && id != self.slot.current() {
            self.tables.stamp_old(self.service.table, self.index, self.now);
        }
        id
    }

    /// The packet's backend, if it belongs to this handshake.
    #[inline(always)]
    fn handshake(&self, entry: &T::HalfOpen, half: &HalfOpen, segment: &Segment) -> Option<BackendId> {
        let established = self.now.wrapping_add(self.service.established);
        if half.proven != 0 {
            if ticks::is_past(half.expires.wrapping_add(ticks::SECOND), established) {
                entry.set_expires(established);
            }
            return Some(half.backend);
        }
        if !follows(segment.seq, half.isn) {
            return None;
        }
        if segment.is_rst() {
            self.tables.remove_half_open(self.key);
            return Some(half.backend);
        }
        if !answers(half, segment.ack) {
            return None;
        }
        let flow = Flow {
            backend: half.backend,
            slot: half.slot,
            table: half.table,
            seq: segment.seq,
            expires: established,
            closing: 0,
        };
        // First the one, then the other: in between both say the same.
        if self.tables.insert_flow(self.key, &flow) {
            self.tables.remove_half_open(self.key);
        } else if live_flow(self.tables, self.key, self.now).is_none_or(|(_, flow)| flow.closing != 0) {
            // Full, or an ended flow still holds the tuple: this entry then lives as long as a flow.
            entry.set_expires(established);
            entry.set_proven();
        }
        if segment.ends_flow()
            && let Some((entry, flow)) = live_flow(self.tables, self.key, self.now)
            && flow.closing == 0
        {
            self.follow(&entry, &flow, segment);
        }
        Some(half.backend)
    }

    /// A packet of a known flow: moves its time-out on, and sees it end. Numbers far from the flow's own
    /// change nothing, so a blind forger ends no entry.
    #[inline(always)]
    fn follow(&self, entry: &T::Flow, flow: &Flow, segment: &Segment) -> BackendId {
        let closes = segment.ends_flow() && is_near(segment.seq, flow.seq);
        let closing = closes || flow.closing != 0;
        if closes && flow.closing == 0 {
            entry.set_closing();
        }
        if segment.seq != flow.seq && is_ahead(segment.seq, flow.seq) {
            entry.set_seq(segment.seq);
        }
        let timeout = if closing { self.service.closing } else { self.service.established };
        let expires = self.now.wrapping_add(timeout);
        let was_refreshed_lately = expires.wrapping_sub(flow.expires) < ticks::SECOND;
        if !was_refreshed_lately {
            entry.set_expires(expires);
        }
        flow.backend
    }
}

/// Whether an acknowledgment number answers one of the backend's recorded initial sequence numbers.
#[inline(always)]
fn answers(half: &HalfOpen, ack: u32) -> bool {
    (half.recorded >= 1 && follows(ack, half.server_isn[0]))
        || (half.recorded >= 2 && follows(ack, half.server_isn[1]))
}
