//! Order statistics and resampling. Formulas that statrs lacks.

use std::borrow::Borrow;

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
    /// An estimate from `n` units, with the ends where they are known.
    pub(super) fn around(estimate: f64, ends: Option<(f64, f64)>, n: usize) -> Self {
        let (low, high) = ends.unzip();
        Self { estimate, low, high, n }
    }

    /// The same in another unit, of which `factor` make one.
    pub fn times(self, factor: f64) -> Self {
        let scaled = |end: f64| factor * end;
        Self { estimate: scaled(self.estimate), low: self.low.map(scaled), high: self.high.map(scaled), n: self.n }
    }

    /// Whether 0 lies outside of the known ends.
    pub fn leaves_out_0(self) -> bool {
        self.low.zip(self.high).is_some_and(|(low, high)| low > 0.0 || high < 0.0)
    }
}

/// How often units are drawn anew for an interval, and the seed of the draws.
///
/// The ends of a 95 % interval from n draws are themselves uncertain by 0.7 / √n of its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resamples {
    /// Draws.
    pub n: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Resamples {
    /// For the figure that a run is known by: its ends are known to 0.7 % of the width.
    pub const fn of_headline(seed: u64) -> Self {
        Self { n: 10_000, seed }
    }

    /// For means, of which a run has hundreds: ends to 1.5 %.
    pub const fn of_means(seed: u64) -> Self {
        Self { n: 2000, seed }
    }

    /// For draws that each work out a table of heads anew: ends to 2.2 %.
    pub const fn of_tables(seed: u64) -> Self {
        Self { n: 1000, seed }
    }
}

/// A mean that is added up value by value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    total: f64,
    n: u64,
}

impl Mean {
    /// Of `n` values that sum to `total`.
    pub const fn of_sum(total: f64, n: u64) -> Self {
        Self { total, n }
    }

    /// Adds a value.
    pub fn add(&mut self, x: f64) {
        self.join(Self::of_sum(x, 1));
    }

    /// Adds the values of another mean.
    pub fn join(&mut self, other: Self) {
        self.total += other.total;
        self.n += other.n;
    }

    /// Values so far.
    pub fn n(self) -> u64 {
        self.n
    }

    /// The mean; `None` of nothing.
    pub fn get(self) -> Option<f64> {
        (self.n > 0).then(|| self.total / self.n as f64)
    }
}

