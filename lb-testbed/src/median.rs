//! Medians and spreads of measurements.

use serde::Serialize;

/// The median of some measurements, with the least and the greatest.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Median {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Median {
    /// Of at least one measurement; all are NaN where there is none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }
}
