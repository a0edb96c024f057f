//! The programs' clock.

#[cfg(not(feature = "test-clock"))]
pub use coarse::now;
#[cfg(feature = "test-clock")]
pub use written::now;

#[cfg(not(feature = "test-clock"))]
mod coarse {
    #![expect(unsafe_code, reason = "a helper of the kernel's")]

    use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
    use lb_common::ticks;

    /// Now, in ticks.
    #[inline(always)]
    pub fn now() -> u32 {
        // SAFETY: the helper has no preconditions.
        ticks::from_nanos(unsafe { bpf_ktime_get_coarse_ns() })
    }
}

/// What schedules are run on: the test says what time it is.
#[cfg(feature = "test-clock")]
mod written {
    use aya_ebpf::macros::map;
    use aya_ebpf::maps::Array;

    /// 0 -> now, in ticks. Written by the test.
    #[map]
    static CLOCK: Array<u32> = Array::with_max_entries(1, 0);

    /// Now, in ticks.
    #[inline(always)]
    pub fn now() -> u32 {
        CLOCK.get(0).copied().unwrap_or_default()
    }
}
