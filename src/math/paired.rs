//! Two treatments of the same units: difference and ratio of means with intervals, sign test, power.

use std::cmp::Ordering;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, DiscreteCDF};

use crate::math::stats::percentile_ends;
use crate::math::{Interval, Resamples, bootstrap_mean, mean, standard_deviation};

/// Level of the sign test.
const LEVEL: f64 = 0.05;

/// How `a` and `b` compare on the same units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Mean of a - b over the units, with its bootstrap interval.
    pub difference: Interval,
    /// Mean of a over mean of b, units resampled in pairs; `None` unless both sides are above 0 in sum.
    pub ratio: Option<Interval>,
    /// Units on which a is lower.
    pub lower: usize,
    /// Units on which a is higher.
    pub higher: usize,
    /// Units on which both are equal.
    pub equal: usize,
    /// Two-sided probability of such a split of the unequal units, or a more lopsided one, if neither side were favoured;
    /// `None` when all are equal.
    pub sign_p: Option<f64>,
    /// Smallest mean difference that so many units show in 4 of 5 repetitions at the 5 % level: (1.960 + 0.842) · standard
    /// deviation of the differences / √n; `None` of fewer than two units.
    pub resolvable: Option<f64>,
}

impl Paired {
    /// Which way `a` differs from `b`, if that is shown: the interval of the difference leaves out 0, and the sign test says
    /// the same at the 5 % level. `None` where it is not.
    ///
    /// Both are asked for because a percentile bootstrap of few units is too narrow: of 4 units that agree it always
    /// leaves out 0, where a coin gives such a split once in 8 times.
    pub fn direction(&self) -> Option<Ordering> {
        let by_interval = match (self.difference.low?, self.difference.high?) {
            (low, _) if low > 0.0 => Ordering::Greater,
            (_, high) if high < 0.0 => Ordering::Less,
            _ => return None,
        };
        let by_sign = self.higher.cmp(&self.lower);
        (self.sign_p? <= LEVEL && by_sign == by_interval).then_some(by_interval)
    }

    /// Whether there are so few units that no direction could be shown, even if all of them agreed.
    pub fn has_too_few(&self) -> bool {
        sign_test_needs(self.difference.n).is_none()
    }
}

/// Units of `n` unequal ones that must agree for the sign test to tell a direction at the 5 % level; `None` when even all
/// of them would not, as of fewer than 6.
///
/// ```
/// // All of 6: 2 / 64 = 0.031. Of 9, 8 give 2 · 10 / 512 = 0.039, and 7 give 2 · 46 / 512 = 0.18.
/// assert_eq!([5, 6, 9].map(kvscope::math::sign_test_needs), [None, Some(6), Some(8)]);
/// ```
pub fn sign_test_needs(n: usize) -> Option<usize> {
    (n / 2 + 1..=n).find(|agreeing| sign_test(n - agreeing, *agreeing).is_some_and(|p| p <= LEVEL))
}

