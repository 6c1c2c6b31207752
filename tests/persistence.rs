//! Statistics of persistence: against references, and on dumps in which the truth was planted.

mod kit {
    pub mod dump;
    pub mod identity;
}

use kit::dump::{Sample, manifest, write_dump};
use kit::identity::identity;
use kvscope::analyze::{AnalyzeOptions, analyze};
use kvscope::format::analysis::{Analysis, Evidence, Persistence};
use kvscope::format::dump::{State, Tensor};
use kvscope::math::{
    Resamples, benjamini_hochberg, bootstrap_mean, centred_gram, covariate_fit, effective_rank, group_means,
    group_sizes, intraclass_correlation, kendall_w, kruskal_wallis, lowest_rank_p, mean_spearman, quantile,
    variance_components,
};
use kvscope::merge::Shares;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn table(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

fn close(name: &str, got: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((got - expected).abs() <= 1e-9 * (1.0 + expected.abs()), "{name}: {got}, reference {expected}");
}

/// `tests/fixtures/statistics/make.py` computes the same by projections and with scipy, pingouin and statsmodels.
#[test]
fn statistics_agree_with_their_references() {
    let cases: Value = serde_json::from_str(include_str!("fixtures/statistics/reference.json")).unwrap();
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let rows = table(&case["rows"]);
        let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
        let groups: Vec<usize> = numbers(&case["groups"]).iter().map(|g| *g as usize).collect();
        let found = variance_components(&rows, &groups).unwrap();
        let expected = &case["components"];
        close("column", found.column, &expected["column"]);
        close("group", found.group, &expected["group"]);
        close("interaction", found.interaction, &expected["interaction"]);
        close("row", found.row, &expected["row"]);
        close("residual", found.residual, &expected["residual"]);

        let means = table(&case["means"]);
        for (ours, theirs) in group_means(&rows, &groups).unwrap().iter().flatten().zip(means.iter().flatten()) {
            assert!((ours - theirs).abs() < 0.051, "{ours}, reference {theirs} rounded");
        }
        let icc = intraclass_correlation(&means).unwrap();
        close("ICC(A,1)", icc.absolute, &case["icc"]["absolute"]);
        close("ICC(C,1)", icc.consistency, &case["icc"]["consistency"]);
        close("W", kendall_w(&means).unwrap(), &case["concordance"]["w"]);
        close("rho", mean_spearman(&means).unwrap(), &case["concordance"]["mean_spearman"]);

        let x = numbers(&case["x"]);
        let mut p = Vec::new();
        for (head, covariate) in case["covariate"].as_array().unwrap().iter().enumerate() {
            let values: Vec<f64> = rows.iter().map(|row| row[head]).collect();
            let test = kruskal_wallis(&values, &groups).unwrap();
            close("H", test.statistic, &case["kruskal"][head]);
            close("p", test.p, &case["p"][head]);
            p.push(test.p);
            let fit = covariate_fit(&values, &x, &groups).unwrap();
            close("slope", fit.slope.unwrap(), &covariate["slope"]);
            close("total", fit.total, &covariate["total"]);
            close("group", fit.group, &covariate["group"]);
            close("alone", fit.alone, &covariate["alone"]);
            close("within", fit.within, &covariate["within"]);
            close("group after", fit.group_after(), &covariate["group_after"]);
        }
        close("lowest p", lowest_rank_p(&group_sizes(&groups)).unwrap(), &case["lowest_p"]);

        let (n, dim) = (rows.len(), rows[0].len());
        let gram: Vec<f64> =
            (0..dim * dim).map(|at| rows.iter().map(|row| row[at / dim] * row[at % dim]).sum()).collect();
        let sum: Vec<f64> = (0..dim).map(|column| rows.iter().map(|row| row[column]).sum()).collect();
        let ranks = &case["effective_rank"];
        close("effective rank", effective_rank(&gram, dim).unwrap(), &ranks["plain"]);
        let centred = centred_gram(&gram, &sum, n as f64);
        close("centred effective rank", effective_rank(&centred, dim).unwrap(), &ranks["centred"]);

        let units: Vec<f64> = rows.iter().map(|row| row[0]).collect();
        let interval = bootstrap_mean(&units, Resamples { n: 200_000, seed: 5 }).unwrap();
        let theirs = numbers(&case["mean_interval"]);
        let (low, high) = (interval.low.unwrap(), interval.high.unwrap());
        // Each has draws of its own: the ends scatter by about 1 % of the width.
        let slack = 0.03 * (theirs[1] - theirs[0]);
        assert!(
            (low - theirs[0]).abs() < slack && (high - theirs[1]).abs() < slack,
            "{low} {high}, reference {theirs:?}"
        );
        for (q, theirs) in [0.05, 0.25, 0.5, 0.75, 0.95].into_iter().zip(numbers(&case["quantiles"])) {
            assert!((quantile(&units, q).unwrap() - theirs).abs() < 1e-6, "quantile {q}");
        }
        for (ours, theirs) in benjamini_hochberg(&p).iter().zip(case["q"].as_array().unwrap()) {
            close("q", *ours, theirs);
        }
    }
}

