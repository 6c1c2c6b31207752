//! Intervals by drawing samples anew, and null distributions by permuting.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::analyze::persistence::{PERMUTATIONS, Table, agreement};
use crate::format::analysis::{DatasetTest, RankNull, VarianceShares};
use crate::math::{
    Interval, Resamples, centred_interval, covariate_fit, group_means, group_sizes, kendall_w, variance_components,
};

/// Five shares of variance, then the five figures of [`agreement`].
type Figures = [Option<f64>; 10];

/// The figures that have intervals.
pub(super) struct Intervals {
    pub(super) variance: Option<VarianceShares>,
    pub(super) icc_absolute: Option<Interval>,
    pub(super) icc_consistency: Option<Interval>,
    pub(super) kendall_w: Option<Interval>,
    pub(super) mean_spearman: Option<Interval>,
    pub(super) persistent_share: Option<Interval>,
    /// Of every head's mean over data sets.
    pub(super) heads: Vec<Interval>,
}

/// The figures, and every head's mean of its data sets' means.
fn figures(rows: &[&[f64]], groups: &[usize], tolerance: f64) -> (Figures, Vec<f64>) {
    let shares = variance_components(rows, groups).and_then(|found| found.shares());
    let means = group_means(rows, groups);
    let of_head = |means: &Vec<Vec<f64>>, head: usize| means.iter().map(|m| m[head]).sum::<f64>() / means.len() as f64;
    let n_heads = rows.first().map_or(0, |row| row.len());
    let heads = means.as_ref().map_or(Vec::new(), |means| (0..n_heads).map(|head| of_head(means, head)).collect());
    let agreement = means.map_or([None; 5], |means| agreement(&means, tolerance));
    let mut all = [None; 10];
    for index in 0..5 {
        all[index] = shares.map(|shares| shares[index]);
        all[5 + index] = agreement[index];
    }
    (all, heads)
}

/// A generator for each draw, so that draws can be made in any order.
fn generator(seed: u64, purpose: u64, draw: usize) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(8).wrapping_add(purpose));
    random.set_stream(draw as u64);
    random
}

/// (1 + how many are as high) / (1 + how many there are); differences within rounding count as equal.
fn add_one_p(observed: f64, null: &[f64]) -> f64 {
    let slack = 1e-9 * observed.abs();
    let as_high = null.iter().filter(|value| **value >= observed - slack).count();
    (1 + as_high) as f64 / (1 + null.len()) as f64
}

