//! What a flood may write into the flow tables.

/// Unproven flows that one CPU remembers in one tick at most: some 30,000 a second.
///
/// More than honest clients open in slots within a change, and little enough that a flood costs a CPU no more than
/// look-ups: an insert takes a lock and memory. Beyond it inserts are refused as if the table were full, which is
/// what a flood would soon achieve anyway.
pub const INSERTS: u32 = 512;

/// The inserts of one CPU.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Guard {
    tick: u32,
    inserts: u32,
}

impl Guard {
    /// Whether another flow may be remembered at `now`, in ticks.
    #[inline(always)]
    pub fn admit(&mut self, now: u32) -> bool {
        if self.tick != now {
            *self = Self { tick: now, inserts: 0 };
        }
        let is_admitted = self.inserts < INSERTS;
        self.inserts += u32::from(is_admitted);
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tick_brings_room_for_as_many() {
        let mut guard = Guard::default();
        for now in [0, 1, 2, 7, u32::MAX, 0] {
            let admitted = (0..3 * INSERTS).filter(|_| guard.admit(now)).count();
            assert_eq!(admitted, INSERTS as usize, "tick {now}");
        }
    }
}
