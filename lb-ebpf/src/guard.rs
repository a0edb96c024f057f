//! What a flood may write into the flow tables.

/// Unproven flows that one CPU remembers in one tick, on and on: some 30,000 a second.
///
/// More than honest clients open in slots within a change, and little enough that a flood costs a CPU no more than
/// look-ups: an insert takes a lock and memory. Beyond it inserts are refused as if the table were full, which is
/// what a flood would soon achieve anyway.
pub const INSERTS: u32 = 512;

/// Unproven flows that one CPU remembers at once after it has been quiet for half a second. Clients come back together
/// when they have lost a server; a flow that is not remembered goes to a backend that may be about to leave.
pub const BURST: u32 = 32 * INSERTS;

/// The inserts of one CPU: a bucket of tokens.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Guard {
    tick: u32,
    /// Inserts since the bucket was full.
    spent: u32,
}

impl Guard {
    /// Whether another flow may be remembered at `now`, in ticks.
    #[inline(always)]
    pub fn admit(&mut self, now: u32) -> bool {
        if self.tick != now {
            let past = now.wrapping_sub(self.tick).min(BURST / INSERTS);
            *self = Self { tick: now, spent: self.spent.saturating_sub(past * INSERTS) };
        }
        let is_admitted = self.spent < BURST;
        self.spent += u32::from(is_admitted);
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(guard: &mut Guard, now: u32) -> u32 {
        (0..3 * BURST).map(|_| u32::from(guard.admit(now))).sum()
    }

    #[test]
    fn after_a_burst_every_tick_brings_room_for_as_many() {
        let mut guard = Guard::default();
        assert_eq!(admitted(&mut guard, 0), BURST);
        for (now, ticks) in [(1, 1), (2, 1), (7, 5), (39, 32), (1000, 32), (u32::MAX, 32), (0, 1)] {
            assert_eq!(admitted(&mut guard, now), ticks * INSERTS, "tick {now}");
        }
    }
}
