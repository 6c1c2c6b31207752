//! A run against another, figure by figure.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::analyze::compare::{Saved, id, place};
use crate::format::comparison::{Against, FigureDifference, HeadDifference};
use crate::format::stats::{FigureKey, SampleKey, Stats};
use crate::math::{Interval, Resamples, centred_interval, mean, spearman};

/// A figure's values by sample, then head.
pub(super) type BySample = BTreeMap<SampleKey, BTreeMap<(usize, usize), f64>>;

/// How two runs correspond.
#[derive(Clone, Copy)]
struct Correspond {
    samples: bool,
    heads: bool,
}

/// The run of that number against the first.
pub(super) fn against(run: usize, first: &Saved, other: &Saved, resamples: Resamples) -> Against {
    let heads = |saved: &Saved| (saved.analysis.layers.clone(), saved.analysis.model.n_kv_heads);
    let same =
        Correspond { samples: samples(&first.stats) == samples(&other.stats), heads: heads(first) == heads(other) };
    let mut common: Vec<_> = first.stats.iter().filter_map(|(key, a)| Some((key, a, other.stats.get(key)?))).collect();
    common.sort_by_key(|(key, ..)| place(key));
    let figures = common.par_iter().filter_map(|(key, a, b)| difference(key, a, b, same, resamples)).collect();
    Against { run, paired: same.samples, figures }
}

/// All samples of a table.
fn samples(stats: &Stats) -> BTreeSet<&SampleKey> {
    stats.values().flat_map(BTreeMap::keys).collect()
}

/// The heads of which every sample of all these tables has a value.
pub(super) fn complete_heads<'a>(tables: impl IntoIterator<Item = &'a BySample>) -> Vec<(usize, usize)> {
    let mut rows = tables.into_iter().flat_map(BTreeMap::values);
    let Some(first) = rows.next() else { return Vec::new() };
    let mut heads: Vec<(usize, usize)> = first.keys().copied().collect();
    rows.for_each(|row| heads.retain(|head| row.contains_key(head)));
    heads
}

/// The samples, and their values of those heads.
pub(super) fn table<'a>(samples: &'a BySample, heads: &[(usize, usize)]) -> (Vec<&'a SampleKey>, Vec<Vec<f64>>) {
    let row = |row: &BTreeMap<(usize, usize), f64>| heads.iter().filter_map(|head| row.get(head).copied()).collect();
    samples.iter().map(|(key, values)| (key, row(values))).unzip()
}

/// `None` when a run has no head of which all its samples have the figure, or corresponding runs none in common.
fn difference(
    key: &FigureKey,
    a: &BySample,
    b: &BySample,
    same: Correspond,
    resamples: Resamples,
) -> Option<FigureDifference> {
    // Of the same samples, those that lack the figure on one side are left out on both.
    let kept = |from: &BySample, other: &BySample| -> BySample {
        let common = from.iter().filter(|(sample, _)| !same.samples || other.contains_key(*sample));
        common.map(|(sample, row)| (sample.clone(), row.clone())).collect()
    };
    let (a, b) = (kept(a, b), kept(b, a));
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let common = if same.heads { complete_heads([&a, &b]) } else { Vec::new() };
    let rows = |from: &BySample| {
        let heads = if same.heads { common.clone() } else { complete_heads([from]) };
        table(from, &heads).1
    };
    let (a, b) = (rows(&a), rows(&b));
    let all = |rows: &[Vec<f64>]| (0..rows.len()).collect::<Vec<usize>>();
    let (of_a, of_b) = (means(&a, &all(&a))?, means(&b, &all(&b))?);
    let mut draws: Vec<(Vec<f64>, f64, Option<f64>)> = Vec::new();
    let n = a.len().min(b.len());
    if n > 1 {
        let mut random = ChaCha8Rng::seed_from_u64(resamples.seed);
        for _ in 0..resamples.n {
            let mut draw = |n: usize| -> Vec<usize> { (0..n).map(|_| random.random_range(0..n)).collect() };
            let from_a = draw(a.len());
            let from_b = if same.samples { from_a.clone() } else { draw(b.len()) };
            let (x, y) = (means(&a, &from_a)?, means(&b, &from_b)?);
            let overall = mean(&y)? - mean(&x)?;
            let agreement = if same.heads { spearman(&x, &y) } else { None };
            draws.push(((0..common.len()).map(|i| y[i] - x[i]).collect(), overall, agreement));
        }
    }
    let heads = common
        .into_iter()
        .enumerate()
        .map(|(i, (layer, kv_head))| {
            let drawn: Vec<f64> = draws.iter().map(|draw| draw.0[i]).collect();
            let difference = centred_interval(of_b[i] - of_a[i], &drawn, n);
            let differs = difference.leaves_out_0();
            HeadDifference { layer, kv_head, first: of_a[i], other: of_b[i], difference, differs }
        })
        .collect::<Vec<_>>();
    let (mean_a, mean_b) = (mean(&of_a)?, mean(&of_b)?);
    let overall: Vec<f64> = draws.iter().map(|draw| draw.1).collect();
    let agreement: Vec<f64> = draws.iter().filter_map(|draw| draw.2).collect();
    let clamped = |interval: Interval| Interval {
        low: interval.low.map(|low| low.clamp(-1.0, 1.0)),
        high: interval.high.map(|high| high.clamp(-1.0, 1.0)),
        ..interval
    };
    let observed = if same.heads { spearman(&of_a, &of_b) } else { None };
    Some(FigureDifference {
        id: id(key),
        first: mean_a,
        other: mean_b,
        difference: centred_interval(mean_b - mean_a, &overall, n),
        rank_agreement: observed.map(|rho| clamped(centred_interval(rho, &agreement, n))),
        n_differ: heads.iter().filter(|head| head.differs).count(),
        heads,
    })
}