const LAYERS: usize = 3;
const KV_HEADS: usize = 4;
const DIM: usize = 4;

/// A sample whose heads have these set ratios, by layer and head.
struct Planted {
    dataset: usize,
    n_tokens: usize,
    ratios: Vec<f64>,
}

/// The first tokens alike, every later one at right angles to the one before: 1 + T - run sets.
fn keys(n_tokens: usize, ratio: f64) -> Vec<f32> {
    let run = n_tokens + 1 - ((ratio * n_tokens as f64).round() as usize).clamp(1, n_tokens);
    let mut keys = vec![0.0; n_tokens * DIM];
    for token in 0..n_tokens {
        let axis = if token < run { 0 } else { 1 + (token - run) % 3 };
        keys[token * DIM + axis] = 1.0 + (token % 5) as f32;
    }
    keys
}

fn analysis_of(samples: &[Planted]) -> Analysis {
    let dir = tempfile::tempdir().unwrap();
    let manifest = manifest(identity(LAYERS, KV_HEADS, KV_HEADS, DIM), &[State::K, State::Mass]);
    let shapes: Vec<Sample> = samples
        .iter()
        .enumerate()
        .map(|(number, sample)| Sample {
            dataset: format!("set {}", sample.dataset),
            id: number.to_string(),
            n_tokens: sample.n_tokens,
            n_queries: 0,
        })
        .collect();
    let dump = write_dump(dir.path(), manifest, &shapes, &|index, tensor, shape| match tensor {
        Tensor::State(layer, State::K) => {
            let ratios = &samples[index].ratios[layer * KV_HEADS..][..KV_HEADS];
            ratios.iter().flat_map(|ratio| keys(shape[1], *ratio)).collect()
        }
        // Attention of a window cannot sum to more than its queries.
        _ => vec![0.001; shape.iter().product()],
    });
    let options = AnalyzeOptions { shares: Shares { recent: 0.0, heavy: 0.0 }, ..AnalyzeOptions::default() };
    analyze(&[dump], &options, &dir.path().join("out"), &mut |_, _| {}).unwrap()
}

fn persistence_of(samples: &[Planted]) -> Persistence {
    analysis_of(samples).persistence.unwrap()
}

/// Data sets of uneven size, samples of uneven length; the ratio by data set, head and length, and uniform noise of that
/// width on every value.
fn planted(sizes: &[usize], width: f64, ratio: &dyn Fn(usize, usize, usize) -> f64) -> Vec<Planted> {
    let mut random = ChaCha8Rng::seed_from_u64(20_240_708);
    let mut samples = Vec::new();
    for (dataset, size) in sizes.iter().enumerate() {
        for _ in 0..*size {
            let n_tokens = random.random_range(300..600);
            let noise = |random: &mut ChaCha8Rng| width * (random.random::<f64>() - 0.5);
            let ratios =
                (0..LAYERS * KV_HEADS).map(|head| ratio(dataset, head, n_tokens) + noise(&mut random)).collect();
            samples.push(Planted { dataset, n_tokens, ratios });
        }
    }
    samples
}

const SIZES: [usize; 3] = [5, 8, 6];

fn affected(evidence: &Evidence) -> Vec<(usize, usize)> {
    let affected = evidence.heads.iter().filter(|head| head.test.is_some_and(|test| test.q <= 0.05));
    affected.map(|head| (head.layer, head.kv_head)).collect()
}

fn beyond(evidence: &Evidence) -> Vec<(usize, usize)> {
    evidence.heads.iter().filter(|head| !head.persistent).map(|head| (head.layer, head.kv_head)).collect()
}

