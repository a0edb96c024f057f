//! The benchmark's kernel half: a runner that puts the frame back before each run, and floor programs to
//! compare with. `BPF_PROG_TEST_RUN` repeats a program on the same frame, so a program that changes it would
//! see its own output.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "frames and map values are reached by pointer")]
#![expect(missing_docs, reason = "the entry macros make functions without any")]

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, xdp_action, xdp_md};
use aya_ebpf::helpers::{bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::hash;
use lb_common::{Address, Port, SocketKey};

/// Words of the frame that are put back: every header that a program may change.
const WORDS: usize = 12;

/// What the runner does before each run. Mirrored by the benchmark's userspace half.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Plan {
    /// The frame's beginning.
    frame: [u64; WORDS],
    /// The frame's length in bytes.
    length: u32,
    /// Byte offset of the address half-word and of the port that vary, 0: none.
    address_at: u32,
    port_at: u32,
    /// Flows minus one, a power of two minus one.
    mask: u32,
    /// Counts up, so that every run is another flow.
    counter: u32,
}

#[map]
static PLAN: Array<Plan> = Array::with_max_entries(1, 0);
/// 0: the program under test.
#[map]
static NEXT_XDP: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static NEXT_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The floor's maps: what any balancer needs at least.
#[map]
static FLOOR_SERVICES: HashMap<SocketKey, u32> = HashMap::with_max_entries(1024, 0);
#[map]
static FLOOR_SLOTS: Array<u32> = Array::with_max_entries(65537, 0);
#[map]
static FLOOR_COUNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Writes one value into the frame if it is inside.
macro_rules! put {
    ($data:expr, $end:expr, $at:expr, $type:ty, $value:expr) => {
        let place = $data + $at;
        if place + size_of::<$type>() <= $end {
            // SAFETY: just checked against the frame's end.
            unsafe { (place as *mut $type).write_unaligned($value) }
        }
    };
}

#[inline(always)]
fn restore(data: usize, end: usize, plan: &mut Plan) {
    let mut word = 0;
    while word < WORDS {
        put!(data, end, word * 8, u64, plan.frame[word]);
        word += 1;
    }
    // The tail that is no whole word is not changed by any program: headers end on 2 bytes, payload stays.
    plan.counter = plan.counter.wrapping_add(1);
    // An odd factor visits every flow once a round, in no order that a prefetcher knows.
    let flow = plan.counter.wrapping_mul(0x9e37_79b1) & plan.mask;
    if plan.address_at != 0 {
        put!(data, end, (plan.address_at & 0x7f) as usize, u16, flow as u16);
        put!(data, end, (plan.port_at & 0x7f) as usize, u16, (((flow >> 16) + 1024) as u16).to_be());
    }
}

#[xdp(frags)]
pub fn runner_xdp(context: XdpContext) -> u32 {
    let Some(plan) = PLAN.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the benchmark runs on one CPU.
    let plan = unsafe { &mut *plan };
    // A program that encapsulated left the frame longer: take that off again.
    let longer = (context.data_end() - context.data()) as u32;
    if longer > plan.length {
        // SAFETY: the context is the kernel's.
        unsafe { bpf_xdp_adjust_head(context.ctx, (longer - plan.length) as i32) };
    }
    // SAFETY: the context is the kernel's.
    let (data, end) = unsafe { ((*context.ctx).data as usize, (*context.ctx).data_end as usize) };
    restore(data, end, plan);
    // SAFETY: the array holds XDP programs only.
    unsafe { NEXT_XDP.tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}

#[classifier]
pub fn runner_tc(context: TcContext) -> i32 {
    let Some(plan) = PLAN.get_ptr_mut(0) else { return TC_ACT_SHOT as i32 };
    // SAFETY: the benchmark runs on one CPU.
    let plan = unsafe { &mut *plan };
    let skb: *mut __sk_buff = context.skb.skb;
    // SAFETY: the buffer is the kernel's.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    restore(data, end, plan);
    // SAFETY: the array holds tc programs only.
    unsafe { NEXT_TC.tail_call(&context, 0) };
    TC_ACT_SHOT as i32
}

/// What the runner itself costs.
#[xdp(frags)]
pub fn null_xdp(_: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// What the runner itself costs.
#[classifier]
pub fn null_tc(_: TcContext) -> i32 {
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_redirect(1, 0) }) as i32
}

