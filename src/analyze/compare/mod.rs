//! Two analyses head by head: two models of one shape, two quantisations of one model, two lengths of text.

use std::collections::BTreeMap;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::analyze::AnalyzeError;
use crate::files::{Document, InputHash, Provenance, read_json, sha256_file};
use crate::format::analysis::{Analysis, FILE};
use crate::format::comparison::{ComparedRun, Comparison, FigureDifference, HeadDifference};
use crate::format::stats::{FigureKey, SampleKey, Stats, read_stats};
use crate::math::{Interval, Resamples, centred_interval, mean, spearman};

/// Compares the analyses in two folders that [`crate::analyze::analyze`] wrote.
///
/// Intervals are 95 % bootstrap intervals over samples: of the same samples in both runs pairs are drawn, of different ones
/// each run's are drawn by themselves.
///
/// - Errors: heads that do not correspond (other layers or numbers of heads), runs that were measured by different rules,
///   unreadable files, no figure in common
/// - Cost: O(figures · heads · samples · resamples)
pub fn compare(a: &Path, b: &Path, seed: u64) -> Result<Comparison, AnalyzeError> {
    let (first, second): (Analysis, Analysis) = (read_json(&a.join(FILE))?, read_json(&b.join(FILE))?);
    check(&first, &second)?;
    let eps = first.eps_grid.get(first.reference_eps).map(f32::to_string);
    let wanted = |key: &FigureKey| {
        let known =
            ["neighbour_cosine_mean", "set_ratio", "kept_fraction", "logit_gap", "cosine_predicts_gap", "output_error"];
        known.contains(&key.metric.as_str()) && (key.eps.is_none() || key.eps == eps)
    };
    let (of_a, of_b) = (read_stats(&a.join("stats.parquet"), &wanted)?, read_stats(&b.join("stats.parquet"), &wanted)?);
    let paired = samples(&of_a) == samples(&of_b);
    let resamples = Resamples::of_tables(seed);
    let common: Vec<_> = of_a.iter().filter_map(|(key, a)| Some((key, a, of_b.get(key)?))).collect();
    let figures: Vec<FigureDifference> =
        common.par_iter().filter_map(|(key, a, b)| difference(key, a, b, paired, resamples)).collect();
    if figures.is_empty() {
        return Err(AnalyzeError::NothingToCompare);
    }
    let input = |dir: &Path, name: &str| -> Result<InputHash, AnalyzeError> {
        Ok(InputHash { name: format!("{name}/{FILE}"), sha256: sha256_file(&dir.join(FILE))? })
    };
    let inputs = vec![input(a, "a")?, input(b, "b")?];
    Ok(Comparison {
        schema: Comparison::schema_id(),
        provenance: Provenance::new("analyze --compare", seed, serde_json::json!({ "resamples": resamples.n }), inputs),
        a: run(first),
        b: run(second),
        paired,
        figures,
    })
}

fn run(analysis: Analysis) -> ComparedRun {
    ComparedRun {
        n_samples: analysis.datasets.iter().map(|dataset| dataset.n_samples).sum(),
        n_tokens: analysis.datasets.iter().map(|dataset| dataset.n_tokens).sum(),
        datasets: analysis.datasets.into_iter().map(|dataset| dataset.dataset).collect(),
        model: analysis.model,
    }
}

fn check(a: &Analysis, b: &Analysis) -> Result<(), AnalyzeError> {
    let heads = |x: &Analysis| (x.layers.clone(), x.model.n_kv_heads);
    if heads(a) != heads(b) {
        let shape = |x: &Analysis| {
            format!("{} has {} KV heads in each of the layers {:?}", x.model.name, x.model.n_kv_heads, x.layers)
        };
        return Err(AnalyzeError::HeadsDiffer { a: shape(a), b: shape(b) });
    }
    let reference = |x: &Analysis| x.eps_grid.get(x.reference_eps).copied();
    let rules = [
        ("reference eps", format!("{:?}", reference(a)), format!("{:?}", reference(b))),
        ("protected shares", format!("{:?}", a.shares), format!("{:?}", b.shares)),
        ("bridging", a.bridge.to_string(), b.bridge.to_string()),
    ];
    match rules.into_iter().find(|(_, a, b)| a != b) {
        Some((what, a, b)) => Err(AnalyzeError::RulesDiffer { what, a, b }),
        None => Ok(()),
    }
}

/// All samples of a table.
fn samples(stats: &Stats) -> std::collections::BTreeSet<&SampleKey> {
    stats.values().flat_map(BTreeMap::keys).collect()
}

type BySample = BTreeMap<SampleKey, BTreeMap<(usize, usize), f64>>;

