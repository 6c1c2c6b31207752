//! Query-aware measures, places and overlap of sets, comparison of runs, and other programs' readers, on planted dumps.

mod kit {
    pub mod dump;
    pub mod identity;
    pub mod planted;
}

use std::path::Path;
use std::process::Command;

use kit::planted::{DIM, Planted, plant};
use kvscope::analyze::{AnalyzeError, AnalyzeOptions, analyze, compare};
use kvscope::format::analysis::{Analysis, Placed};
use kvscope::format::comparison::Comparison;
use kvscope::format::dump::State;
use kvscope::hint::Hint;
use kvscope::merge::Shares;

const ALL: [State; 4] = [State::K, State::V, State::Q, State::Mass];
const NONE_PROTECTED: Shares = Shares { recent: 0.0, heavy: 0.0 };

/// A number in [-1, 1) that looks random.
fn noise(seed: [usize; 5]) -> f32 {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    for s in seed {
        x = (x ^ s as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 29;
    }
    (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn run(dir: &Path, name: &str, samples: &[Planted<'_>], options: &AnalyzeOptions) -> Analysis {
    let dump = plant(&dir.join(format!("{name}-dump")), "f", &ALL, samples);
    analyze(&[dump], options, &dir.join(name), &mut |_, _| {}).unwrap()
}

#[test]
fn queries_tell_which_similarity_matters() {
    let dir = tempfile::tempdir().unwrap();
    // KV head 0: keys turn in a plane by uneven steps, and queries read that plane: the gap follows the angle.
    // KV head 1: the same turning, but queries read a third component alone, which is random from token to token.
    let vectors = |state: State, layer: usize, head: usize, token: usize| match state {
        State::Q if head < kit::planted::GROUP => {
            [3.0 * noise([layer, head, token, 1, 0]), 3.0 * noise([layer, head, token, 2, 0]), 0.0, 0.0]
        }
        State::Q => [0.0, 0.0, 3.0 + noise([layer, head, token, 3, 0]), 0.0],
        State::K => {
            let angle: f32 = (1..=token).map(|t| noise([layer, t, 7, 0, 0]).powi(2) * 1.5).sum();
            [2.0 * angle.cos(), 2.0 * angle.sin(), 0.4 * noise([layer, token, 9, 0, 0]), 0.0]
        }
        _ => [noise([layer, token, 11, head, 0]), 1.0, noise([layer, token, 12, head, 0]), 0.5],
    };
    let samples: Vec<Planted<'_>> =
        ["0", "1", "2"].map(|id| Planted { dataset: "d", id, n_tokens: 240, heavy: None, vectors: &vectors }).into();
    let options = AnalyzeOptions { budgets: vec![0.5, 0.8], ..AnalyzeOptions::default() };
    let analysis = run(dir.path(), "run", &samples, &options);
    for head in &analysis.datasets[0].queries {
        let rho = head.cosine_predicts.unwrap();
        if head.kv_head == 0 {
            assert!(rho < -0.85, "what was planted is not found: {head:?}");
        } else {
            assert!(rho.abs() < 0.3, "found where nothing was planted: {head:?}");
        }
        let quantiles = head.gap_quantiles.unwrap();
        assert!(quantiles.is_sorted() && quantiles[0] <= head.gap.unwrap() && head.gap.unwrap() <= quantiles[4]);
        // The more is evicted the larger the error.
        assert!(head.errors[0][4].unwrap() > head.errors[1][4].unwrap(), "{head:?}");
    }
    let queries = analysis.queries.as_ref().unwrap();
    assert_eq!((queries.budgets.as_slice(), queries.rules.len(), queries.errors.len()), ([0.5, 0.8].as_slice(), 5, 10));
    let evict = queries.errors.iter().find(|error| error.rule == "evict").unwrap();
    assert_eq!(evict.against_evict.unwrap().estimate, 0.0);
    assert_eq!((evict.error.unwrap().n, evict.unreachable), (3, 0));
    assert!(
        queries.verdict.contains("over 3 samples") && queries.verdict.contains("At 50 % kept"),
        "{}",
        queries.verdict
    );
    // Not asked for, not measured.
    let options = AnalyzeOptions { budgets: Vec::new(), ..options };
    let plain = run(dir.path(), "plain", &samples, &options);
    assert!(plain.queries.is_none() && plain.datasets[0].queries.is_empty());
}

#[test]
fn sets_lie_where_they_were_planted_and_overlap_as_they_were_planted() {
    let dir = tempfile::tempdir().unwrap();
    // Layer 1: both heads join tokens 0 to 4. Layer 3: head 0 joins 0 to 4 too, head 1 tokens 5 to 9.
    let vectors = |_: State, layer: usize, head: usize, token: usize| -> [f32; DIM] {
        let run = if (layer, head) == (3, 1) { 5..10 } else { 0..5 };
        let mut vector = [0.0; DIM];
        vector[if run.contains(&token) { 3 } else { token % 2 }] = 1.0;
        vector
    };
    let sample = Planted { dataset: "d", id: "0", n_tokens: 10, heavy: None, vectors: &vectors };
    let options = AnalyzeOptions { shares: NONE_PROTECTED, budgets: Vec::new(), ..AnalyzeOptions::default() };
    let analysis = run(dir.path(), "run", &[sample], &options);
    let dataset = &analysis.datasets[0];
    let places = dataset.places.as_ref().unwrap();
    // Four heads; tokens 0 to 4 are merged in three of them, 5 to 9 in one. Ids have the classes w d p s o w w w w w.
    assert!(places.positions[..5].iter().all(|placed| *placed == Placed { free: 4, merged: 3 }), "{places:?}");
    assert!(places.positions[5..].iter().all(|placed| *placed == Placed { free: 4, merged: 1 }));
    let shares: Vec<f64> = places.classes.iter().map(|placed| placed.share().unwrap()).collect();
    assert_eq!(shares, [(3.0 + 5.0) / 24.0, 0.75, 0.75, 0.75, 0.75]);
    assert_eq!(dataset.sparsity[0].sizes, [5, 0, 0, 0, 1, 0, 0, 0, 0]);
    let overlap = analysis.set_overlap.as_ref().unwrap();
    assert_eq!(overlap.dice, [[Some(1.0), Some(0.5)], [Some(0.5), Some(0.0)]]);
    // 8 joined tokens of 2 x 10 in each layer: 8 · 8 / 10 together by chance, of 2 (8 + 8).
    assert!((overlap.chance[0][1].unwrap() - 2.0 * 6.4 / 32.0).abs() < 1e-12);
    // All keys lie on three axes: five alike, five shared between two.
    let rank = dataset.similarity[0].heads[0].effective_rank.unwrap();
    let sigma = [5f64.sqrt(), 3f64.sqrt(), 2f64.sqrt()];
    let p = sigma.map(|s| s / sigma.iter().sum::<f64>());
    assert!((rank - p.map(|p| -p * p.ln()).iter().sum::<f64>().exp()).abs() < 1e-5, "{rank}");
    // Of 9 pairs of neighbours 4 have cosine 1, the others 0.
    assert!(dataset.similarity[0].heads[0].share_above.iter().all(|share| *share == Some(4.0 / 9.0)));
}

/// Six samples in which KV head 1 of layer 3 has a run of `planted` tokens, the others runs that differ by sample only.
fn runs(dir: &Path, name: &str, planted: usize) -> Analysis {
    let run_of = |run: usize, token: usize| -> [f32; DIM] {
        let mut vector = [0.0; DIM];
        vector[if token < run { 3 } else { token % 2 }] = 1.0;
        vector
    };
    let vectors: Vec<_> = (0..6)
        .map(|sample| {
            move |_: State, layer: usize, head: usize, token: usize| {
                run_of(if (layer, head) == (3, 1) { planted + sample } else { 3 + sample + layer }, token)
            }
        })
        .collect();
    let ids = ["0", "1", "2", "3", "4", "5"];
    let samples: Vec<Planted<'_>> = ids
        .iter()
        .zip(&vectors)
        .map(|(id, vectors)| Planted { dataset: "d", id, n_tokens: 40, heavy: None, vectors })
        .collect();
    let options = AnalyzeOptions { shares: NONE_PROTECTED, budgets: vec![0.9], ..AnalyzeOptions::default() };
    run(dir, name, &samples, &options)
}

#[test]
fn a_comparison_finds_the_head_that_was_changed_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    runs(dir.path(), "a", 5);
    runs(dir.path(), "b", 15);
    let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
    let comparison: Comparison = compare(&[a.clone(), b.clone()], 7).unwrap();
    let against = &comparison.against_first[0];
    assert!(against.paired && against.run == 1);
    let sets = against.sets().unwrap();
    let differing: Vec<(usize, usize)> =
        sets.heads.iter().filter(|head| head.differs).map(|head| (head.layer, head.kv_head)).collect();
    assert_eq!(differing, [(3, 1)]);
    // Ten tokens of forty more are merged into one set.
    assert!(
        (sets.heads[3].difference.estimate + 0.25).abs() < 1e-9 && (sets.difference.estimate + 0.0625).abs() < 1e-9
    );
    assert_eq!((sets.id.eps, sets.n_differ, sets.heads.len()), (Some(0.75), 1, 4));
    // Both are of one model, and are called by their folders; a run named twice has a number.
    assert_eq!(comparison.runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let same = compare(&[a.clone(), a.clone()], 7).unwrap();
    let figures = &same.against_first[0].figures;
    assert!(figures.iter().all(|figure| figure.n_differ == 0 && figure.difference.estimate == 0.0), "{same:?}");
    assert_eq!(figures[0].rank_agreement.map(|rho| rho.estimate), Some(1.0));
    assert_eq!((same.runs[0].name.as_str(), same.runs[1].name.as_str()), ("1: a", "2: a"));
    assert_eq!(compare(&[a, b], 7).unwrap(), comparison);
}

/// Samples whose first tokens are a run in every head: `[data set][sample]` tokens of 40 in layer 1, 8 more in layer 3.
fn planted_runs(dir: &Path, name: &str, datasets: &[(&'static str, [usize; 2])]) {
    let vectors: Vec<_> = datasets
        .iter()
        .flat_map(|(_, runs)| runs)
        .map(|run| {
            move |_: State, layer: usize, _: usize, token: usize| {
                let mut vector = [0.0; DIM];
                vector[if token < run + if layer == 3 { 8 } else { 0 } { 3 } else { token % 2 }] = 1.0;
                vector
            }
        })
        .collect();
    let samples: Vec<Planted<'_>> = datasets
        .iter()
        .flat_map(|(dataset, _)| [(*dataset, "0"), (*dataset, "1")])
        .zip(&vectors)
        .map(|((dataset, id), vectors)| Planted { dataset, id, n_tokens: 40, heavy: None, vectors })
        .collect();
    let options = AnalyzeOptions { shares: NONE_PROTECTED, budgets: Vec::new(), ..AnalyzeOptions::default() };
    run(dir, name, &samples, &options);
}

#[test]
fn three_runs_are_told_apart_by_data_set_and_depth() {
    let dir = tempfile::tempdir().unwrap();
    // A run of n of 40 tokens leaves 41 - n sets. Data sets are 2 tokens apart within a run, runs 8 and 16 on a data set.
    for (name, more) in [("a", 0), ("b", 8), ("c", 16)] {
        planted_runs(dir.path(), name, &[("x", [5 + more, 7 + more]), ("y", [7 + more, 9 + more])]);
    }
    let dirs = ["a", "b", "c"].map(|name| dir.path().join(name));
    let comparison = compare(&dirs, 3).unwrap();
    assert_eq!((comparison.runs.len(), comparison.against_first.len(), comparison.eps), (3, 2, 0.75));
    let near = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-9, "{got} for {expected}");
    let sets = comparison.runs[0].sets.as_ref().unwrap();
    let [x, y] = sets.datasets.as_slice() else { panic!("{sets:?}") };
    // x: 36 and 34 sets of 40 in layer 1, 28 and 26 in layer 3.
    near(x.layers[0].estimate, 35.0 / 40.0);
    near(x.layers[1].estimate, 27.0 / 40.0);
    near(x.mean.estimate, 31.0 / 40.0);
    near(y.layers[0].estimate, 33.0 / 40.0);
    assert!(x.layers[0].low.unwrap() < 0.875 && x.layers[0].high.unwrap() > 0.875 && x.n_samples == 2);
    near(sets.heads[0].mean.estimate, 34.0 / 40.0);
    assert_eq!(sets.most_merging(2).iter().map(|head| head.layer).collect::<Vec<_>>(), [3, 3]);
    near(sets.between_datasets.unwrap().estimate, 2.0 / 40.0);
    let distances = comparison.distances;
    near(distances.between_datasets.unwrap().estimate, 2.0 / 40.0);
    // Of three pairs of runs two are 8 tokens apart and one 16.
    near(distances.between_runs.unwrap().estimate, (8.0 + 8.0 + 16.0) / 3.0 / 40.0);
    assert!(distances.difference.unwrap().low.unwrap() > 0.0);
    let verdict = comparison.verdict();
    assert_eq!(verdict.len(), 3, "{verdict:?}");
    assert!(verdict[0].starts_with("c merges most, with 0.350 ("), "{verdict:?}");
    assert!(verdict[0].contains("before b with 0.550 (") && verdict[0].contains(" and a with 0.750 ("), "{verdict:?}");
    assert!(
        verdict[1].starts_with(
            "The runs differ more than the data sets do: at equal depth, two data sets of one run lie 0.050"
        )
    );
    assert!(
        verdict[2].starts_with("Head by head against a: b differs in 4 of 4, by -0.200 to -0.200 on average"),
        "{verdict:?}"
    );
}

#[test]
fn runs_of_other_heads_are_compared_where_they_can_be() {
    let dir = tempfile::tempdir().unwrap();
    runs(dir.path(), "a", 5);
    let [a, other] = ["a", "other"].map(|name| dir.path().join(name));
    let write = |analysis: &Analysis| kvscope::files::write_json(&other.join("analysis.json"), analysis).unwrap();
    let mut analysis = runs(dir.path(), "other", 5);
    // The same table under another model's name, with another number of layers.
    analysis.model.name = "other".into();
    analysis.model.fingerprint = "g".into();
    analysis.layers = vec![1];
    write(&analysis);
    let comparison = compare(&[a.clone(), other.clone()], 0).unwrap();
    let against = &comparison.against_first[0];
    let sets = against.sets().unwrap();
    assert!(against.paired && sets.heads.is_empty() && sets.rank_agreement.is_none() && !sets.differs());
    let said = "Heads of other (1 layer x 2 heads) are not compared one by one with those of toy (2 layers x 2 heads).";
    let verdict = comparison.verdict();
    assert_eq!(verdict.last().unwrap(), &said.replace("toy", &comparison.runs[0].name), "{verdict:?}");
    // By other rules nothing is comparable.
    analysis.bridge = true;
    write(&analysis);
    let error = compare(&[a.clone(), other.clone()], 0).unwrap_err();
    assert!(matches!(&error, AnalyzeError::RulesDiffer { what: "bridging", .. }), "{error}");
    assert!(error.to_string().contains("true in other") && error.hint().is_some(), "{error}");
    std::fs::remove_file(other.join("stats.parquet")).unwrap();
    analysis.bridge = false;
    write(&analysis);
    assert!(compare(&[a.clone(), other.clone()], 0).unwrap_err().to_string().contains("stats.parquet"));
    let error = compare(&vec![a; 10], 0).unwrap_err();
    assert!(
        error.to_string().contains("10 runs cannot be compared: a comparison has 2 to 9") && error.hint().is_some()
    );
    assert!(compare(&[other], 0).is_err());
}

/// Set `KVSCOPE_PYTHON` to a Python that has polars and duckdb if `python3` does not.
#[test]
#[ignore = "needs Python with polars and duckdb"]
fn polars_and_duckdb_read_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let analysis = runs(dir.path(), "a", 5);
    let python = std::env::var_os("KVSCOPE_PYTHON").unwrap_or_else(|| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python/read_stats.py");
    let output = Command::new(python).arg(script).arg(dir.path().join("a/stats.parquet")).arg("0.75").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let at = analysis.reference_eps;
    let layer = |heads: std::ops::Range<usize>| {
        analysis.datasets[0].sparsity[heads].iter().map(|head| head.set_ratio[at].unwrap()).sum::<f64>() / 2.0
    };
    // Of each of 6 samples and 4 heads: cosines and pairs of 2 states, 14 thresholds of 3 figures with and without
    // bridging, gap, prediction, and 5 rules at 1 budget.
    let (with_eps, without) = (6 * 4 * 14 * 6, 6 * 4 * (4 + 2 + 5));
    for reader in ["polars", "duckdb"] {
        let answer = &answers[reader];
        assert_eq!(answer["rows"], with_eps + without, "{reader}");
        assert_eq!(answer["rows_without_eps"], without, "{reader}");
        assert_eq!(answer["columns"].as_array().unwrap().len(), 11, "{reader}");
        for (name, expected) in [("1", layer(0..2)), ("3", layer(2..4))] {
            let got = answer["set_ratio"][name].as_f64().unwrap();
            assert!((got - expected).abs() < 1e-9, "{reader}, layer {name}: {got} for {expected}");
        }
    }
}
