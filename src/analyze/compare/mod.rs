//! Two or more analyses beside each other: models, quantisations of one model, lengths of text. Heads are compared one by one where
//! runs have the same ones.

mod depth;
mod pair;

use std::path::PathBuf;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::analyze::AnalyzeError;
use crate::files::{Document, InputHash, Provenance, read_json, sha256_file};
use crate::format::analysis::{Analysis, Evidence, FILE};
use crate::format::comparison::{ComparedRun, Comparison, FigureId, MOST_RUNS, RunFigure, RunSets};
use crate::format::stats::{FigureKey, Stats, read_stats};
use crate::math::{Resamples, bootstrap_mean, mean};

/// What is compared, in the order in which it is told.
const METRICS: [&str; 6] =
    ["set_ratio", "kept_fraction", "neighbour_cosine_mean", "logit_gap", "cosine_predicts_gap", "output_error"];

/// A run as it was saved.
struct Saved {
    name: String,
    analysis: Analysis,
    stats: Stats,
}

/// Compares the analyses in folders that [`crate::analyze::analyze`] wrote, every further one with the first.
///
/// Intervals are 95 % bootstrap intervals over samples: of the same samples in two runs pairs are drawn, of different ones
/// each run's are drawn by themselves. Heads are compared one by one where both runs have the same layers and as many heads.
///
/// - Errors: fewer than two folders or more than [`MOST_RUNS`], runs that were measured by different rules, unreadable files, a run
///   that has no figure in common with the first
/// - Cost: O(figures · heads · samples · resamples) for each run
pub fn compare(dirs: &[PathBuf], seed: u64) -> Result<Comparison, AnalyzeError> {
    if !(2..=MOST_RUNS).contains(&dirs.len()) {
        return Err(AnalyzeError::NumberOfRuns { n: dirs.len(), most: MOST_RUNS });
    }
    let analyses =
        dirs.iter().map(|dir| Ok(read_json(&dir.join(FILE))?)).collect::<Result<Vec<Analysis>, AnalyzeError>>()?;
    let names = names(&analyses, dirs);
    for (analysis, name) in analyses.iter().zip(&names).skip(1) {
        check((&analyses[0], &names[0]), (analysis, name))?;
    }
    let reference = analyses[0].eps_grid.get(analyses[0].reference_eps).copied().unwrap_or(f32::NAN);
    let eps = reference.to_string();
    let wanted =
        |key: &FigureKey| METRICS.contains(&key.metric.as_str()) && key.eps.as_ref().is_none_or(|other| *other == eps);
    let mut runs = Vec::new();
    for ((dir, analysis), name) in dirs.iter().zip(analyses).zip(names) {
        let stats = read_stats(&dir.join("stats.parquet"), &wanted)?;
        runs.push(Saved { name, analysis, stats });
    }
    let resamples = Resamples::of_tables(seed);
    let mut against_first = Vec::new();
    for (at, run) in runs.iter().enumerate().skip(1) {
        let against = pair::against(at, &runs[0], run, resamples);
        if against.figures.is_empty() {
            return Err(AnalyzeError::NothingToCompare { a: runs[0].name.clone(), b: run.name.clone() });
        }
        against_first.push(against);
    }
    let inputs = dirs.iter().zip(&runs).map(|(dir, run)| {
        Ok(InputHash { name: format!("{}/{FILE}", run.name), sha256: sha256_file(&dir.join(FILE))? })
    });
    let inputs = inputs.collect::<Result<Vec<_>, AnalyzeError>>()?;
    let (sets, distances) = depth::sets(&runs, resamples);
    Ok(Comparison {
        schema: Comparison::schema_id(),
        provenance: Provenance::new("analyze --compare", seed, serde_json::json!({ "resamples": resamples.n }), inputs),
        eps: reference,
        runs: runs.into_iter().zip(sets).map(|(run, sets)| compared(run, sets, seed)).collect(),
        distances,
        against_first,
    })
}

fn compared(Saved { name, analysis, stats }: Saved, sets: Option<RunSets>, seed: u64) -> ComparedRun {
    let mut all: Vec<_> = stats.iter().collect();
    all.sort_by_key(|(key, _)| place(key));
    let figure = |(key, samples): &(&FigureKey, &pair::BySample)| {
        let (_, rows) = pair::table(samples, &pair::complete_heads([*samples]));
        let units: Vec<f64> = rows.iter().filter_map(mean).collect();
        Some(RunFigure { id: id(key), mean: bootstrap_mean(&units, Resamples::of_means(seed))? })
    };
    let figures = all.par_iter().filter_map(figure).collect();
    ComparedRun {
        name,
        figures,
        sets,
        n_samples: analysis.datasets.iter().map(|dataset| dataset.n_samples).sum(),
        n_tokens: analysis.datasets.iter().map(|dataset| dataset.n_tokens).sum(),
        datasets: analysis.datasets.into_iter().map(|dataset| dataset.dataset).collect(),
        layers: analysis.layers,
        model: analysis.model,
    }
}

/// Where a figure is told.
fn place(key: &FigureKey) -> Option<usize> {
    METRICS.iter().position(|metric| *metric == key.metric)
}

fn id(key: &FigureKey) -> FigureId {
    let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
    FigureId {
        metric: key.metric.clone(),
        state: key.state.clone(),
        eps: number(&key.eps),
        budget: number(&key.budget),
        rule: key.rule.clone(),
    }
}

fn evidence(analysis: &Analysis) -> Option<&Evidence> {
    analysis.persistence.as_ref()?.evidence.as_ref()
}

/// What runs are called: by their models, or where two are of one model by their folders, or where these are alike by number, too.
fn names(analyses: &[Analysis], dirs: &[PathBuf]) -> Vec<String> {
    let differ = |names: &[String]| (1..names.len()).all(|at| !names[..at].contains(&names[at]));
    let models: Vec<String> = analyses.iter().map(|analysis| analysis.model.name.clone()).collect();
    if differ(&models) {
        return models;
    }
    let folder = |dir: &PathBuf| {
        let whole = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        whole.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned())
    };
    let folders: Vec<String> = dirs.iter().map(folder).collect();
    if differ(&folders) {
        return folders;
    }
    folders.iter().enumerate().map(|(at, folder)| format!("{}: {folder}", at + 1)).collect()
}

fn check((a, name_a): (&Analysis, &str), (b, name_b): (&Analysis, &str)) -> Result<(), AnalyzeError> {
    let reference = |x: &Analysis| x.eps_grid.get(x.reference_eps).copied();
    let rules = [
        ("reference eps", format!("{:?}", reference(a)), format!("{:?}", reference(b))),
        ("protected shares", format!("{:?}", a.shares), format!("{:?}", b.shares)),
        ("bridging", a.bridge.to_string(), b.bridge.to_string()),
    ];
    match rules.into_iter().find(|(_, a, b)| a != b) {
        Some((what, a, b)) => {
            Err(AnalyzeError::RulesDiffer { what, a: format!("{a} in {name_a}"), b: format!("{b} in {name_b}") })
        }
        None => Ok(()),
    }
}