/// `None` when the runs have no head and sample of the figure in common.
fn difference(
    key: &FigureKey,
    a: &BySample,
    b: &BySample,
    paired: bool,
    resamples: Resamples,
) -> Option<FigureDifference> {
    // Of the same samples, those that lack the figure on one side are left out on both.
    let common = |sample: &&SampleKey| !paired || (a.contains_key(*sample) && b.contains_key(*sample));
    let rows = |from: &BySample| -> Vec<BTreeMap<(usize, usize), f64>> {
        from.keys().filter(common).filter_map(|sample| from.get(sample).cloned()).collect()
    };
    let (a, b) = (rows(a), rows(b));
    let (first, second) = (a.first()?, b.first()?);
    let everywhere = |head: &&(usize, usize)| a.iter().chain(&b).all(|row| row.contains_key(*head));
    let heads: Vec<(usize, usize)> =
        first.keys().filter(|head| second.contains_key(*head)).filter(everywhere).copied().collect();
    let table = |rows: &[BTreeMap<(usize, usize), f64>]| -> Vec<Vec<f64>> {
        rows.iter().map(|row| heads.iter().filter_map(|head| row.get(head).copied()).collect()).collect()
    };
    let (a, b) = (table(&a), table(&b));
    let all = |rows: &[Vec<f64>]| (0..rows.len()).collect::<Vec<usize>>();
    let (of_a, of_b) = (means(&a, &all(&a))?, means(&b, &all(&b))?);
    let mut draws: Vec<(Vec<f64>, f64, Option<f64>)> = Vec::new();
    let n = a.len().min(b.len());
    if n > 1 {
        let mut random = ChaCha8Rng::seed_from_u64(resamples.seed);
        for _ in 0..resamples.n {
            let mut draw = |n: usize| -> Vec<usize> { (0..n).map(|_| random.random_range(0..n)).collect() };
            let from_a = draw(a.len());
            let from_b = if paired { from_a.clone() } else { draw(b.len()) };
            let (x, y) = (means(&a, &from_a)?, means(&b, &from_b)?);
            let differences: Vec<f64> = y.iter().zip(&x).map(|(y, x)| y - x).collect();
            let overall = mean(&differences)?;
            draws.push((differences, overall, spearman(&x, &y)));
        }
    }
    let heads = heads
        .into_iter()
        .enumerate()
        .map(|(i, (layer, kv_head))| {
            let drawn: Vec<f64> = draws.iter().map(|draw| draw.0[i]).collect();
            let difference = centred_interval(of_b[i] - of_a[i], &drawn, n);
            let differs = difference.low.is_some_and(|low| low > 0.0) || difference.high.is_some_and(|high| high < 0.0);
            HeadDifference { layer, kv_head, a: of_a[i], b: of_b[i], difference, differs }
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
    let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
    Some(FigureDifference {
        metric: key.metric.clone(),
        state: key.state.clone(),
        eps: number(&key.eps),
        budget: number(&key.budget),
        rule: key.rule.clone(),
        a: mean_a,
        b: mean_b,
        difference: centred_interval(mean_b - mean_a, &overall, n),
        rank_agreement: spearman(&of_a, &of_b).map(|rho| clamped(centred_interval(rho, &agreement, n))),
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

    fn stats(rows: &[(&str, [f64; 2])]) -> BySample {
        let row = |values: &[f64; 2]| values.iter().enumerate().map(|(head, x)| ((0, head), *x)).collect();
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
        let found = difference(&key(), &a, &b, true, Resamples::of_tables(3)).unwrap();
        assert!((found.a - (177.0 + 34.0) / 2.0).abs() < 1e-9, "{found:?}");
        assert!((found.difference.estimate - 0.5).abs() < 1e-9);
        assert_eq!((found.n_differ, found.heads[0].differs, found.heads[1].differs), (1, true, false));
        assert!((found.heads[0].difference.low.unwrap() - 1.0).abs() < 1e-6);
        // Not told that they are the same samples, nothing is certain.
        let apart = difference(&key(), &a, &b, false, Resamples::of_tables(3)).unwrap();
        assert_eq!((apart.n_differ, apart.heads[0].differs), (0, false));
        assert_eq!(difference(&key(), &a, &b, true, Resamples::of_tables(3)), Some(found));
    }

    #[test]
    fn one_sample_has_no_interval_and_none_has_no_difference() {
        let a = stats(&[("x", [1.0, 5.0])]);
        let found = difference(&key(), &a, &stats(&[("y", [3.0, 9.0])]), false, Resamples::of_tables(0)).unwrap();
        assert_eq!((found.difference.estimate, found.difference.low, found.n_differ), (3.0, None, 0));
        assert_eq!(difference(&key(), &a, &stats(&[]), false, Resamples::of_tables(0)), None);
    }
}
