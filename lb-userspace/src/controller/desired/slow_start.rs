//! Slow start: a backend that came up gets its weight in steps.

use std::time::{Duration, Instant};

use crate::model::SlowStart;

/// Steps of a slow start. Each is a change of slots, so there are no more than the eye would see.
const STEPS: u32 = 20;

/// The part of its weight that a backend has which came up at `since`.
pub(super) fn part(slow_start: &SlowStart, since: Instant, now: Instant) -> f64 {
    let step = slow_start.time / STEPS;
    if step.is_zero() || now.saturating_duration_since(since) >= slow_start.time {
        return 1.0;
    }
    let steps = (now.saturating_duration_since(since).as_nanos() / step.as_nanos()) as f64;
    let least = f64::from(slow_start.least) / 100.0;
    least + (1.0 - least) * steps / f64::from(STEPS)
}

/// When the part changes next.
pub(super) fn next_step(slow_start: &SlowStart, since: Instant, now: Instant) -> Option<Instant> {
    let step = slow_start.time / STEPS;
    let past = now.saturating_duration_since(since);
    if step.is_zero() || past >= slow_start.time {
        return None;
    }
    let steps = (past.as_nanos() / step.as_nanos()) as u32 + 1;
    Some(since + if steps == STEPS { slow_start.time } else { step * steps })
}

/// Until it has its whole weight.
pub(super) fn rest(slow_start: &SlowStart, since: Instant, now: Instant) -> Duration {
    slow_start.time.saturating_sub(now.saturating_duration_since(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_grows_from_the_least_to_all_and_every_step_is_announced() {
        let slow_start = SlowStart { time: Duration::from_secs(30), least: 10 };
        let since = Instant::now();
        let (mut now, mut parts) = (since, vec![part(&slow_start, since, since)]);
        while let Some(next) = next_step(&slow_start, since, now) {
            assert!(next > now);
            let before = next - Duration::from_nanos(1);
            assert_eq!(part(&slow_start, since, before), parts[parts.len() - 1], "nothing moves in between");
            parts.push(part(&slow_start, since, next));
            now = next;
        }
        assert_eq!((parts[0], parts[parts.len() - 1]), (0.1, 1.0));
        assert_eq!(parts.len(), STEPS as usize + 1);
        assert!(parts.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(now, since + slow_start.time);
    }

    #[test]
    fn without_a_time_it_is_up_at_once() {
        let slow_start = SlowStart::default();
        let now = Instant::now();
        assert_eq!((part(&slow_start, now, now), next_step(&slow_start, now, now)), (1.0, None));
    }
}
