//! Do groups (data sets) of one measurement differ? Rank test, many tests at once, and a covariate beside the groups.

use statrs::distribution::{ChiSquared, ContinuousCDF};

use crate::math::concordance::tie_sum;
use crate::math::{group_sizes, mean, ranks};

/// Outcome of [`kruskal_wallis`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KruskalWallis {
    /// H, corrected for ties.
    pub statistic: f64,
    /// Probability of such an H or a higher one under chi-squared with G - 1 degrees of freedom; approximate, and
    /// conservative for groups of fewer than about 5.
    pub p: f64,
    /// Effect size H / (N - 1): 0 when groups are alike, 1 when they share no rank.
    pub epsilon_squared: f64,
}

/// Kruskal and Wallis' test of whether values tend to be higher in one group than in another.
///
/// H = (12 / (N (N + 1)) Σ R_g² / n_g - 3 (N + 1)) / (1 - Σ (t³ - t) / (N³ - N)), with R_g the groups' rank sums.
///
/// - Shape: values `[N]`, groups `[N]` with values in 0..G, G ≤ N
/// - Unit:  `None` with fewer than 2 groups, an empty one, or values that are all equal
/// - Source: Kruskal and Wallis 1952; effect size of Kelley 1935, as in Tomczak and Tomczak 2014
pub fn kruskal_wallis(values: &[f64], groups: &[usize]) -> Option<KruskalWallis> {
    if values.len() != groups.len() || groups.iter().any(|group| *group >= groups.len()) {
        return None;
    }
    let sizes = group_sizes(groups);
    if sizes.len() < 2 || sizes.contains(&0) || values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let ranks = ranks(values);
    let mut sums = vec![0.0; sizes.len()];
    ranks.iter().zip(groups).for_each(|(rank, group)| sums[*group] += rank);
    let n = values.len() as f64;
    let squares: f64 = sums.iter().zip(&sizes).map(|(sum, size)| sum * sum / *size as f64).sum();
    let correction = 1.0 - tie_sum(&ranks) / (n * n * n - n);
    if correction <= 0.0 {
        return None;
    }
    let statistic = ((12.0 / (n * (n + 1.0)) * squares - 3.0 * (n + 1.0)) / correction).max(0.0);
    let p = ChiSquared::new(sizes.len() as f64 - 1.0).ok()?.sf(statistic);
    Some(KruskalWallis { statistic, p, epsilon_squared: (statistic / (n - 1.0)).min(1.0) })
}

/// Lowest p that [`kruskal_wallis`] can give for groups of these sizes: what it says when no two groups overlap.
///
/// H is largest then, (N - 1) (1 - Σ (n_g³ - n_g) / (N³ - N)), whatever the order of the groups.
///
/// - Unit: a probability; `None` with fewer than 2 groups or an empty one
///
/// ```
/// // Two groups of two: H = 3 (1 - 12 / 60) = 2.4 with one degree of freedom, so that the test can find nothing at 5 %.
/// let p = kvscope::math::lowest_rank_p(&[2, 2]).unwrap();
/// assert!((p - 0.1213).abs() < 1e-4);
/// ```
pub fn lowest_rank_p(sizes: &[usize]) -> Option<f64> {
    if sizes.len() < 2 || sizes.contains(&0) {
        return None;
    }
    let cube = |n: f64| n * n * n - n;
    let n = sizes.iter().sum::<usize>() as f64;
    let within: f64 = sizes.iter().map(|size| cube(*size as f64)).sum();
    let highest = (n - 1.0) * (1.0 - within / cube(n));
    Some(ChiSquared::new(sizes.len() as f64 - 1.0).ok()?.sf(highest))
}

