//! The two flow tables. What a program does with them are global functions: the walk asks at many places, and the
//! verifier looks at a global function once, not at each call. Such a function takes pointers to known types and
//! returns a number.
#![expect(unsafe_code, reason = "the verifier's calling convention: pointers that it proves valid or null")]

use lb_common::{Flow, FlowKey, HalfOpen, flow_table, limits};

use crate::flow_table::FlowTable;
use crate::maps;

#[inline(always)]
fn flows() -> FlowTable<Flow> {
    let (buckets, count) = (&maps::FLOW_BUCKETS, maps::FLOW_COUNT.load());
    FlowTable { buckets, count, entries: &maps::FLOWS }
}

#[inline(always)]
fn half_opens() -> FlowTable<HalfOpen> {
    let (buckets, count) = (&maps::HALF_OPEN_BUCKETS, flow_table::buckets(limits::HALF_OPEN));
    FlowTable { buckets, count, entries: &maps::HALF_OPEN }
}

/// The number of a flow's entry, or [`flow_table::NONE`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_flow(key: *const FlowKey) -> u32 {
    // SAFETY: the verifier proves every caller's pointer.
    unsafe { key.as_ref() }.map_or(flow_table::NONE, |key| flows().find(key))
}

/// Adds a flow; 0: refused.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_flow(key: *const FlowKey, flow: *const Flow) -> u32 {
    // SAFETY: as above.
    match unsafe { (key.as_ref(), flow.as_ref()) } {
        (Some(key), Some(flow)) => u32::from(flows().insert(key, flow)),
        _ => 0,
    }
}

/// The number of a flow's half-open entry, or [`flow_table::NONE`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_half_open(key: *const FlowKey) -> u32 {
    // SAFETY: as above.
    unsafe { key.as_ref() }.map_or(flow_table::NONE, |key| half_opens().find(key))
}

/// Adds a half-open flow; 0: refused.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_half_open(key: *const FlowKey, half: *const HalfOpen) -> u32 {
    // SAFETY: as above.
    match unsafe { (key.as_ref(), half.as_ref()) } {
        (Some(key), Some(half)) => u32::from(half_opens().insert(key, half)),
        _ => 0,
    }
}

/// Deletes a half-open flow. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn delete_half_open(key: *const FlowKey) -> u32 {
    // SAFETY: as above.
    if let Some(key) = unsafe { key.as_ref() } {
        half_opens().remove(key);
    }
    0
}

/// Where a flow's entry lies.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<*mut Flow> {
    flows().value(find_flow(key))
}

/// Adds a flow; `false`: refused.
#[inline(always)]
pub fn insert_flow(key: &FlowKey, flow: &Flow) -> bool {
    add_flow(key, flow) != 0
}

/// Where a flow's half-open entry lies.
#[inline(always)]
pub fn half_open(key: &FlowKey) -> Option<*mut HalfOpen> {
    half_opens().value(find_half_open(key))
}

/// Adds a half-open flow; `false`: refused.
#[inline(always)]
pub fn insert_half_open(key: &FlowKey, half: &HalfOpen) -> bool {
    add_half_open(key, half) != 0
}

/// Deletes a half-open flow.
#[inline(always)]
pub fn remove_half_open(key: &FlowKey) {
    delete_half_open(key);
}