impl Table<'_> {
    /// All figures with 95 % intervals over samples, drawn with replacement within each data set.
    pub(super) fn intervals(&self, tolerance: f64, seed: u64) -> Intervals {
        let (observed, of_heads) = figures(&self.rows, &self.groups, tolerance);
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); self.means.len()];
        self.groups.iter().enumerate().for_each(|(sample, group)| members[*group].push(sample));
        let resamples = Resamples::of_tables(seed);
        let draws: Vec<(Figures, Vec<f64>)> = (0..resamples.n)
            .into_par_iter()
            .map(|draw| {
                let mut random = generator(resamples.seed, 1, draw);
                let rows: Vec<&[f64]> = self
                    .groups
                    .iter()
                    .map(|group| self.rows[members[*group][random.random_range(0..members[*group].len())]])
                    .collect();
                figures(&rows, &self.groups, tolerance)
            })
            .collect();
        let interval = |index: usize, lowest: f64| -> Option<Interval> {
            let estimate = observed[index]?;
            let drawn: Vec<f64> = draws.iter().filter_map(|draw| draw.0[index]).collect();
            let mut interval = centred_interval(estimate, &drawn, self.rows.len());
            for end in [&mut interval.low, &mut interval.high] {
                *end = end.map(|end| end.clamp(lowest, 1.0));
            }
            Some(interval)
        };
        let of_head = |(head, estimate): (usize, &f64)| {
            let drawn: Vec<f64> = draws.iter().filter_map(|draw| draw.1.get(head).copied()).collect();
            let mut interval = centred_interval(*estimate, &drawn, self.rows.len());
            for end in [&mut interval.low, &mut interval.high] {
                *end = end.map(|end| end.clamp(0.0, 1.0));
            }
            interval
        };
        let share = |index: usize| interval(index, 0.0);
        let variance = || {
            Some(VarianceShares {
                head: share(0)?,
                dataset: share(1)?,
                interaction: share(2)?,
                sample: share(3)?,
                residual: share(4)?,
            })
        };
        Intervals {
            variance: variance(),
            icc_absolute: interval(5, -1.0),
            icc_consistency: interval(6, -1.0),
            kendall_w: share(7),
            mean_spearman: interval(8, -1.0),
            persistent_share: share(9),
            heads: of_heads.iter().enumerate().map(of_head).collect(),
        }
    }

    /// W when every data set ranks the heads at random.
    pub(super) fn rank_null(&self, seed: u64) -> Option<RankNull> {
        let observed = kendall_w(&self.means)?;
        let null: Vec<f64> = (0..PERMUTATIONS)
            .into_par_iter()
            .filter_map(|draw| {
                let mut random = generator(seed, 2, draw);
                let mut means = self.means.clone();
                means.iter_mut().for_each(|mean| mean.shuffle(&mut random));
                kendall_w(&means)
            })
            .collect();
        let mean_w = null.iter().sum::<f64>() / null.len() as f64;
        Some(RankNull { n_permutations: null.len(), mean_w, p: add_one_p(observed, &null) })
    }

    /// Between and within data sets, over all heads together. The total is the same for every permutation, so that the
    /// squares between decide.
    pub(super) fn dataset_test(&self, seed: u64) -> Option<DatasetTest> {
        let observed = self.between(&self.groups)?;
        let n_heads = self.rows.first()?.len();
        let total: f64 = (0..n_heads)
            .map(|head| {
                let column = self.column(head);
                let center = column.iter().sum::<f64>() / column.len() as f64;
                column.iter().map(|y| (y - center).powi(2)).sum::<f64>()
            })
            .sum();
        let within = total - observed;
        let (n, n_groups) = (self.rows.len() as f64, self.means.len() as f64);
        if within <= 1e-12 * total || n <= n_groups {
            return None;
        }
        let null: Vec<f64> = (0..PERMUTATIONS)
            .into_par_iter()
            .filter_map(|draw| {
                let mut groups = self.groups.clone();
                groups.shuffle(&mut generator(seed, 3, draw));
                self.between(&groups)
            })
            .collect();
        let pseudo_f = (observed / (n_groups - 1.0)) / (within / (n - n_groups));
        Some(DatasetTest { n_permutations: null.len(), pseudo_f, p: add_one_p(observed, &null) })
    }

    /// Squares between groups, summed over heads.
    fn between(&self, groups: &[usize]) -> Option<f64> {
        let means = group_means(&self.rows, groups)?;
        let sizes = group_sizes(groups);
        let n = groups.len() as f64;
        let square = |head: usize| {
            let weighted = || means.iter().zip(&sizes).map(|(mean, size)| (mean[head], *size as f64));
            let center = weighted().map(|(mean, size)| mean * size).sum::<f64>() / n;
            weighted().map(|(mean, size)| size * (mean - center).powi(2)).sum::<f64>()
        };
        Some((0..means.first()?.len()).map(square).sum())
    }

    /// Squares that length explains once the data set is known, against lengths permuted within data sets.
    pub(super) fn length_p(&self, observed: f64, seed: u64) -> f64 {
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); self.means.len()];
        self.groups.iter().enumerate().for_each(|(sample, group)| members[*group].push(sample));
        let columns: Vec<Vec<f64>> = (0..self.means[0].len()).map(|head| self.column(head)).collect();
        let null: Vec<f64> = (0..PERMUTATIONS)
            .into_par_iter()
            .map(|draw| {
                let mut random = generator(seed, 4, draw);
                let mut lengths = self.log_lengths.clone();
                for samples in &members {
                    let mut shuffled = samples.clone();
                    shuffled.shuffle(&mut random);
                    samples.iter().zip(shuffled).for_each(|(to, from)| lengths[*to] = self.log_lengths[from]);
                }
                let fits = columns.iter().filter_map(|column| covariate_fit(column, &lengths, &self.groups));
                fits.map(|fit| fit.within).sum()
            })
            .collect();
        add_one_p(observed, &null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_counts_the_observed_one() {
        assert_eq!(add_one_p(2.0, &[1.0, 2.0, 3.0]), 0.75);
        assert_eq!(add_one_p(4.0, &[1.0, 2.0, 3.0]), 0.25);
    }
}
