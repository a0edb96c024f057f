//! How far factors may go in one step.

/// Slots that move for one that has to. As many again move for nothing at most (see [`crate::maglev`]), on average over steps
/// of tables of 65,537 slots a tenth to nine tenths; single steps of small tables move up to twice what this says.
const MOVED_FOR_ONE: f64 = 2.0;

/// The part, 0 to 1, of a step that moves the share `budget` of all slots. A step is given by
/// (weight, factor now, factor aimed at) of each backend.
///
/// A slot has to move for every share that one backend loses to another.
pub(super) fn affordable(steps: &[(f64, f64, f64)], budget: f64) -> f64 {
    let cost = |part: f64| MOVED_FOR_ONE * lost(steps, part);
    if cost(1.0) <= budget {
        return 1.0;
    }
    // Shares are not linear in the factors, but they only go one way.
    let (mut fits, mut exceeds) = (0.0, 1.0);
    for _ in 0..20 {
        let middle = f64::midpoint(fits, exceeds);
        if cost(middle) <= budget { fits = middle } else { exceeds = middle }
    }
    fits
}

/// The share of the slots that backends lose to others by a part of a step.
fn lost(steps: &[(f64, f64, f64)], part: f64) -> f64 {
    let (old, new): (f64, f64) = steps.iter().fold((0.0, 0.0), |(old, new), (weight, from, to)| {
        (old + weight * from, new + weight * (from + part * (to - from)))
    });
    if old <= 0.0 || new <= 0.0 {
        return 0.0;
    }
    let loss = |&(weight, from, to): &(f64, f64, f64)| {
        (weight * from / old - weight * (from + part * (to - from)) / new).max(0.0)
    };
    steps.iter().map(loss).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_step_within_the_budget_is_made_whole() {
        assert_eq!(affordable(&[(100.0, 1.0, 1.0), (100.0, 1.0, 0.9)], 0.1), 1.0);
    }

    proptest! {
        #[test]
        fn no_step_moves_more_than_the_budget(
            steps in proptest::collection::vec((1.0..65535.0_f64, 0.1..=1.0_f64, 0.1..=1.0_f64), 1..20),
            budget in 0.0001..0.2_f64,
        ) {
            let part = affordable(&steps, budget);
            prop_assert!((0.0..=1.0).contains(&part));
            prop_assert!(MOVED_FOR_ONE * lost(&steps, part) <= budget);
            if part < 1.0 {
                prop_assert!(MOVED_FOR_ONE * lost(&steps, part + 0.001) > budget, "more would have been possible");
            }
        }
    }
}
