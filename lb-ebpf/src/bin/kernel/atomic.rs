//! Read-modify-write of words in maps: BPF has the instructions (Linux 5.12), Rust's BPF target offers none of them.
#![expect(unsafe_code, reason = "instructions by name")]

use core::arch::asm;

/// Writes `new` where `old` stands; whether it did. Nothing is moved across it, by compiler or CPU.
///
/// # Safety
///
/// `word` must point to a word of a map's element.
#[inline(always)]
pub unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: the caller's; the instruction compares with register 0 and returns there what it found.
    unsafe {
        asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new, inlateout("r0") old => found);
    }
    found == old
}

/// Adds.
///
/// # Safety
///
/// As for [`replace`].
#[inline(always)]
pub unsafe fn add(word: *mut u64, number: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {number}", word = in(reg) word, number = in(reg) number) }
}