/// Compares two lists over the same units, with 95 % percentile intervals; `None` of no unit or of unequal lengths.
///
/// - Shape: a `[n]`, b `[n]`
/// - Source: Efron 1979 (bootstrap), Arbuthnot 1710 (sign test); power by the normal approximation
pub fn paired(a: &[f64], b: &[f64], resamples: Resamples) -> Option<Paired> {
    if a.len() != b.len() {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let difference = bootstrap_mean(&differences, resamples)?;
    let lower = differences.iter().filter(|d| **d < 0.0).count();
    let higher = differences.iter().filter(|d| **d > 0.0).count();
    Some(Paired {
        difference,
        ratio: ratio_of_means(a, b, resamples),
        lower,
        higher,
        equal: differences.len() - lower - higher,
        sign_p: sign_test(lower, higher),
        resolvable: standard_deviation(&differences).map(|sd| (1.960 + 0.842) * sd / (differences.len() as f64).sqrt()),
    })
}

/// Two-sided sign test: twice the smaller tail of the binomial with p = 1/2, at most 1; `None` of nothing.
///
/// ```
/// // 1 of 6: 2 · (1 + 6) / 64.
/// assert!((kvscope::math::sign_test(1, 5).unwrap() - 14.0 / 64.0).abs() < 1e-12);
/// ```
pub fn sign_test(lower: usize, higher: usize) -> Option<f64> {
    let n = lower + higher;
    if n == 0 {
        return None;
    }
    let tail = Binomial::new(0.5, n as u64).ok()?.cdf(lower.min(higher) as u64);
    Some((2.0 * tail).min(1.0))
}

fn ratio_of_means(a: &[f64], b: &[f64], resamples: Resamples) -> Option<Interval> {
    let (mean_a, mean_b) = (mean(a)?, mean(b)?);
    if mean_a <= 0.0 || mean_b <= 0.0 {
        return None;
    }
    let n = a.len();
    let mut random = ChaCha8Rng::seed_from_u64(resamples.seed);
    let draw = |_| {
        let (mut sum_a, mut sum_b) = (0.0, 0.0);
        for _ in 0..n {
            let unit = random.random_range(0..n);
            sum_a += a[unit];
            sum_b += b[unit];
        }
        sum_a / sum_b
    };
    let draws = if n < 2 { 0 } else { resamples.n };
    let ratios = (0..draws).map(draw).filter(|ratio| ratio.is_finite());
    Some(Interval::around(mean_a / mean_b, percentile_ends(ratios), n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uneven_pair_by_hand() {
        let (a, b) = ([1.0, 2.0, 3.0, 9.0], [2.0, 4.0, 3.0, 4.0]);
        let found = paired(&a, &b, Resamples::of_means(1)).unwrap();
        // Differences -1, -2, 0, 5: mean 0.5, deviations squared 2.25 + 6.25 + 0.25 + 20.25 = 29, over 3.
        assert_eq!(found.difference.estimate, 0.5);
        assert_eq!((found.lower, found.higher, found.equal), (2, 1, 1));
        assert_eq!(found.sign_p, Some(1.0));
        assert!((found.resolvable.unwrap() - 2.802 * (29f64 / 3.0).sqrt() / 2.0).abs() < 1e-12);
        let ratio = found.ratio.unwrap();
        assert_eq!(ratio.estimate, 15.0 / 13.0);
        // Resampling single units bounds every ratio of sums: 1/2 to 9/4.
        assert!(ratio.low.unwrap() >= 0.5 && ratio.high.unwrap() <= 2.25 && ratio.low < ratio.high);
        assert_eq!(paired(&a, &b, Resamples::of_means(1)), Some(found));
    }

    #[test]
    fn a_direction_needs_interval_and_sign_test() {
        let of =
            |differences: &[f64]| paired(differences, &vec![0.0; differences.len()], Resamples::of_means(1)).unwrap();
        // Four that agree: the interval leaves out 0, but 2 / 16 = 0.125.
        let four = of(&[-1.0, -2.0, -3.0, -4.0]);
        assert!(four.difference.high.unwrap() < 0.0 && (four.sign_p.unwrap() - 0.125).abs() < 1e-12);
        assert_eq!(four.direction(), None);
        assert_eq!(of(&[-1.0, -2.0, -3.0, -4.0, -2.0, -1.0]).direction(), Some(Ordering::Less));
        assert_eq!(of(&[1.0, 2.0, 3.0, 4.0, 2.0, 1.0]).direction(), Some(Ordering::Greater));
        // Most units a little lower, one a lot higher: the sign test has its side, the mean does not.
        assert_eq!(of(&[-1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 9.0]).direction(), None);
        assert_eq!(of(&[-1.0]).direction(), None);
    }

    #[test]
    fn what_cannot_be_said_is_none() {
        assert_eq!(paired(&[], &[], Resamples::of_means(1)), None);
        assert_eq!(paired(&[1.0], &[1.0, 2.0], Resamples::of_means(1)), None);
        let one = paired(&[1.0], &[1.0], Resamples::of_means(1)).unwrap();
        assert_eq!((one.sign_p, one.resolvable, one.difference.low), (None, None, None));
        assert_eq!(paired(&[0.0, 0.0], &[1.0, 2.0], Resamples::of_means(1)).unwrap().ratio, None);
        // 0 of 6: 2 / 64.
        assert!((sign_test(0, 6).unwrap() - 2.0 / 64.0).abs() < 1e-12);
        assert_eq!(sign_test(3, 3), Some(1.0));
    }
}
