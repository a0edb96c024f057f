//! Addresses in frames, by loads and stores of their whole words. A frame's words lie on 16-bit boundaries; LLVM would
//! split each into halves, though machines take them whole, and the verifier allows it where they do
//! (`check_pkt_ptr_alignment` in the kernel's kernel/bpf/verifier.c).
#![expect(unsafe_code, reason = "instructions by name")]

use core::arch::asm;

use lb_ebpf::headers::U32;

/// Four words as they lie in the frame.
#[inline(always)]
pub fn load(field: &[U32; 4]) -> [u32; 4] {
    let (low, high): (u64, u64);
    // SAFETY: reads the 16 bytes that the reference covers.
    unsafe {
        asm!(
            "{low} = *(u64 *)({field} + 0)",
            "{high} = *(u64 *)({field} + 8)",
            field = in(reg) field,
            low = out(reg) low,
            high = out(reg) high,
            options(pure, readonly, nostack),
        );
    }
    [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32]
}

/// Puts four words there.
#[inline(always)]
pub fn store(field: &mut [U32; 4], words: [u32; 4]) {
    let [a, b, c, d] = words.map(u64::from);
    // SAFETY: writes the 16 bytes that the reference covers.
    unsafe {
        asm!("*(u32 *)({field} + 0) = {word}", field = in(reg) field, word = in(reg) a, options(nostack));
        asm!("*(u32 *)({field} + 4) = {word}", field = in(reg) field, word = in(reg) b, options(nostack));
        asm!("*(u32 *)({field} + 8) = {word}", field = in(reg) field, word = in(reg) c, options(nostack));
        asm!("*(u32 *)({field} + 12) = {word}", field = in(reg) field, word = in(reg) d, options(nostack));
    }
}
