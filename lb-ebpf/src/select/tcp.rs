//! TCP in a tracked slot.

use lb_common::{BackendId, Counter, Flow, HalfOpen, ticks};

use super::{Tracked, default, live_flow, live_half_open};
use crate::segment::{Segment, follows, is_ahead, is_near};
use crate::tables::{FlowEntry, HalfOpenEntry, Tables};

impl<T: Tables> Tracked<'_, T> {
    /// A SYN: of a flow that is known, a retransmission, a reuse of the tuple, a forgery, or a new flow.
    #[inline(always)]
    pub(super) fn syn(&self, segment: &Segment) -> Result<BackendId, Counter> {
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
        let is_default = current == default(self.tables, self.slot);
        if !current.is_some() || (flow.is_none() && is_default && !self.service.tracks_always()) {
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
        if self.tables.admit(self.now) && self.tables.insert_half_open(self.key, &half) {
            return Ok(current);
        }
        // Full, guarded, or another CPU was quicker with the same SYN.
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
        self.unremembered(default(self.tables, self.slot))
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
    pub(super) fn other(&self, segment: &Segment) -> BackendId {
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
            None => {
                self.tables.note(Counter::Missed);
                default(self.tables, self.slot)
            }
        };
        // A closing entry does not speak for its flow: where the tuple was opened again while the slot was
        // stable, the entry ends before the flow, which then belongs to `fallback`.
        if id == self.slot.fallback() && id != self.slot.current() {
            self.stamp();
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
        self.extend(entry, flow, if closing { self.service.closing } else { self.service.established });
        flow.backend
    }
}

/// Whether an acknowledgment number answers one of the backend's recorded initial sequence numbers.
#[inline(always)]
fn answers(half: &HalfOpen, ack: u32) -> bool {
    (half.recorded >= 1 && follows(ack, half.server_isn[0]))
        || (half.recorded >= 2 && follows(ack, half.server_isn[1]))
}
