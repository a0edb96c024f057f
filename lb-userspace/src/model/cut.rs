//! How far the old flows of a backend are cut.

use std::time::{Duration, Instant};

/// Steps of less than this are made in one.
const SHORTEST_STEP: Duration = Duration::from_millis(50);

/// How many of the old flows of a backend are cut, in parts of [`Cut::ALL`]. Which ones is the same for everybody who
/// asks, and those that are cut at one step are among those of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut(u8);

impl Cut {
    /// All may stay.
    pub const NONE: Self = Self(0);
    /// None may.
    pub const ALL: Self = Self(32);

    /// The cut at `now`, where the flows are cut from `deadline` on, evenly over `spread`.
    pub fn at(deadline: Instant, spread: Duration, now: Instant) -> Self {
        let Some(late) = now.checked_duration_since(deadline) else { return Self::NONE };
        if late >= spread {
            return Self::ALL;
        }
        let parts = late.as_nanos() * u128::from(Self::ALL.0) / spread.as_nanos();
        // Fewer than all.
        Self(u8::try_from(parts).unwrap_or(Self::ALL.0))
    }

    /// When the cut is next another one than at `now`; none: it is complete.
    pub fn next(deadline: Instant, spread: Duration, now: Instant) -> Option<Instant> {
        if now < deadline {
            return Some(deadline);
        }
        let last = deadline + spread;
        // Not a nanosecond too early.
        let part = |step| spread * step / u32::from(Self::ALL.0) + Duration::from_nanos(1);
        let steps = (1..=u32::from(Self::ALL.0)).map(|step| last.min(deadline + part(step)));
        let mut later = steps.filter(|step| *step > now);
        later.find(|step| *step == last || *step >= now + SHORTEST_STEP)
    }

    /// Whether none may stay.
    pub fn is_all(self) -> bool {
        self == Self::ALL
    }

    /// The first so many of `count` slots are cut.
    pub fn slots(self, count: u32) -> u32 {
        let slots = u64::from(count) * u64::from(self.0) / u64::from(Self::ALL.0);
        u32::try_from(slots).unwrap_or(count)
    }

    /// Whether a connection is cut that drew this number, any from 0 to [`Self::RANKS`].
    pub fn takes(self, rank: u8) -> bool {
        rank < self.0
    }

    /// The number of connections that are cut together is one of so many parts.
    pub const RANKS: u8 = Self::ALL.0;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Nothing before the deadline, everything after the spread, never fewer than before, and who wakes at
        /// every announced moment makes even steps.
        #[test]
        fn flows_are_cut_evenly(spread in 0..100_000_u64, wait in 1..1000_u64) {
            let start = Instant::now();
            let (deadline, spread) = (start + Duration::from_millis(wait), Duration::from_millis(spread));
            prop_assert_eq!(Cut::at(deadline, spread, start), Cut::NONE);
            prop_assert_eq!(Cut::next(deadline, spread, start), Some(deadline));
            let (mut now, mut cut, mut steps) = (deadline, Cut::at(deadline, spread, deadline), 0);
            while let Some(next) = Cut::next(deadline, spread, now) {
                prop_assert!(next > now && next <= deadline + spread);
                prop_assert!(next == deadline + spread || next - now >= SHORTEST_STEP);
                let later = Cut::at(deadline, spread, next);
                prop_assert!(later > cut);
                // Some share of the time, the same share of the flows, give or take one part.
                let share = (next - deadline).as_secs_f64() / spread.as_secs_f64();
                let slots = f64::from(later.slots(3200)) / 3200.0;
                prop_assert!(slots <= share + 1e-9 && slots > share - 1.0 / 32.0 - 1e-9);
                (now, cut) = (next, later);
                steps += 1;
            }
            prop_assert!(cut.is_all() && steps <= 32);
            prop_assert_eq!(cut.slots(65_537), 65_537);
            prop_assert!((0..Cut::RANKS).all(|rank| cut.takes(rank) && !Cut::NONE.takes(rank)));
        }
    }
}