#[test]
fn a_planted_head_effect_is_the_models() {
    let found = persistence_of(&planted(&SIZES, 0.04, &|_, head, _| 0.2 + 0.05 * head as f64));
    let evidence = found.evidence.unwrap();
    assert_eq!((evidence.n_samples, evidence.datasets.len(), evidence.heads.len()), (19, 3, 12));
    let variance = evidence.variance.unwrap();
    assert!(variance.head.estimate > 0.95, "{variance:?}");
    assert!(variance.head.low.unwrap() > 0.9 && variance.head.low < variance.head.high, "{variance:?}");
    assert!(variance.dataset.estimate + variance.interaction.estimate < 0.01, "{variance:?}");
    assert!(evidence.icc_absolute.unwrap().low.unwrap() > 0.95);
    assert!(evidence.kendall_w.unwrap().estimate > 0.95 && evidence.mean_spearman.unwrap().estimate > 0.95);
    let null = evidence.rank_null.unwrap();
    assert_eq!((null.p, null.n_permutations), (0.001, 999));
    // Chance gives W one over the number of data sets.
    assert!((null.mean_w - 1.0 / 3.0).abs() < 0.05, "{null:?}");
    assert!(evidence.dataset_test.unwrap().p > 0.05);
    assert!(evidence.split_half.unwrap() > 0.95);
    let length = evidence.length.unwrap();
    assert!(length.p.unwrap() > 0.05 && length.slope.unwrap().abs() < 0.02, "{length:?}");
    assert_eq!((affected(&evidence), beyond(&evidence)), (vec![], vec![]));
    assert_eq!(evidence.persistent_share.unwrap().estimate, 1.0);
    assert!(found.verdict.starts_with("Sparsity is mostly a property of the model: at eps 0.75, 12 of 12 heads"));
}

#[test]
fn a_planted_data_set_effect_is_the_datas() {
    let found = persistence_of(&planted(&SIZES, 0.04, &|dataset, _, _| [0.3, 0.5, 0.8][dataset]));
    let evidence = found.evidence.unwrap();
    let variance = evidence.variance.unwrap();
    assert!(variance.dataset.estimate > 0.95 && variance.head.estimate < 0.01, "{variance:?}");
    assert!(evidence.icc_absolute.unwrap().estimate < 0.1);
    assert!(evidence.rank_null.unwrap().p > 0.05);
    let test = evidence.dataset_test.unwrap();
    assert!(test.p == 0.001 && test.pseudo_f > 100.0, "{test:?}");
    assert_eq!((affected(&evidence).len(), beyond(&evidence).len()), (12, 12));
    assert_eq!(evidence.persistent_share.unwrap().estimate, 0.0);
    let test = evidence.heads[0].test.unwrap();
    assert!(test.epsilon_squared > 0.7, "{test:?}");
    assert!(found.verdict.starts_with("Sparsity is more the data set's than the model's"), "{}", found.verdict);
    assert!(found.verdict.contains("and 6 more."), "{}", found.verdict);
}

#[test]
fn where_nothing_was_planted_nothing_is_found() {
    let found = persistence_of(&planted(&SIZES, 0.1, &|_, _, _| 0.5));
    let evidence = found.evidence.unwrap();
    let variance = evidence.variance.unwrap();
    assert!(variance.residual.estimate > 0.85, "{variance:?}");
    assert!(evidence.rank_null.unwrap().p > 0.05 && evidence.dataset_test.unwrap().p > 0.05);
    assert!(evidence.icc_consistency.unwrap().estimate < 0.4);
    assert_eq!(affected(&evidence), []);
    assert!(evidence.length.unwrap().p.unwrap() > 0.05);
    assert!(found.verdict.starts_with("Sparsity is not shown to be a property of the model"), "{}", found.verdict);
}

