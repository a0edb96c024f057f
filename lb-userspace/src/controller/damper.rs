//! Damps what may come in great numbers: backends that flap, neighbours and routes that come and go. Pure; time is
//! injected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Of one cause: so many changes are let through at once, and then one in each gap.
const ONE: Rate = Rate { burst: 16, gap: Duration::from_millis(250) };
/// Of all causes together. Tables are rebuilt at most this often for what is damped, however many pools flap.
const ALL: Rate = Rate { burst: 64, gap: Duration::from_millis(50) };

/// Where a change comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The host's network.
    Network,
    /// A pool, by its name.
    Pool(String),
}

/// A leaky bucket for each cause, so that one that flaps holds up no other, and one for all of them: the first changes pass at
/// once, those of a storm together.
#[derive(Clone, Debug, Default)]
pub struct Damper {
    /// Of those that are not empty.
    buckets: BTreeMap<Cause, Bucket>,
    all: Bucket,
    waiting: BTreeSet<Cause>,
    due: Option<Instant>,
}

impl Damper {
    /// Something wants to be done; whether it may be at once, together with all that waits. Else it is [`Self::due`] later,
    /// together with all that wants to be done until then.
    pub fn admit(&mut self, cause: &Cause, now: Instant) -> bool {
        self.buckets.retain(|_, bucket| !bucket.is_empty(now));
        let bucket = self.buckets.get(cause).copied().unwrap_or_default();
        let then = bucket.room(ONE, now).max(self.all.room(ALL, now));
        if then > now {
            self.waiting.insert(cause.clone());
            self.due = Some(self.due.map_or(then, |due| due.min(then)));
            return false;
        }
        self.fill(cause.clone(), now);
        self.all.fill(ALL, now);
        self.clear();
        true
    }

    /// When something that had to wait is to be done.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Does what is due, if it is.
    pub fn take_due(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.due = None;
        for cause in std::mem::take(&mut self.waiting) {
            self.fill(cause, now);
        }
        self.all.fill(ALL, now);
        true
    }

    /// Nothing waits any more: it was done with something that could not wait.
    pub fn clear(&mut self) {
        self.due = None;
        self.waiting.clear();
    }

    fn fill(&mut self, cause: Cause, now: Instant) {
        self.buckets.entry(cause).or_default().fill(ONE, now);
    }
}

/// How much passes a bucket.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u32,
    gap: Duration,
}

/// When it is empty again.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(Option<Instant>);

impl Bucket {
    fn is_empty(self, now: Instant) -> bool {
        self.0.is_none_or(|empty| empty <= now)
    }

    /// From when on it has room for one more.
    fn room(self, rate: Rate, now: Instant) -> Instant {
        let full = self.0.unwrap_or(now).max(now) + rate.gap;
        full.checked_sub(rate.gap * rate.burst).map_or(now, |room| room.max(now))
    }

    /// Never beyond full: who was done with another that was due waits no longer than a gap the next time.
    fn fill(&mut self, rate: Rate, now: Instant) {
        let full = now + rate.gap * rate.burst;
        self.0 = Some((self.0.unwrap_or(now).max(now) + rate.gap).min(full));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(number: u8) -> Cause {
        Cause::Pool(format!("pool {number}"))
    }

    /// No more pass within any time than a rate says.
    fn is_bounded(passed: &[Instant], rate: Rate) -> bool {
        passed.iter().enumerate().all(|(index, first)| {
            (1..).zip(&passed[index..]).all(|(count, last)| {
                let gaps = last.duration_since(*first).as_nanos() / rate.gap.as_nanos();
                count <= u128::from(rate.burst) + gaps
            })
        })
    }

    proptest! {
        /// Whatever comes whenever: nothing waits longer than a gap, nothing is forgotten, and neither of one cause at once
        /// nor of all together do more pass than the burst and one for each gap.
        #[test]
        fn a_storm_is_bounded_and_nothing_is_forgotten(
            changes in proptest::collection::vec((0..60_u64, 0..6_u8), 1..600),
        ) {
            let mut damper = Damper::default();
            let mut at_once: BTreeMap<u8, Vec<Instant>> = BTreeMap::new();
            let mut all = Vec::new();
            let mut waiting: Option<Instant> = None;
            let mut now = Instant::now();
            for (pause, number) in changes {
                let next = now + Duration::from_millis(pause);
                if let Some(due) = damper.due().filter(|due| *due <= next) {
                    prop_assert!(damper.take_due(due));
                    all.push(due);
                    prop_assert!(waiting.take().is_some_and(|since| due - since <= ONE.gap));
                }
                now = next;
                if damper.admit(&pool(number), now) {
                    at_once.entry(number).or_default().push(now);
                    all.push(now);
                    waiting = None;
                } else {
                    prop_assert!(damper.due().is_some_and(|due| due > now));
                    waiting.get_or_insert(now);
                }
                prop_assert_eq!(damper.due().is_some(), waiting.is_some());
            }
            prop_assert!(is_bounded(&all, ALL), "{} passed", all.len());
            for (number, passed) in at_once {
                prop_assert!(is_bounded(&passed, ONE), "{} of pool {number} passed", passed.len());
            }
        }
    }

    #[test]
    fn a_pool_that_flaps_holds_up_no_other() {
        let (mut damper, start) = (Damper::default(), Instant::now());
        let (mut passed, mut quiet) = (0, 0);
        for millisecond in 0..60_000 {
            let now = start + Duration::from_millis(millisecond);
            passed += u32::from(damper.take_due(now)) + u32::from(damper.admit(&pool(0), now));
            if millisecond % 5_000 == 4_999 {
                assert!(damper.admit(&pool(1), now), "it had to wait at {millisecond} ms");
                assert!(damper.admit(&Cause::Network, now), "the network had to wait at {millisecond} ms");
                quiet += 2;
            }
        }
        // What waits is done with what did not have to, and so asks again before it would have been due.
        let most = ONE.burst + 60 * 4 + quiet;
        assert!((60 * 4..=most).contains(&passed), "{passed} of the one that flaps passed");
    }

    #[test]
    fn what_has_been_quiet_is_forgotten() {
        let (mut damper, start) = (Damper::default(), Instant::now());
        for number in 0..50 {
            assert!(damper.admit(&pool(number), start));
        }
        assert_eq!(damper.buckets.len(), 50);
        assert!(damper.admit(&pool(0), start + ONE.gap * 2));
        assert_eq!(damper.buckets.len(), 1);
    }
}
