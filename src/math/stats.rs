//! Order statistics and resampling. Formulas that statrs lacks.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// A point estimate with the ends of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// Lower end; `None` when fewer than two units were seen.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Units that were resampled.
    pub n: usize,
}

impl Interval {
    /// The same in another unit, of which `factor` make one.
    pub fn times(self, factor: f64) -> Self {
        let scaled = |end: f64| factor * end;
        Self { estimate: scaled(self.estimate), low: self.low.map(scaled), high: self.high.map(scaled), n: self.n }
    }
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(x: &[f64]) -> Option<f64> {
    (!x.is_empty()).then(|| x.iter().sum::<f64>() / x.len() as f64)
}

/// Standard deviation with divisor n - 1; `None` of fewer than two values.
///
/// ```
/// // 2, 4, 9: mean 5, squared deviations 9 + 1 + 16 = 26, over 2 is 13.
/// assert_eq!(kvscope::math::standard_deviation(&[2.0, 4.0, 9.0]), Some(13f64.sqrt()));
/// ```
pub fn standard_deviation(x: &[f64]) -> Option<f64> {
    let center = mean(x)?;
    (x.len() > 1).then(|| (x.iter().map(|v| (v - center).powi(2)).sum::<f64>() / (x.len() - 1) as f64).sqrt())
}

/// Quantile of sorted values by linear interpolation at `q · (n - 1)` (type 7 of Hyndman and Fan 1996); `None` of nothing.
///
/// ```
/// // Position 0.3 · 3 = 0.9 lies between 1 and 2.
/// assert_eq!(kvscope::math::quantile_sorted(&[1.0, 2.0, 10.0, 20.0], 0.3), Some(1.9));
/// ```
pub fn quantile_sorted(sorted: &[f32], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let (a, b) = (f64::from(sorted[low]), f64::from(sorted[(low + 1).min(last)]));
    Some(a + (b - a) * part)
}

/// Mean with the percentile bootstrap's 95 % interval over `units` (documents, not tokens); `None` of nothing.
pub fn bootstrap_mean(units: &[f64], resamples: usize, seed: u64) -> Option<Interval> {
    let estimate = mean(units)?;
    let n = units.len();
    if n < 2 {
        return Some(Interval { estimate, low: None, high: None, n });
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f32> = (0..resamples)
        .map(|_| ((0..n).map(|_| units[random.random_range(0..n)]).sum::<f64>() / n as f64) as f32)
        .collect();
    means.sort_by(f32::total_cmp);
    Some(Interval { estimate, low: quantile_sorted(&means, 0.025), high: quantile_sorted(&means, 0.975), n })
}

/// A 95 % interval from a statistic's values on resamples, moved so that their mean is the estimate.
///
/// Resampling adds sampling noise a second time, which lowers every measure of agreement and raises every share of noise;
/// plain percentiles of such a statistic may leave out the estimate itself. What is kept is their spread. `n` is the
/// number of units that were resampled; ends are `None` when fewer than half of 2 or more draws are numbers.
///
/// ```
/// let interval = kvscope::math::centred_interval(5.0, &[1.0, 2.0, 3.0], 9);
/// assert_eq!((interval.low, interval.high), (Some(4.05), Some(5.95)));
/// ```
pub fn centred_interval(estimate: f64, draws: &[f64], n: usize) -> Interval {
    let mut known: Vec<f32> = draws.iter().filter(|x| x.is_finite()).map(|x| (x - estimate) as f32).collect();
    if known.len() < 2 || 2 * known.len() < draws.len() {
        return Interval { estimate, low: None, high: None, n };
    }
    let center = known.iter().map(|x| f64::from(*x)).sum::<f64>() / known.len() as f64;
    known.sort_by(f32::total_cmp);
    let end = |q| quantile_sorted(&known, q).map(|x| estimate + x - center);
    Interval { estimate, low: end(0.025), high: end(0.975), n }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_an_uneven_sample() {
        let sorted = [1.0, 2.0, 10.0];
        assert_eq!(quantile_sorted(&sorted, 0.0), Some(1.0));
        assert_eq!(quantile_sorted(&sorted, 0.75), Some(6.0));
        assert_eq!(quantile_sorted(&sorted, 1.0), Some(10.0));
        assert_eq!(quantile_sorted(&[], 0.5), None);
    }

    #[test]
    fn bootstrap_covers_the_mean_and_knows_one_unit_has_no_interval() {
        let units = [1.0, 2.0, 3.0, 4.0, 10.0];
        let interval = bootstrap_mean(&units, 2000, 1).unwrap();
        assert_eq!(interval.estimate, 4.0);
        // The bootstrap distribution's standard error is sqrt(10/5) = 1.41, so the ends lie about 2.5 away.
        assert!((1.4..2.4).contains(&interval.low.unwrap()), "{interval:?}");
        assert!((6.2..7.8).contains(&interval.high.unwrap()), "{interval:?}");
        assert_eq!(bootstrap_mean(&units, 2000, 1), Some(interval));
        assert_eq!(bootstrap_mean(&[2.0], 10, 1).unwrap().low, None);
        assert_eq!(bootstrap_mean(&[], 10, 1), None);
        assert_eq!(standard_deviation(&[1.0]), None);
    }
}
