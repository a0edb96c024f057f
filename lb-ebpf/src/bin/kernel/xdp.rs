//! [`Packet`] over an XDP context.
#![expect(unsafe_code, reason = "frames are reached by pointer")]

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::{bpf_redirect, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use lb_common::{Address, NextHop};
use lb_ebpf::checksum::Sum;
use lb_ebpf::headers::{Header, U32};
use lb_ebpf::packet::Packet;
use lb_ebpf::transport::{Transport, fix_in_place};
use lb_ebpf::walk::At;

use crate::tc::{at, fib};
use crate::{maps, unaligned};

/// A frame as the driver received it.
pub struct Frame {
    context: *mut xdp_md,
    data: usize,
    end: usize,
}

impl Frame {
    /// The frame of a context that the kernel passed to an XDP program.
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> Self {
        // SAFETY: the kernel passes a valid context.
        let (data, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
        Self { context, data, end }
    }

    /// Sends it out by an interface.
    #[inline(always)]
    pub fn send(&self, ifindex: u32) -> u32 {
        if ifindex == self.ifindex() {
            xdp_action::XDP_TX
        } else {
            // SAFETY: the helper has no preconditions.
            (unsafe { bpf_redirect(ifindex, 0) }) as u32
        }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        // SAFETY: `at` checked that the header lies within the frame, whose bytes are any bytes (FromBytes).
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
        // Only a frame in several buffers is longer than its linear part; most need no helper call.
        self.end - self.data >= bytes
            // SAFETY: the context is the kernel's.
            || unsafe { bpf_xdp_get_buff_len(self.context) } >= bytes as u64
    }

    #[inline(always)]
    fn fix_checksum(&mut self, transport: Transport, l4: usize, address: Sum, ports: Sum) -> Option<()> {
        fix_in_place(self, transport, l4, address.plus(ports))
    }

    #[inline(always)]
    fn forget(&self, at: usize) -> usize {
        maps::forget(at)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is the kernel's.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        false
    }

    /// XDP runs before frames are put together and after they were cut.
    #[inline(always)]
    fn segment_size(&self) -> usize {
        0
    }

    #[inline(always)]
    fn reshape(&mut self, at: At, length: usize) -> Option<()> {
        self.resize(at.l3 + length)
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Option<()> {
        // SAFETY: the context is the kernel's.
        let has = unsafe { bpf_xdp_get_buff_len(self.context) };
        // SAFETY: as above.
        let failed = unsafe { bpf_xdp_adjust_tail(self.context, length as i32 - has as i32) };
        *self = Self::new(self.context);
        (failed == 0).then_some(())
    }

    #[inline(always)]
    fn route(&mut self, protocol: u8, source: &Address, destination: &Address) -> Option<NextHop> {
        fib(self.context.cast(), self.ifindex(), protocol, (source, destination))
    }
}
