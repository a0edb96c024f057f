//! The kernel object: entry points, maps, and the frame and table implementations that need the kernel.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the licence section is a named static")]
#![expect(missing_docs, reason = "the entry macros make functions without any")]

mod buckets;
mod maps;
mod tables;
mod tc;
mod xdp;

use aya_ebpf::bindings::{TC_ACT_SHOT, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::Counter;
use lb_ebpf::process;

use crate::tables::Maps;

/// Native and generic XDP. Accepts frames in several buffers, so that jumbo MTUs can be attached.
#[xdp(frags)]
pub fn sluice_xdp(context: XdpContext) -> u32 {
    let mut frame = xdp::Frame::new(context.ctx);
    let verdict = process(&mut frame, &Maps);
    maps::count(verdict.counter);
    match verdict.counter {
        Counter::Passed => xdp_action::XDP_PASS,
        Counter::Forwarded | Counter::Replied => frame.send(verdict.ifindex),
        _ => xdp_action::XDP_DROP,
    }
}

/// `TCX_NEXT`, and `TC_ACT_UNSPEC` for clsact: whatever comes next decides.
const NEXT: i32 = -1;

/// tcx and clsact, ingress.
#[classifier]
pub fn sluice_tc(context: TcContext) -> i32 {
    let mut frame = tc::Frame::new(context.skb.skb);
    let verdict = process(&mut frame, &Maps);
    maps::count(verdict.counter);
    match verdict.counter {
        Counter::Passed => NEXT,
        Counter::Forwarded | Counter::Replied => frame.send(verdict.ifindex),
        _ => TC_ACT_SHOT,
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