/// Grows the head and nothing else: half of its net cost is the runner's own shrinking.
#[xdp(frags)]
pub fn grow_xdp(context: XdpContext) -> u32 {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_xdp_adjust_head(context.ctx, -20) };
    xdp_action::XDP_TX
}

/// The floor F: parse, one service look-up by hash map, one keyed hash, one array look-up, one per-CPU
/// counter, IPIP (RFC 2003), transmit.
#[xdp(frags)]
pub fn floor_xdp(context: XdpContext) -> u32 {
    floor(context.ctx).unwrap_or(xdp_action::XDP_PASS)
}

const ETHERNET: usize = 14;
const IPV4: usize = 20;

#[inline(always)]
fn at<T>(data: usize, end: usize, offset: usize) -> Option<*mut T> {
    let place = data + offset;
    if place + size_of::<T>() > end { None } else { Some(place as *mut T) }
}

#[inline(always)]
fn floor(context: *mut xdp_md) -> Option<u32> {
    use lb_ebpf::headers::{ETHERTYPE_IPV4, Ethernet, Ipv4, Tcp, U16, U32};
    // SAFETY: the context is the kernel's; `at` checks each header against the frame's end.
    unsafe {
        let (data, end) = ((*context).data as usize, (*context).data_end as usize);
        let ethernet = *at::<Ethernet>(data, end, 0)?;
        let ip = *at::<Ipv4>(data, end, ETHERNET)?;
        let tcp = *at::<Tcp>(data, end, ETHERNET + IPV4)?;
        if ethernet.kind != ETHERTYPE_IPV4
            || ip.version_ihl != 0x45
            || ip.protocol != 6
            || ip.fragment.get() & 0x3fff != 0
        {
            return None;
        }
        let source = Address::from_v4_raw(ip.source.raw());
        let destination = Address::from_v4_raw(ip.destination.raw());
        let key = SocketKey { address: destination, port: tcp.destination, protocol: 6 };
        FLOOR_SERVICES.get(&key)?;
        let addresses = source.v4_raw() as u64 | (destination.v4_raw() as u64) << 32;
        let rest = tcp.source.raw() as u64 | (tcp.destination.raw() as u64) << 16 | 6 << 32 | 13 << 56;
        let hash = hash::siphash13([addresses, rest], hash::initial([1, 2]));
        let slot = hash::slot((hash ^ (hash >> 32)) as u32, 65537);
        let backend = *FLOOR_SLOTS.get(slot)?;
        *FLOOR_COUNT.get_ptr_mut(0)? += 1;
        if bpf_xdp_adjust_head(context, -(IPV4 as i32)) != 0 {
            return None;
        }
        let (data, end) = ((*context).data as usize, (*context).data_end as usize);
        *at::<Ethernet>(data, end, 0)? = ethernet;
        let outer = at::<Ipv4>(data, end, ETHERNET)?;
        let length = ip.total_length.get().wrapping_add(IPV4 as u16);
        let checksum = lb_ebpf::checksum::Sum::default()
            .add16(u16::from_be_bytes([0x45, 0]).to_be())
            .add16(length.to_be())
            .add16(u16::from_ne_bytes([64, 4]))
            .add32(Port::new(1).raw() as u32)
            .add32(backend)
            .apply(0xffff);
        *outer = Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_length: U16::new(length),
            id: U16::new(0),
            fragment: U16::new(0),
            ttl: 64,
            protocol: 4,
            checksum: U16::from_raw(checksum),
            source: U32::from_raw(Port::new(1).raw() as u32),
            destination: U32::from_raw(backend),
        };
    }
    Some(xdp_action::XDP_TX)
}

/// Nothing here can panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
