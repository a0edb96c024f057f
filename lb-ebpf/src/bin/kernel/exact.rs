//! What a program does with exact entries, as global functions: the verifier looks at each once. They are called where
//! the walk's stack is deepest, so keys and new entries are put together in a place of this CPU. Nobody else of this
//! CPU uses it meanwhile: both hooks run in the same softirq, which does not interrupt itself.
#![expect(unsafe_code, reason = "the verifier's calling convention: pointers that it proves valid or null")]

use lb_common::{BackendId, Claim, Exact, ExactKey, FlowKey, ServiceId};
use lb_ebpf::exact::{self, Kind};

use crate::maps;
use crate::tables::Maps;

/// What is put together.
#[repr(C)]
pub struct Scratch {
    key: ExactKey,
    entry: Exact,
}

/// The key of a flow's entry.
#[inline(always)]
fn key(flow: *const FlowKey, backend: u32) -> Option<&'static ExactKey> {
    // SAFETY: the verifier proves every caller's pointer.
    let flow = unsafe { flow.as_ref() }?;
    let scratch = maps::EXACT_SCRATCH.get_ptr_mut(0)?;
    let key = exact::key(&Maps, flow, BackendId(backend))?;
    // SAFETY: this CPU's element.
    unsafe {
        (&raw mut (*scratch).key).write(key);
        Some(&(*scratch).key)
    }
}

/// Adds an entry; `false`: refused.
#[inline(always)]
pub fn insert(key: &ExactKey, claim: Claim, is_udp: bool) -> bool {
    let Some(scratch) = maps::EXACT_SCRATCH.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's element; `key` may be the other part of it.
    unsafe {
        (&raw mut (*scratch).entry).write(exact::fresh(claim, is_udp));
        // From where it is: a copy of it would not fit on the stack.
        let entry = &(*scratch).entry;
        maps::EXACT.insert(key, entry, maps::NOEXIST).is_ok()
    }
}

/// 0: refused.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim_exact(flow: *const FlowKey, whose: u32, backend: u32, isn: u32, is_udp: u32) -> u32 {
    let whose = (ServiceId(whose), BackendId(backend));
    key(flow, backend).map_or(0, |key| u32::from(exact::claim(&Maps, key, whose, isn, is_udp != 0)))
}

/// Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unclaim_exact(flow: *const FlowKey, backend: u32) -> u32 {
    if let Some(key) = key(flow, backend) {
        exact::unclaim(&Maps, key);
    }
    0
}

/// [`ServiceId::NOBODY`] where no entry says whose.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claimed_exact(flow: *const FlowKey, backend: u32, kind: u32, ack: u32) -> u32 {
    let kind = match kind {
        0 => Kind::SynAck,
        1 => Kind::Rst,
        _ => Kind::Other,
    };
    number(key(flow, backend).and_then(|key| exact::claimed(&Maps, key, BackendId(backend), kind, ack)))
}

/// Likewise.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claimed_quote(flow: *const FlowKey, backend: u32, seq: u32) -> u32 {
    number(key(flow, backend).and_then(|key| exact::claimed_quote(&Maps, key, seq)))
}

#[inline(always)]
fn number(whose: Option<ServiceId>) -> u32 {
    whose.unwrap_or(ServiceId::NOBODY).0
}

#[inline(always)]
fn whose(number: u32) -> Option<ServiceId> {
    Some(ServiceId(number)).filter(|whose| *whose != ServiceId::NOBODY)
}

/// [`lb_ebpf::tables::Tables::claim`].
#[inline(always)]
pub fn claim(flow: &FlowKey, backend: BackendId, isn: u32, is_udp: bool) -> bool {
    claim_exact(flow, flow.service.0, backend.0, isn, u32::from(is_udp)) != 0
}

/// [`lb_ebpf::tables::Tables::unclaim`].
#[inline(always)]
pub fn unclaim(flow: &FlowKey, backend: BackendId) {
    unclaim_exact(flow, backend.0);
}

/// [`lb_ebpf::tables::Tables::claimed`].
#[inline(always)]
pub fn claimed(flow: &FlowKey, backend: BackendId, kind: Kind, ack: u32) -> Option<ServiceId> {
    whose(claimed_exact(flow, backend.0, kind as u32, ack))
}

/// [`lb_ebpf::tables::Tables::claimed_quote`].
#[inline(always)]
pub fn quoted(flow: &FlowKey, backend: BackendId, seq: u32) -> Option<ServiceId> {
    whose(claimed_quote(flow, backend.0, seq))
}
