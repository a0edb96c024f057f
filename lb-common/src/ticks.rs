//! Time as the data path keeps it: the kernel's coarse monotonic clock in units of 2^24 ns (16.8 ms).
//!
//! 32 bits of it wrap after 2.3 years; comparisons are therefore by signed difference, right for spans up
//! to half of that.

/// Nanoseconds to ticks is a shift by this.
pub const SHIFT: u32 = 24;

/// About one second: how often the life of a busy flow is written down.
pub const SECOND: u32 = (1_000_000_000_u64 >> SHIFT) as u32;

/// A reading of `CLOCK_MONOTONIC_COARSE` in nanoseconds as ticks.
#[inline(always)]
pub const fn from_nanos(nanos: u64) -> u32 {
    (nanos >> SHIFT) as u32
}

/// A time-out as ticks, rounded up, at most a year.
pub const fn from_duration(duration: core::time::Duration) -> u32 {
    const YEAR: u128 = 365 * 24 * 3600 * 1_000_000_000;
    let nanos = duration.as_nanos();
    let nanos = if nanos > YEAR { YEAR } else { nanos };
    nanos.div_ceil(1 << SHIFT) as u32
}

/// Whether `time` lies before `now`.
#[inline(always)]
pub const fn is_past(time: u32, now: u32) -> bool {
    (time.wrapping_sub(now) as i32) < 0
}