/// Mean row of the chosen ones; `None` of no row or no column.
fn means(rows: &[Vec<f64>], chosen: &[usize]) -> Option<Vec<f64>> {
    let mut sum = vec![0.0; rows.first().filter(|row| !row.is_empty())?.len()];
    for index in chosen {
        sum.iter_mut().zip(&rows[*index]).for_each(|(sum, x)| *sum += x);
    }
    sum.iter_mut().for_each(|sum| *sum /= chosen.len() as f64);
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRED: Correspond = Correspond { samples: true, heads: true };
    const APART: Correspond = Correspond { samples: false, heads: true };

    fn stats<const N: usize>(rows: &[(&str, [f64; N])]) -> BySample {
        let row = |values: &[f64; N]| values.iter().enumerate().map(|(head, x)| ((0, head), *x)).collect();
        rows.iter().map(|(id, values)| (("d".to_string(), (*id).to_string()), row(values))).collect()
    }

    fn key() -> FigureKey {
        let text = |text: &str| text.to_string();
        FigureKey { metric: text("set_ratio"), state: text("k"), eps: Some(text("0.75")), budget: None, rule: None }
    }

    #[test]
    fn pairs_take_away_what_samples_differ_in() {
        // Samples are far apart, yet every one of them is exactly 1 higher in B's head 0 and equal in head 1.
        let a = stats(&[("x", [1.0, 5.0]), ("y", [30.0, 7.0]), ("z", [500.0, 90.0])]);
        let b = stats(&[("x", [2.0, 5.0]), ("y", [31.0, 7.0]), ("z", [501.0, 90.0])]);
        let found = difference(&key(), &a, &b, PAIRED, Resamples::of_tables(3)).unwrap();
        assert!((found.first - (177.0 + 34.0) / 2.0).abs() < 1e-9, "{found:?}");
        assert!((found.difference.estimate - 0.5).abs() < 1e-9);
        assert_eq!((found.n_differ, found.heads[0].differs, found.heads[1].differs), (1, true, false));
        assert!((found.heads[0].difference.low.unwrap() - 1.0).abs() < 1e-6);
        // Not told that they are the same samples, nothing is certain.
        let apart = difference(&key(), &a, &b, APART, Resamples::of_tables(3)).unwrap();
        assert_eq!((apart.n_differ, apart.heads[0].differs), (0, false));
        assert_eq!(difference(&key(), &a, &b, PAIRED, Resamples::of_tables(3)), Some(found));
    }

    #[test]
    fn runs_of_other_heads_are_compared_by_their_means() {
        // Means of a sample's heads: 3 and 5 against 2 and 6 of three heads; pair by pair -1 and +1.
        let a = stats(&[("x", [1.0, 5.0]), ("y", [3.0, 7.0])]);
        let b = stats(&[("x", [1.0, 2.0, 3.0]), ("y", [4.0, 6.0, 8.0])]);
        let same = Correspond { samples: true, heads: false };
        let found = difference(&key(), &a, &b, same, Resamples::of_tables(1)).unwrap();
        assert_eq!((found.first, found.other, found.difference.estimate), (4.0, 4.0, 0.0));
        // Draws give -1, 0 or 1; their mean, about 0, is taken off.
        let near = |end: Option<f64>, expected: f64| (end.unwrap() - expected).abs() < 0.1;
        assert!(near(found.difference.low, -1.0) && near(found.difference.high, 1.0), "{found:?}");
        assert_eq!((found.heads.len(), found.n_differ, found.rank_agreement), (0, 0, None));
    }

    #[test]
    fn one_sample_has_no_interval_and_none_has_no_difference() {
        let a = stats(&[("x", [1.0, 5.0])]);
        let found = difference(&key(), &a, &stats(&[("y", [3.0, 9.0])]), APART, Resamples::of_tables(0)).unwrap();
        assert_eq!((found.difference.estimate, found.difference.low, found.n_differ), (3.0, None, 0));
        assert_eq!(difference(&key(), &a, &stats::<2>(&[]), APART, Resamples::of_tables(0)), None);
    }
}