#[test]
fn tests_that_could_not_find_anything_are_said_to_have_no_power() {
    let plant = |sizes: &[usize]| persistence_of(&planted(sizes, 0.04, &|_, head, _| 0.2 + 0.05 * head as f64));
    // Two data sets of two samples: p is 0.12 at best. Of three: 0.0495, which no adjustment over 12 heads leaves at 0.05
    // unless all are as low.
    let (two, three, enough) = (plant(&[2, 2]), plant(&[3, 3]), plant(&[8, 8, 8]));
    assert!(two.verdict.contains("can find nothing: its lowest possible p is 0.12."), "{}", two.verdict);
    assert!(three.verdict.contains("has little power: its lowest possible p is 0.0495"), "{}", three.verdict);
    assert!(three.verdict.contains("unless at least 12 of 12 do together."), "{}", three.verdict);
    assert!(!enough.verdict.contains("With so few samples"), "{}", enough.verdict);
}

#[test]
fn one_head_that_follows_the_data_is_named() {
    let of_head_5 = |dataset: usize| [0.0, 0.15, 0.3][dataset];
    let ratio = |dataset: usize, head: usize, _: usize| {
        0.2 + 0.05 * head as f64 + if head == 5 { of_head_5(dataset) } else { 0.0 }
    };
    let found = persistence_of(&planted(&SIZES, 0.03, &ratio));
    let evidence = found.evidence.unwrap();
    assert_eq!((affected(&evidence), beyond(&evidence)), (vec![(1, 1)], vec![(1, 1)]));
    assert!((evidence.heads[5].deviation - 0.15).abs() < 0.01);
    assert!(found.verdict.contains("Beyond it, as layer:head: 1:1 (0.15)."), "{}", found.verdict);
}

#[test]
fn a_planted_dependence_on_length_is_told_from_the_data_set() {
    let ratio = |_: usize, head: usize, n: usize| 0.3 + 0.03 * head as f64 + 0.2 * (n as f64 / 400.0).ln();
    let evidence = persistence_of(&planted(&SIZES, 0.02, &ratio)).evidence.unwrap();
    let length = evidence.length.unwrap();
    assert!((length.slope.unwrap() - 0.2).abs() < 0.02 && length.p == Some(0.001), "{length:?}");
    assert!(length.length_after_dataset > 0.5 && length.dataset_after_length < 0.1, "{length:?}");
    // Equal lengths say nothing on length.
    let mut samples = planted(&SIZES, 0.02, &ratio);
    samples.iter_mut().for_each(|sample| sample.n_tokens = 400);
    assert_eq!(persistence_of(&samples).evidence.unwrap().length, None);
}

#[test]
fn too_few_data_sets_or_samples_are_said_to_be_too_few() {
    for (sizes, left_out) in [(vec![4], 0), (vec![5, 1], 1), (vec![1, 1, 1], 3)] {
        let found = persistence_of(&planted(&sizes, 0.04, &|_, head, _| 0.2 + 0.05 * head as f64));
        assert_eq!((found.evidence.is_none(), found.left_out.len()), (true, left_out));
        assert!(found.verdict.starts_with("Too little to tell"), "{}", found.verdict);
    }
    // The smallest layout that can be judged; a data set with one sample does not count.
    let found = persistence_of(&planted(&[2, 1, 2], 0.04, &|_, head, _| 0.2 + 0.05 * head as f64));
    assert_eq!(found.left_out, ["set 1"]);
    assert_eq!(found.evidence.unwrap().n_samples, 4);
}

#[test]
fn samples_that_are_all_equal_have_no_variance_and_no_tests() {
    let samples = planted(&[2, 3], 0.0, &|_, _, _| 1.0);
    let found = persistence_of(&samples);
    let evidence = found.evidence.unwrap();
    assert_eq!((evidence.variance, evidence.kendall_w, evidence.icc_absolute), (None, None, None));
    assert_eq!((evidence.rank_null, evidence.dataset_test, evidence.split_half), (None, None, None));
    assert!(evidence.heads.iter().all(|head| head.test.is_none() && head.persistent));
    assert!(found.verdict.starts_with("Nothing varies"), "{}", found.verdict);
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let samples = planted(&SIZES, 0.1, &|dataset, head, _| 0.2 + 0.03 * head as f64 + 0.1 * dataset as f64);
    let analysis = analysis_of(&samples);
    let persistence = analysis.persistence.as_ref().unwrap();
    assert_eq!(Some(persistence), analysis_of(&samples).persistence.as_ref());
    // Files of earlier versions have no such field.
    let mut old = serde_json::to_value(&analysis).unwrap();
    old.as_object_mut().unwrap().remove("persistence");
    assert_eq!(serde_json::from_value::<Analysis>(old).unwrap().persistence, None);
}
