//! The kernel object: entry points, maps, and the frame and table implementations that need the kernel.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(unsafe_code, reason = "the licence section is a named static")]
#![expect(missing_docs, reason = "the entry macros make functions without any")]

mod atomic;
mod buckets;
mod clock;
#[cfg(feature = "flood-control")]
mod control;
mod exact;
mod flow_table;
mod flows;
mod local;
mod maps;
mod tables;
mod tc;
mod unaligned;
mod xdp;

use aya_ebpf::bindings::{TC_ACT_SHOT, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::Counter;
use lb_ebpf::{Verdict, fast, rare};

#[cfg(feature = "flood-control")]
use crate::control::Control as Fast;
use crate::tables::Maps;
#[cfg(not(feature = "flood-control"))]
use crate::tables::Maps as Fast;

/// Native and generic XDP. Accepts frames in several buffers, so that jumbo MTUs can be attached.
#[xdp(frags)]
#[inline(always)]
pub fn sluice_xdp(context: XdpContext) -> u32 {
    let frame = &mut xdp::Frame::new(context.ctx);
    let verdict = fast(frame, &Fast);
    if verdict.rare {
        // SAFETY: nothing here needs to be dropped. Where the call fails the verdict holds as it is.
        unsafe { maps::RARE_XDP.tail_call(&context, 0) }
    }
    xdp_action(frame, verdict)
}

/// What [`sluice_xdp`] leaves to it.
#[xdp(frags)]
#[inline(always)]
pub fn sluice_xdp_rare(context: XdpContext) -> u32 {
    let frame = &mut xdp::Frame::new(context.ctx);
    let verdict = rare(frame, &Maps);
    xdp_action(frame, verdict)
}

#[inline(always)]
fn xdp_action(frame: &xdp::Frame, verdict: Verdict) -> u32 {
    maps::count(verdict.counter);
    match verdict {
        Verdict { counter: Counter::Passed, .. } => xdp_action::XDP_PASS,
        Verdict { ifindex: 0, .. } => xdp_action::XDP_DROP,
        Verdict { ifindex, .. } => frame.send(ifindex),
    }
}

/// `TCX_NEXT`, and `TC_ACT_UNSPEC` for clsact: whatever comes next decides.
const NEXT: i32 = -1;

/// tcx and clsact, ingress.
#[classifier]
#[inline(always)]
pub fn sluice_tc(context: TcContext) -> i32 {
    let frame = &mut tc::Frame::new(context.skb.skb);
    let verdict = fast(frame, &Fast);
    if verdict.rare {
        // SAFETY: as in `sluice_xdp`.
        unsafe { maps::RARE_TC.tail_call(&context, 0) }
    }
    tc_action(frame, verdict)
}

/// What [`sluice_tc`] leaves to it.
#[classifier]
#[inline(always)]
pub fn sluice_tc_rare(context: TcContext) -> i32 {
    let frame = &mut tc::Frame::new(context.skb.skb);
    let verdict = rare(frame, &Maps);
    tc_action(frame, verdict)
}

#[inline(always)]
fn tc_action(frame: &tc::Frame, verdict: Verdict) -> i32 {
    maps::count(verdict.counter);
    match verdict {
        Verdict { counter: Counter::Passed, .. } => NEXT,
        Verdict { ifindex: 0, .. } => TC_ACT_SHOT,
        Verdict { ifindex, .. } => frame.send(ifindex),
    }
}

/// Passes everything: a veth that receives redirected frames needs an XDP program on its peer
/// (`veth_xdp_xmit` in the kernel's drivers/net/veth.c).
#[xdp(frags)]
pub fn sluice_pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Nothing in the walk can panic: `cargo xtask build-ebpf` refuses an object that links this.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers such as `bpf_fib_lookup` are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
