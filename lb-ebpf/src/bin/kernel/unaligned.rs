//! Words of frames, loaded and stored whole. They lie on 16-bit boundaries; LLVM would split each into halves, though machines
//! take them whole, and the verifier allows it where they do (`check_pkt_ptr_alignment` in the kernel's
//! kernel/bpf/verifier.c).
#![expect(unsafe_code, reason = "instructions by name")]

use core::arch::asm;

use lb_ebpf::headers::U32;

/// A word as it lies in the frame.
#[inline(always)]
pub fn load(field: &U32) -> u32 {
    let word: u64;
    // SAFETY: reads the four bytes that the reference covers, and clears the upper half of the register.
    unsafe {
        asm!("{word} = *(u32 *)({field} + 0)", field = in(reg) field, word = out(reg) word, options(pure, readonly, nostack));
    }
    word as u32
}

/// Puts a word there.
#[inline(always)]
pub fn store(field: &mut U32, word: u32) {
    // SAFETY: writes the four bytes that the reference covers.
    unsafe {
        asm!("*(u32 *)({field} + 0) = {word}", field = in(reg) field, word = in(reg) u64::from(word), options(nostack));
    }
}