/// Benjamini and Hochberg's adjusted p values: the lowest false discovery rate at which each test would be kept.
///
/// - Shape: p `[n]` → `[n]`
/// - Source: Benjamini and Hochberg 1995
///
/// ```
/// // Ranks 3, 1, 2, 4 of 4: 0.04·4/3, 0.01·4, 0.03·4/2 (lowered to the next), 0.5.
/// let q = kvscope::math::benjamini_hochberg(&[0.04, 0.01, 0.03, 0.5]);
/// assert_eq!(q, [0.16 / 3.0, 0.04, 0.16 / 3.0, 0.5]);
/// ```
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let n = p.len() as f64;
    let mut falling: Vec<usize> = (0..p.len()).collect();
    falling.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    let mut adjusted = vec![1.0; p.len()];
    let mut lowest = 1f64;
    for (place, index) in falling.into_iter().enumerate() {
        lowest = lowest.min(p[index] * n / (n - place as f64));
        adjusted[index] = lowest;
    }
    adjusted
}

/// How a covariate x (log length) and groups (data sets) share in explaining values, as sums of squares.
///
/// group + within = alone + (group once x is known) is what both explain; where x differs between groups only, they
/// cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CovariateFit {
    /// Slope of the values on x within groups (one for all groups); `None` when x varies in no group.
    pub slope: Option<f64>,
    /// About the mean.
    pub total: f64,
    /// Explained by the groups alone.
    pub group: f64,
    /// Explained by x alone.
    pub alone: f64,
    /// Explained by x once the groups are known.
    pub within: f64,
}

impl CovariateFit {
    /// Explained by the groups once x is known.
    pub fn group_after(&self) -> f64 {
        (self.group + self.within - self.alone).max(0.0)
    }
}

