//! A smoothed value with its trend (C. C. Holt, "Forecasting seasonals and trends by exponentially weighted moving
//! averages", 1957), for samples that come when they come.

use std::time::{Duration, Instant};

/// After so long a value counts for 1/e of what it did.
const LEVEL: Duration = Duration::from_secs(6);
/// The same of a trend: slower, since two noisy samples make any trend.
const TREND: Duration = Duration::from_secs(30);

/// A level and where it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Forecast {
    level: f64,
    /// A second.
    trend: f64,
    /// Of the samples around what was expected of them.
    variance: f64,
    /// Of the level around what it is.
    doubt: f64,
    at: Instant,
}

impl Forecast {
    pub(super) fn new(value: f64, now: Instant) -> Self {
        Self { level: value, trend: 0.0, variance: 0.0, doubt: 0.0, at: now }
    }

    /// Takes in a sample.
    pub(super) fn observe(&mut self, value: f64, now: Instant) {
        let past = now.saturating_duration_since(self.at).as_secs_f64();
        if past <= 0.0 {
            // Two samples of one moment: their mean.
            self.level = f64::midpoint(self.level, value);
            return;
        }
        let part = |time: Duration| 1.0 - (-past / time.as_secs_f64()).exp();
        let expected = self.level + self.trend * past;
        let (weight, error) = (part(LEVEL), value - expected);
        self.variance += part(TREND) * (error * error - self.variance);
        // Of a mean whose samples count by powers of `1 - weight`.
        self.doubt = (self.variance * weight / (2.0 - weight)).sqrt();
        let level = expected + weight * error;
        self.trend += part(TREND) * ((level - self.level) / past - self.trend);
        self.level = level;
        self.at = now;
    }

    /// The standard error of [`Self::at`] for the last sample's moment.
    pub(super) fn doubt(&self) -> f64 {
        self.doubt
    }

    /// The value expected at a moment.
    pub(super) fn at(&self, moment: Instant) -> f64 {
        self.level + self.trend * moment.saturating_duration_since(self.at).min(2 * LEVEL).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: impl Iterator<Item = f64>) -> (Forecast, Instant) {
        let mut now = Instant::now();
        let mut forecast: Option<Forecast> = None;
        for sample in samples {
            now += Duration::from_secs(1);
            match &mut forecast {
                Some(forecast) => forecast.observe(sample, now),
                None => forecast = Some(Forecast::new(sample, now)),
            }
        }
        (forecast.unwrap(), now)
    }

    #[test]
    fn what_stays_is_expected_to_stay() {
        let (forecast, now) = after(std::iter::repeat_n(7.0, 30));
        assert!((forecast.at(now + Duration::from_secs(5)) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn what_rises_is_expected_higher_than_it_is() {
        let (forecast, now) = after((0..120).map(f64::from));
        let (is, will_be) = (forecast.at(now), forecast.at(now + Duration::from_secs(3)));
        assert!((118.0..=120.0).contains(&is), "{is}");
        assert!((will_be - is - 3.0).abs() < 0.1, "{will_be}");
    }

    #[test]
    fn a_jump_is_believed_after_some_seconds() {
        let samples = std::iter::repeat_n(1.0, 30).chain(std::iter::repeat_n(2.0, 4));
        let (forecast, now) = after(samples);
        assert!((1.5..2.1).contains(&forecast.at(now)), "{}", forecast.at(now));
        let (forecast, now) = after(std::iter::repeat_n(1.0, 30).chain([2.0]));
        assert!(forecast.at(now) < 1.3, "one sample is not: {}", forecast.at(now));
    }

    #[test]
    fn silence_does_not_carry_a_trend_away() {
        let (forecast, now) = after((0..60).map(f64::from));
        assert!(forecast.at(now + Duration::from_secs(3600)) < 70.0);
    }
}
