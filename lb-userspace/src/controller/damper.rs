//! Damps what may come in great numbers: backends that flap, neighbours and routes that come and go. Pure; time is
//! injected.

use std::time::{Duration, Instant};

/// So many are let through at once, and then one in each [`GAP`].
const BURST: u32 = 16;
/// See [`BURST`]: tables are rebuilt at most four times a second for what is damped, however much of it there is.
const GAP: Duration = Duration::from_millis(250);

/// A leaky bucket: the first ones pass at once, those of a storm together.
#[derive(Clone, Debug, Default)]
pub struct Damper {
    /// When the bucket is empty again.
    empty: Option<Instant>,
    due: Option<Instant>,
}

impl Damper {
    /// Something wants to be done; whether it may be at once. Else it is [`Self::due`] later, together with all that
    /// wants to be done until then.
    pub fn admit(&mut self, now: Instant) -> bool {
        let empty = self.empty.unwrap_or(now).max(now);
        if empty + GAP > now + GAP * BURST {
            let then = empty + GAP - GAP * BURST;
            self.due = Some(self.due.map_or(then, |due| due.min(then)));
            return false;
        }
        self.empty = Some(empty + GAP);
        true
    }

    /// When something that had to wait is to be done.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Does what is due, if it is.
    pub fn take_due(&mut self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now) && {
            self.due = None;
            self.admit(now)
        }
    }

    /// Nothing waits any more: it was done with something that could not wait.
    pub fn clear(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes whenever: the first passes at once, nothing waits longer than a gap, nothing is forgotten,
        /// and within no time do more pass than the burst and one for each gap.
        #[test]
        fn a_storm_is_bounded_and_nothing_is_forgotten(pauses in proptest::collection::vec(0..400_u64, 1..300)) {
            let start = Instant::now();
            let (mut damper, mut passed) = (Damper::default(), Vec::new());
            let mut waiting: Option<Instant> = None;
            let mut now = start;
            for pause in pauses {
                let next = now + Duration::from_millis(pause);
                if let Some(due) = damper.due().filter(|due| *due <= next) {
                    prop_assert!(damper.take_due(due));
                    passed.push(due);
                    let since = waiting.take();
                    prop_assert!(since.is_some_and(|since| due >= since && due - since <= GAP));
                }
                now = next;
                if damper.admit(now) {
                    passed.push(now);
                } else {
                    prop_assert!(damper.due().is_some_and(|due| due > now));
                    waiting.get_or_insert(now);
                }
                prop_assert_eq!(damper.due().is_some(), waiting.is_some());
            }
            prop_assert_eq!(passed[0].duration_since(start).as_millis() < 400, true);
            for (index, first) in passed.iter().enumerate() {
                for (count, last) in passed[index..].iter().enumerate() {
                    let gaps = last.duration_since(*first).as_millis() / GAP.as_millis();
                    prop_assert!(count as u128 <= u128::from(BURST) + gaps);
                }
            }
        }
    }
}