impl<T: Borrow<f64>> Extend<T> for Mean {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        values.into_iter().for_each(|x| self.add(*x.borrow()));
    }
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: impl IntoIterator<Item: Borrow<f64>>) -> Option<f64> {
    let mut mean = Mean::default();
    mean.extend(values);
    mean.get()
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

/// Quantiles of values in any order, by linear interpolation at `q · (n - 1)` of the sorted ones (type 7 of Hyndman and Fan
/// 1996); `None` of nothing.
///
/// ```
/// // Position 0.3 · 3 = 0.9 lies between 1 and 2.
/// assert_eq!(kvscope::math::quantiles([20.0, 2.0, 1.0, 10.0], [0.3, 1.0]), Some([1.9, 20.0]));
/// ```
pub fn quantiles<const N: usize>(values: impl IntoIterator<Item: Borrow<f64>>, q: [f64; N]) -> Option<[f64; N]> {
    let mut sorted: Vec<f64> = values.into_iter().map(|x| *x.borrow()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some(q.map(|q| {
        let at = q.clamp(0.0, 1.0) * last as f64;
        let (low, part) = (at.floor() as usize, at.fract());
        sorted[low] + (sorted[(low + 1).min(last)] - sorted[low]) * part
    }))
}

/// One quantile, see [`quantiles`].
pub fn quantile(values: impl IntoIterator<Item: Borrow<f64>>, q: f64) -> Option<f64> {
    quantiles(values, [q]).map(|[quantile]| quantile)
}

/// Ends of the middle 95 % of what was drawn.
pub(super) fn percentile_ends(draws: impl IntoIterator<Item: Borrow<f64>>) -> Option<(f64, f64)> {
    quantiles(draws, [0.025, 0.975]).map(|[low, high]| (low, high))
}

/// Mean with the percentile bootstrap's 95 % interval over `units` (documents, not tokens); `None` of nothing.
pub fn bootstrap_mean(units: &[f64], resamples: Resamples) -> Option<Interval> {
    let n = units.len();
    let mut random = ChaCha8Rng::seed_from_u64(resamples.seed);
    let draw = |_| (0..n).map(|_| units[random.random_range(0..n)]).sum::<f64>() / n as f64;
    let estimate = mean(units)?;
    let draws = if n < 2 { 0 } else { resamples.n };
    Some(Interval::around(estimate, percentile_ends((0..draws).map(draw)), n))
}

/// Ratio of sums, `Σ a / Σ b` over pairs (a, b), with the percentile bootstrap's 95 % interval over `units` (documents, not tokens).
///
/// - Unit: that of a over that of b; `None` where Σ b is not above 0. Only pairs with b above 0 are drawn, and counted in `n`
///
/// ```
/// use kvscope::math::{Resamples, bootstrap_ratio};
/// // (1 + 3) / (2 + 8); the pair without a denominator is no unit. Draws of two give 1/2, 4/10 or 3/8.
/// let ratio = bootstrap_ratio(&[(1.0, 2.0), (0.0, 0.0), (3.0, 8.0)], Resamples::of_means(1)).unwrap();
/// assert_eq!((ratio.estimate, ratio.low, ratio.high, ratio.n), (0.4, Some(0.375), Some(0.5), 2));
/// ```
pub fn bootstrap_ratio(units: &[(f64, f64)], resamples: Resamples) -> Option<Interval> {
    let units: Vec<(f64, f64)> = units.iter().copied().filter(|(_, b)| *b > 0.0).collect();
    let ratio = |drawn: &mut dyn Iterator<Item = (f64, f64)>| {
        let (a, b) = drawn.fold((0.0, 0.0), |(sum_a, sum_b), (a, b)| (sum_a + a, sum_b + b));
        a / b
    };
    let n = units.len();
    let mut random = ChaCha8Rng::seed_from_u64(resamples.seed);
    let draws = if n < 2 { 0 } else { resamples.n };
    let draws: Vec<f64> = (0..draws).map(|_| ratio(&mut (0..n).map(|_| units[random.random_range(0..n)]))).collect();
    (n > 0).then(|| Interval::around(ratio(&mut units.iter().copied()), percentile_ends(draws), n))
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
    let known: Vec<f64> = draws.iter().copied().filter(|x| x.is_finite()).collect();
    let enough = known.len() >= 2 && 2 * known.len() >= draws.len();
    let spread = percentile_ends(&known).zip(mean(&known)).filter(|_| enough);
    let ends = spread.map(|((low, high), center)| (estimate + (low - center), estimate + (high - center)));
    Interval::around(estimate, ends, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_an_uneven_sample() {
        assert_eq!(quantiles([2.0, 10.0, 1.0], [0.0, 0.75, 1.0]), Some([1.0, 6.0, 10.0]));
        assert_eq!(quantile([0.0; 0], 0.5), None);
    }

    #[test]
    fn bootstrap_covers_the_mean_and_knows_one_unit_has_no_interval() {
        let units = [1.0, 2.0, 3.0, 4.0, 10.0];
        let resamples = Resamples::of_means(1);
        let interval = bootstrap_mean(&units, resamples).unwrap();
        assert_eq!(interval.estimate, 4.0);
        // The bootstrap distribution's standard error is sqrt(10/5) = 1.41, so the ends lie about 2.5 away.
        assert!((1.4..2.4).contains(&interval.low.unwrap()), "{interval:?}");
        assert!((6.2..7.8).contains(&interval.high.unwrap()), "{interval:?}");
        assert_eq!(bootstrap_mean(&units, resamples), Some(interval));
        assert_eq!(bootstrap_mean(&[2.0], resamples).unwrap().low, None);
        assert_eq!(bootstrap_mean(&[], resamples), None);
        assert_eq!(standard_deviation(&[1.0]), None);
    }
}
