//! [`Packet`] over a socket buffer, and what both kernel frames share.
#![expect(unsafe_code, reason = "frames are reached by pointer")]

use core::ffi::c_void;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    bpf_fib_lookup as FibParameters,
};
use aya_ebpf::helpers::{
    bpf_fib_lookup, bpf_l4_csum_replace, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail,
    bpf_skb_pull_data,
};
use lb_common::{Address, NextHop};
use lb_ebpf::checksum::Sum;
use lb_ebpf::headers::{Header, U32};
use lb_ebpf::packet::Packet;
use lb_ebpf::transport::Transport;
use lb_ebpf::walk::At;

use crate::{maps, unaligned};

/// A socket buffer. Its outermost VLAN tag is not in the bytes and stays with the buffer.
pub struct Frame {
    skb: *mut __sk_buff,
    data: usize,
    end: usize,
}

/// What the walk can touch: link header, a tag (the outermost one is with the buffer), IPv6, a few extension
/// headers, the longest TCP header.
const HEADERS: usize = 14 + 4 + 40 + 64 + 60;

impl Frame {
    /// The buffer that the kernel passed to a tc program, with the headers pulled into its linear part.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        let frame = Self::linear(skb);
        if frame.data + HEADERS <= frame.end {
            return frame;
        }
        // SAFETY: the kernel passes a valid buffer.
        let length = unsafe { (*skb).len };
        if length as usize <= frame.end - frame.data {
            return frame;
        }
        let headers = if length < HEADERS as u32 { length } else { HEADERS as u32 };
        // SAFETY: as above. A refusal leaves the linear part as it is: headers beyond it are then absent.
        unsafe { bpf_skb_pull_data(skb, headers) };
        Self::linear(skb)
    }

    #[inline(always)]
    fn linear(skb: *mut __sk_buff) -> Self {
        // SAFETY: the kernel passes a valid buffer.
        let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
        Self { skb, data, end }
    }

    /// Sends it out by an interface.
    #[inline(always)]
    pub fn send(&self, ifindex: u32) -> i32 {
        // SAFETY: the helper has no preconditions.
        (unsafe { bpf_redirect(ifindex, 0) }) as i32
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        // SAFETY: `at` checked that the header lies within the linear part, whose bytes are any bytes.
        at::<T>(self.data, self.end, offset).map(|header| unsafe { &*header })
    }

    #[inline(always)]
    fn header_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as above; `&mut self` makes the borrow unique.
        at::<T>(self.data, self.end, offset).map(|header| unsafe { &mut *header })
    }

    #[inline(always)]
    fn word(field: &U32) -> u32 {
        unaligned::load(field)
    }

    #[inline(always)]
    fn set_word(field: &mut U32, word: u32) {
        unaligned::store(field, word);
    }

    #[inline(always)]
    fn holds(&self, bytes: usize) -> bool {
        // SAFETY: the buffer is the kernel's.
        unsafe { (*self.skb).len as usize >= bytes }
    }

    /// With `CHECKSUM_PARTIAL` the field holds the pseudo-header's sum alone: the kernel's helper then
    /// applies the part marked as such and skips the other (`inet_proto_csum_replace_by_diff`). For UDP it is
    /// told to leave 0 alone and to write all ones for a computed 0.
    #[inline(always)]
    fn fix_checksum(&mut self, transport: Transport, l4: usize, address: Sum, ports: Sum) -> Option<()> {
        let offset = (l4 + transport.checksum_at()) as u32;
        let zero = match transport {
            Transport::Tcp => 0,
            Transport::Udp => u64::from(BPF_F_MARK_MANGLED_0),
        };
        let pseudo_header = u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: the buffer is the kernel's; size 0 means that the sums are ready-made differences.
        let failed = unsafe {
            bpf_l4_csum_replace(self.skb, offset, 0, u64::from(address.fold32()), pseudo_header | zero)
                | bpf_l4_csum_replace(self.skb, offset, 0, u64::from(ports.fold32()), zero)
        };
        *self = Self::linear(self.skb);
        (failed == 0).then_some(())
    }

    #[inline(always)]
    fn forget(&self, at: usize) -> usize {
        maps::forget(at)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the buffer is the kernel's.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: the buffer is the kernel's.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn segment_size(&self) -> usize {
        // SAFETY: the buffer is the kernel's.
        unsafe { (*self.skb).gso_size as usize }
    }

    /// There is no helper that takes back a partial checksum. But one whose place lies before the packet's begin
    /// is forgotten (`__skb_postpull_rcsum`): so everything up to behind the transport header's first word is
    /// taken out. Before that the tail is cut or grown for what then is left, which also ends segmentation.
    #[inline(always)]
    fn reshape(&mut self, at: At, length: usize) -> Option<()> {
        let out = at.l4 - at.l3 + 4;
        let end = at.l3 + length;
        // SAFETY: the buffer is the kernel's.
        let failed = unsafe {
            bpf_skb_change_tail(self.skb, (end + out) as u32, 0) != 0
                || bpf_skb_adjust_room(self.skb, -(out as i32), BPF_ADJ_ROOM_MAC, 0) != 0
                || bpf_skb_pull_data(self.skb, end as u32) != 0
        };
        *self = Self::linear(self.skb);
        (!failed).then_some(())
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Option<()> {
        // SAFETY: the buffer is the kernel's.
        let failed = unsafe {
            bpf_skb_change_tail(self.skb, length as u32, 0) != 0
                || bpf_skb_pull_data(self.skb, length as u32) != 0
        };
        *self = Self::linear(self.skb);
        (!failed).then_some(())
    }

    #[inline(always)]
    fn route(&mut self, protocol: u8, source: &Address, destination: &Address) -> Option<NextHop> {
        fib(self.skb.cast(), self.ifindex(), protocol, (source, destination))
    }
}

/// The place of a `T` at `offset`, if it ends before `end`. The verifier wants this very comparison: pointer
/// plus size against end, never a length.
///
/// Headers ask for alignment 2, which an Ethernet frame has unless another program moved its start by an odd
/// number of bytes; BPF targets that we build for load from any address.
#[inline(always)]
pub fn at<T>(data: usize, end: usize, offset: usize) -> Option<*mut T> {
    let place = data + offset;
    if place + size_of::<T>() > end {
        return None;
    }
    Some(place as *mut T)
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Asks the kernel's FIB. Fails where forwarding is off on the interface, and where there is no route or no
/// neighbour.
#[inline(always)]
pub fn fib(
    context: *mut c_void,
    ifindex: u32,
    protocol: u8,
    (source, destination): (&Address, &Address),
) -> Option<NextHop> {
    // SAFETY: all fields are integers.
    let mut parameters: FibParameters = unsafe { core::mem::zeroed() };
    parameters.l4_protocol = protocol;
    parameters.ifindex = ifindex;
    // Short enough for any route, and not 0, with which the kernel would not say what fits.
    parameters.__bindgen_anon_1.tot_len = 1;
    if destination.is_v4() {
        parameters.family = AF_INET;
        parameters.__bindgen_anon_3.ipv4_src = source.v4_raw();
        parameters.__bindgen_anon_4.ipv4_dst = destination.v4_raw();
    } else {
        parameters.family = AF_INET6;
        parameters.__bindgen_anon_3.ipv6_src = source.words;
        parameters.__bindgen_anon_4.ipv6_dst = destination.words;
    }
    // SAFETY: the context is the kernel's, the parameters are on the stack with their true size.
    let found = unsafe { bpf_fib_lookup(context, &mut parameters, size_of::<FibParameters>() as i32, 0) };
    if found != 0 {
        return None;
    }
    Some(NextHop {
        destination: zerocopy::transmute!(parameters.dmac),
        source: zerocopy::transmute!(parameters.smac),
        ifindex: parameters.ifindex,
        // SAFETY: both fields of the union are integers; the kernel has answered with the route's MTU.
        mtu: u32::from(unsafe { parameters.__bindgen_anon_1.mtu_result }),
    })
}
