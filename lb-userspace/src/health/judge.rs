//! Rise and fall: when the outcome of checks changes what a backend counts as.

use crate::model::Health;

/// The judgement of one backend. The first check decides alone, unless it was up before; after that it takes
/// `rise` successes or `fall` failures in a row to change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judge {
    up: Option<bool>,
    /// Checks in a row that contradict `up`.
    against: u32,
}

impl Judge {
    /// Of a backend that nothing is known of, or that was up when somebody else checked it.
    pub(super) fn new(was_up: bool) -> Self {
        Self { up: was_up.then_some(true), against: 0 }
    }

    /// Takes the outcome of one check; returns whether the backend is up.
    pub(super) fn observe(&mut self, ok: bool, health: &Health) -> bool {
        let up = *self.up.get_or_insert(ok);
        self.against = if ok == up { 0 } else { self.against + 1 };
        if self.against >= if up { health.fall } else { health.rise }.max(1) {
            self.up = Some(ok);
            self.against = 0;
        }
        self.up == Some(true)
    }

    /// Takes in that there is no way to the backend: no further proof is needed.
    pub(super) fn lose(&mut self) {
        *self = Self { up: Some(false), against: 0 };
    }

    /// Whether it counts as up, and the last checks failed.
    pub(super) fn is_falling(&self) -> bool {
        self.up == Some(true) && self.against > 0
    }

    /// Whether the last checks contradict the judgement.
    pub(super) fn is_changing(&self) -> bool {
        self.against > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn health(rise: u32, fall: u32) -> Health {
        Health { rise, fall, ..Health::default() }
    }

    fn judge(outcomes: &[bool], health: &Health) -> Vec<bool> {
        let mut judge = Judge::new(false);
        outcomes.iter().map(|&ok| judge.observe(ok, health)).collect()
    }

    #[test]
    fn failures_count_only_in_a_row() {
        let outcomes = [true, false, false, true, false, false, false, true, false, true, true];
        let up = [true, true, true, true, true, true, false, false, false, false, true];
        assert_eq!(judge(&outcomes, &health(2, 3)), up);
    }

    #[test]
    fn it_is_changing_while_the_last_checks_contradict_it() {
        let mut judge = Judge::new(false);
        let changing = [true, false, false, false, true, true, true].map(|ok| {
            judge.observe(ok, &health(2, 3));
            judge.is_changing()
        });
        assert_eq!(changing, [false, true, true, false, true, false, false]);
    }

    #[test]
    fn a_lost_backend_is_down_until_it_has_risen() {
        let mut judge = Judge::new(true);
        judge.lose();
        let up = [false, true, false, true, true].map(|ok| judge.observe(ok, &health(2, 3)));
        assert_eq!(up, [false, false, false, false, true]);
    }

    #[test]
    fn a_backend_that_is_dead_at_the_start_was_never_up() {
        assert_eq!(judge(&[false, true, true], &health(2, 3)), [false, false, true]);
    }

    #[test]
    fn a_backend_that_was_up_before_fails_like_any_other() {
        let mut judge = Judge::new(true);
        assert_eq!([false; 3].map(|ok| judge.observe(ok, &health(2, 3))), [true, true, false]);
    }

    proptest! {
        /// The rule in other words: the judgement is the last run of outcomes that was long enough, where the
        /// very first outcome is always long enough.
        #[test]
        fn the_last_run_that_is_long_enough_decides(
            outcomes in prop::collection::vec(any::<bool>(), 1..60),
            rise in 1..5_u32,
            fall in 1..5_u32,
        ) {
            let mut expected = Vec::new();
            for end in 1..=outcomes.len() {
                let seen = &outcomes[..end];
                let decisive = (0..end).rev().find(|&last| {
                    let run = seen[..=last].iter().rev().take_while(|&&ok| ok == seen[last]).count();
                    last == 0 || run >= if seen[last] { rise } else { fall } as usize
                });
                expected.push(seen[decisive.unwrap()]);
            }
            prop_assert_eq!(judge(&outcomes, &health(rise, fall)), expected);
        }
    }
}