/// Fits values on x and groups, each alone and after the other.
///
/// - Shape: values, x and groups `[N]`, groups in 0..G, G ≤ N
/// - Unit:  `None` for lists of different lengths, an empty group, or an x that does not vary
/// - Source: analysis of covariance with one slope, by least squares (Fisher 1932)
pub fn covariate_fit(values: &[f64], x: &[f64], groups: &[usize]) -> Option<CovariateFit> {
    let n = values.len();
    if n < 2 || x.len() != n || groups.len() != n || groups.iter().any(|group| *group >= n) {
        return None;
    }
    let sizes = group_sizes(groups);
    if sizes.contains(&0) {
        return None;
    }
    let (mean_y, mean_x) = (mean(values)?, mean(x)?);
    let of_groups = |v: &[f64]| {
        let mut means = vec![0.0; sizes.len()];
        v.iter().zip(groups).for_each(|(v, group)| means[*group] += v / sizes[*group] as f64);
        means
    };
    let (group_y, group_x) = (of_groups(values), of_groups(x));
    let (mut total, mut xx, mut xy) = (0.0, 0.0, 0.0);
    let (mut inner_xx, mut inner_xy, mut group) = (0.0, 0.0, 0.0);
    for ((y, x), g) in values.iter().zip(x).zip(groups) {
        let (dy, dx) = (y - mean_y, x - mean_x);
        total += dy * dy;
        xx += dx * dx;
        xy += dx * dy;
        let (dy, dx) = (y - group_y[*g], x - group_x[*g]);
        inner_xx += dx * dx;
        inner_xy += dx * dy;
        group += (group_y[*g] - mean_y).powi(2);
    }
    // Lengths that are equal up to rounding do not vary.
    let floor = 1e-12 * n as f64 * (1.0 + mean_x * mean_x);
    let varies = inner_xx > floor;
    (xx > floor).then(|| CovariateFit {
        slope: varies.then(|| inner_xy / inner_xx),
        total,
        group,
        alone: xy * xy / xx,
        within: if varies { inner_xy * inner_xy / inner_xx } else { 0.0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9, "{got} for {expected}");
    }

    #[test]
    fn the_lowest_p_is_that_of_groups_apart() {
        for groups in [vec![0, 0, 0, 1, 1, 2, 2, 2, 2], vec![1, 1, 1, 1, 0, 2, 2], vec![0, 1]] {
            let values: Vec<f64> = (0..groups.len()).map(|i| i as f64).collect();
            let lowest = lowest_rank_p(&group_sizes(&groups)).unwrap();
            assert!((lowest - kruskal_wallis(&values, &groups).unwrap().p).abs() < 1e-12, "{groups:?}");
        }
        assert_eq!(lowest_rank_p(&[5]), None);
        assert_eq!(lowest_rank_p(&[5, 0]), None);
    }

    #[test]
    fn rank_test_of_uneven_groups_by_hand() {
        // Groups {1, 2}, {2, 5, 6}, {9}: ranks 1 2.5 | 2.5 4 5 | 6, sums 3.5, 11.5, 6.
        // 12/42 · (6.125 + 44.0833 + 36) - 21 = 3.630952; correction 1 - 6/210.
        let found = kruskal_wallis(&[1.0, 2.0, 2.0, 5.0, 6.0, 9.0], &[0, 0, 1, 1, 1, 2]).unwrap();
        let squares = 3.5 * 3.5 / 2.0 + 11.5 * 11.5 / 3.0 + 36.0;
        let statistic = (12.0 / 42.0 * squares - 21.0) / (1.0 - 6.0 / 210.0);
        close(found.statistic, statistic);
        // Chi-squared with two degrees of freedom: exp(-H/2).
        close(found.p, (-statistic / 2.0).exp());
        close(found.epsilon_squared, statistic / 5.0);
        // Two groups that share no rank, 1 2 3 | 4 5: H = 12/30 · (12 + 40.5) - 18 = 3.
        close(kruskal_wallis(&[1.0, 2.0, 3.0, 4.0, 5.0], &[0, 0, 0, 1, 1]).unwrap().statistic, 3.0);
        assert_eq!(kruskal_wallis(&[1.0, 1.0, 1.0], &[0, 0, 1]), None);
        assert_eq!(kruskal_wallis(&[1.0, 2.0], &[0, 0]), None);
        assert_eq!(kruskal_wallis(&[1.0, 2.0], &[0, 7]), None);
        assert_eq!(kruskal_wallis(&[1.0, f64::NAN], &[0, 1]), None);
    }

    #[test]
    fn covariate_and_groups_by_hand() {
        // Group 0: x 1, 3 with y 2, 4; group 1: x 2, 3, 4 with y 0, 1, 2. Slope 1 within both.
        let (y, x) = ([2.0, 4.0, 0.0, 1.0, 2.0], [1.0, 3.0, 2.0, 3.0, 4.0]);
        let fit = covariate_fit(&y, &x, &[0, 0, 1, 1, 1]).unwrap();
        close(fit.slope.unwrap(), 1.0);
        // Mean 1.8: squares 0.04 + 4.84 + 3.24 + 0.64 + 0.04; group means 3 and 1: 2·1.44 + 3·0.64; within 2 + 2.
        close(fit.total, 8.8);
        close(fit.group, 4.8);
        close(fit.within, 4.0);
        // Mean of x 2.6: Sxx 5.2, Sxy = Σ xy - 5 · 2.6 · 1.8 = 25 - 23.4 = 1.6.
        close(fit.alone, 1.6 * 1.6 / 5.2);
        close(fit.group_after(), 8.8 - fit.alone);
        // x by group only: nothing within.
        let fit = covariate_fit(&y, &[1.0, 1.0, 2.0, 2.0, 2.0], &[0, 0, 1, 1, 1]).unwrap();
        assert_eq!((fit.slope, fit.within), (None, 0.0));
        close(fit.alone, fit.group);
        close(fit.group_after(), 0.0);
        assert_eq!(covariate_fit(&y, &[7.0; 5], &[0, 0, 1, 1, 1]), None);
        assert_eq!(covariate_fit(&y, &x, &[0, 0, 2, 2, 2]), None);
    }
}
