//! Exact entries: whose a flow is where the endpoint's packets alone do not tell.
//!
//! Two kinds of flows need one, made before their first packet goes on: those that clients open to an endpoint
//! itself (*direct*), and those of every service of an endpoint but one. An endpoint knows a client's tuple only
//! once, so the SYN that it answers last says whose the tuple is: a SYN leaves a *pending* claim, the SYN-ACK for
//! it confirms that one and ends the one before. UDP has no SYN: every datagram says anew whose its tuple is.

use lb_common::{BackendId, Claim, Counter, Exact, ExactKey, FlowKey, Service, ServiceId, ticks};

use crate::segment::{Segment, follows, is_ahead};
use crate::tables::{ExactEntry, Tables};

/// The key of a flow's entry with a backend; `None`: the backend is gone.
#[inline(always)]
pub fn key<T: Tables>(tables: &T, flow: &FlowKey, backend: BackendId) -> Option<ExactKey> {
    let backend = tables.backend(backend).filter(|known| known.id == backend)?;
    Some(ExactKey { endpoint: backend.endpoint(), client: flow.client, port: flow.port, padding: 0 })
}

/// Remembers whose the flow of a SYN or a datagram is: its key's service.
///
/// # Errors
/// [`Counter::Exact`] where that is not possible: the packet must not go on.
#[inline(always)]
pub(crate) fn open<T: Tables>(
    tables: &T,
    flow: &FlowKey,
    backend: BackendId,
    segment: &Segment,
) -> Result<(), Counter> {
    if !tables.claim(flow, backend, segment.seq, segment.is_udp()) {
        return Err(Counter::Exact);
    }
    // Set after the insert: whoever takes it back looks for entries once more afterwards.
    if !tables.may_have_exact(backend) {
        tables.expect_exact(backend);
    }
    Ok(())
}

/// The service whose time-outs hold for a flow. Nobody has set any for direct flows.
#[inline(always)]
fn service<T: Tables>(tables: &T, whose: ServiceId, backend: BackendId) -> Option<&Service> {
    let id = if whose == ServiceId::DIRECT { tables.backend(backend)?.plain } else { whose };
    tables.vip(id).map(|vip| &vip.service)
}

/// [`Tables::claim`], by the key of the entry.
#[inline(always)]
pub fn claim<T: Tables>(
    tables: &T,
    key: &ExactKey,
    (whose, backend): (ServiceId, BackendId),
    isn: u32,
    is_udp: bool,
) -> bool {
    let Some(service) = service(tables, whose, backend) else { return false };
    let now = tables.now();
    let lifetime = if is_udp { service.established } else { service.half_open };
    let claim = Claim { isn, whose, expires: now.wrapping_add(lifetime) };
    if let Some(entry) = tables.exact(key) {
        return renew(&entry, claim, is_udp, now);
    }
    // Refused though there is room: another CPU was quicker.
    tables.admit(now) && tables.insert_exact(key, claim, is_udp)
        || tables.exact(key).is_some_and(|entry| renew(&entry, claim, is_udp, now))
}

/// A new entry.
#[inline(always)]
pub const fn fresh(claim: Claim, is_udp: bool) -> Exact {
    if is_udp {
        Exact { confirmed: claim, pending: Claim::none() }
    } else {
        Exact { confirmed: Claim::none(), pending: claim }
    }
}

/// A claim on a tuple that has an entry already. An expired one is used again: waiting for its deletion would need
/// a controller that lives. Where a sweep deletes it at this very moment, the next packet makes another.
#[inline(always)]
fn renew<E: ExactEntry>(entry: &E, claim: Claim, is_udp: bool, now: u32) -> bool {
    let known = entry.read();
    if is_udp {
        if known.confirmed.whose != claim.whose
            || !was_extended_lately(known.confirmed.expires, claim.expires)
        {
            entry.set_confirmed(claim);
        }
        return true;
    }
    if lives(&known.pending, now) {
        if known.pending.isn != claim.isn || known.pending.whose != claim.whose {
            return false;
        }
        entry.set_pending(claim);
        return true;
    }
    let is_repeated = known.confirmed.isn == claim.isn && known.confirmed.whose == claim.whose;
    if is_repeated && lives(&known.confirmed, now) {
        return true;
    }
    entry.set_pending(claim);
    // Another CPU may have put in another claim at the same time: one of the two remains.
    let known = entry.read();
    known.pending.isn == claim.isn && known.pending.whose == claim.whose
}

/// What matters of a packet from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A SYN-ACK.
    SynAck,
    /// A RST.
    Rst,
    /// Any other, and every datagram.
    Other,
}

impl Kind {
    #[inline(always)]
    pub(crate) const fn of(segment: &Segment) -> Self {
        if segment.is_syn_ack() {
            Self::SynAck
        } else if segment.is_rst() {
            Self::Rst
        } else {
            Self::Other
        }
    }
}

/// [`Tables::claimed`], by the key of the entry.
#[inline(always)]
pub fn claimed<T: Tables>(
    tables: &T,
    key: &ExactKey,
    backend: BackendId,
    kind: Kind,
    ack: u32,
) -> Option<ServiceId> {
    let now = tables.now();
    let entry = tables.exact(key)?;
    let known = entry.read();
    let answers_pending = lives(&known.pending, now) && follows(ack, known.pending.isn);
    if kind == Kind::Rst && answers_pending {
        return Some(known.pending.whose);
    }
    let confirms = kind == Kind::SynAck && answers_pending;
    if kind == Kind::SynAck && !confirms && !follows(ack, known.confirmed.isn) {
        // The endpoint has begun another flow of this tuple.
        entry.set_confirmed(Claim::none());
        return None;
    }
    let claim = if confirms { known.pending } else { known.confirmed };
    if !lives(&claim, now) {
        return None;
    }
    let idle = service(tables, claim.whose, backend).map_or(0, |service| service.established);
    let expires = now.wrapping_add(idle);
    if confirms || !was_extended_lately(claim.expires, expires) {
        entry.set_confirmed(Claim { expires, ..claim });
    }
    if confirms {
        entry.set_pending(Claim::none());
    }
    Some(claim.whose)
}

/// [`Tables::claimed_quote`], by the key of the entry.
#[inline(always)]
pub fn claimed_quote<T: Tables>(tables: &T, key: &ExactKey, seq: u32) -> Option<ServiceId> {
    let now = tables.now();
    let known = tables.exact(key)?.read();
    if lives(&known.pending, now) && is_ahead(seq, known.pending.isn) {
        return Some(known.pending.whose);
    }
    lives(&known.confirmed, now).then_some(known.confirmed.whose)
}

/// [`Tables::unclaim`], by the key of the entry.
#[inline(always)]
pub fn unclaim<T: Tables>(tables: &T, key: &ExactKey) {
    if let Some(entry) = tables.exact(key) {
        entry.set_confirmed(Claim::none());
    }
}

#[inline(always)]
fn lives(claim: &Claim, now: u32) -> bool {
    claim.whose != ServiceId::NOBODY && !ticks::is_past(claim.expires, now)
}

#[inline(always)]
const fn was_extended_lately(expires: u32, wanted: u32) -> bool {
    wanted.wrapping_sub(expires) < ticks::SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_moved_on_at_most_once_a_second() {
        for expires in [0, 1000, u32::MAX - 3] {
            let was_lately = |later: u32| was_extended_lately(expires, expires.wrapping_add(later));
            assert!(was_lately(0) && was_lately(1) && was_lately(ticks::SECOND - 1));
            assert!(!was_lately(ticks::SECOND) && !was_lately(100 * ticks::SECOND));
        }
    }
}
