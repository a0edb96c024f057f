//! What a count of failures proves.

/// The largest share of failures that `failures` of `trials` does not rule out at 95 % confidence: the
/// one-sided upper bound of Clopper and Pearson ("The use of confidence or fiducial limits illustrated in the
/// case of the binomial", Biometrika 1934). 0 of n gives about 3/n.
pub fn upper(failures: u64, trials: u64) -> f64 {
    if failures >= trials {
        return 1.0;
    }
    let (mut low, mut high) = (failures as f64 / trials as f64, 1.0);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if at_most(failures, trials, middle) > 0.05 {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The probability of at most `failures` in `trials` that fail with probability `p` each, 0 < p < 1.
fn at_most(failures: u64, trials: u64, p: f64) -> f64 {
    // Term k is C(n, k) p^k (1-p)^(n-k): in logarithms, for the first ones are tiny.
    let mut logarithm = trials as f64 * (-p).ln_1p();
    let mut sum = logarithm.exp();
    for k in 1..=failures {
        logarithm += ((trials - k + 1) as f64 / k as f64).ln() + p.ln() - (-p).ln_1p();
        sum += logarithm.exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference values: the beta quantiles qbeta(0.95, k + 1, n - k).
    #[test]
    fn agrees_with_the_beta_quantile() {
        for (failures, trials, expected) in [
            (0, 1, 0.95),
            (0, 300, 0.009_936_1),
            (0, 10_000, 0.000_299_528),
            (1, 10, 0.394_163),
            (5, 1000, 0.010_484),
            (10, 10, 1.0),
            (0, 0, 1.0),
        ] {
            let bound = upper(failures, trials);
            assert!((bound - expected).abs() < 1e-5, "{failures} of {trials}: {bound}, expected {expected}");
        }
    }
}
