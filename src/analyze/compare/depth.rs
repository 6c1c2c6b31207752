//! Merging sets by relative depth: do the lines of data sets lie together within a run, and apart between runs?

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::analyze::compare::pair::{complete_heads, table};
use crate::analyze::compare::{Saved, evidence};
use crate::format::comparison::{DatasetSets, Distances, HeadSets, RunSets, relative_depth};
use crate::math::{Interval, Mean, Resamples, centred_interval, mean};

/// Depths at which lines are compared, from 0 to 1.
const DEPTHS: usize = 21;

/// A run's set ratios at the reference eps.
struct Run {
    /// Layers with their relative depths, rising.
    layers: Vec<(usize, f64)>,
    /// Heads that all samples have, by layer and head.
    heads: Vec<(usize, usize)>,
    datasets: Vec<Dataset>,
}

struct Dataset {
    name: String,
    /// Which samples are drawn together: those of the same name and row ids, in whatever run.
    stream: usize,
    /// `[samples][heads]`.
    rows: Vec<Vec<f64>>,
}

/// A line: relative depth, rising, and the mean over the heads of a layer.
type Line = Vec<(f64, f64)>;

/// All numbers that have an interval, of the samples as they are or drawn anew.
struct Numbers {
    runs: Vec<OfRun>,
    between_datasets: Option<f64>,
    between_runs: Option<f64>,
}

struct OfRun {
    /// Mean, then every layer's, by data set.
    datasets: Vec<Vec<f64>>,
    heads: Vec<f64>,
    between_datasets: Option<f64>,
}

/// What every run's merging sets are, and how far apart the lines lie. A run without sets has none, and no part in the distances.
pub(super) fn sets(saved: &[Saved], resamples: Resamples) -> (Vec<Option<RunSets>>, Distances) {
    let mut streams = Vec::new();
    let runs: Vec<Option<Run>> = saved.iter().map(|run| Run::new(run, &mut streams)).collect();
    let known: Vec<&Run> = runs.iter().flatten().collect();
    let observed = numbers(&known, None);
    let draws: Vec<Numbers> = (0..resamples.n)
        .into_par_iter()
        .map(|draw| numbers(&known, Some(&|stream, n| chosen(resamples.seed, draw, stream, n))))
        .collect();
    let drawn = |of: &dyn Fn(&Numbers) -> Option<f64>, n: usize, (low, high): (f64, f64)| -> Option<Interval> {
        let values: Vec<f64> = draws.iter().filter_map(of).collect();
        let interval = centred_interval(of(&observed)?, &values, n);
        // Of one sample every draw is the same, which says nothing.
        let end = |end: Option<f64>| end.filter(|_| n > 1).map(|end| end.clamp(low, high));
        Some(Interval { low: end(interval.low), high: end(interval.high), ..interval })
    };
    let of_run = |at: usize, run: &Run, saved: &Saved| {
        let sizes = || run.datasets.iter().map(|dataset| dataset.rows.len());
        // Samples are drawn within data sets, so that one of a single sample leaves no spread.
        let n = if sizes().all(|n| n > 1) { sizes().sum() } else { 1 };
        let dataset = |(d, dataset): (usize, &Dataset)| {
            let number = |i: usize| {
                drawn(&|numbers| numbers.runs[at].datasets[d].get(i).copied(), dataset.rows.len(), (0.0, 1.0))
            };
            Some(DatasetSets {
                dataset: dataset.name.clone(),
                n_samples: dataset.rows.len(),
                mean: number(0)?,
                layers: (1..=run.layers.len()).map(number).collect::<Option<_>>()?,
            })
        };
        let head = |(h, (layer, kv_head)): (usize, &(usize, usize))| {
            let mean = drawn(&|numbers| numbers.runs[at].heads.get(h).copied(), n, (0.0, 1.0))?;
            Some(HeadSets { layer: *layer, kv_head: *kv_head, mean })
        };
        let evidence = evidence(&saved.analysis);
        RunSets {
            datasets: run.datasets.iter().enumerate().filter_map(dataset).collect(),
            heads: run.heads.iter().enumerate().filter_map(head).collect(),
            between_datasets: drawn(&|numbers| numbers.runs[at].between_datasets, n, (0.0, 1.0)),
            variance: evidence.and_then(|evidence| evidence.variance),
            kendall_w: evidence.and_then(|evidence| evidence.kendall_w),
            persistent_share: evidence.and_then(|evidence| evidence.persistent_share),
        }
    };
    let n = known.iter().flat_map(|run| &run.datasets).map(|dataset| dataset.rows.len());
    let n = if n.clone().all(|n| n > 1) { n.sum() } else { 1 };
    let distances = Distances {
        between_datasets: drawn(&|numbers| numbers.between_datasets, n, (0.0, 1.0)),
        between_runs: drawn(&|numbers| numbers.between_runs, n, (0.0, 1.0)),
        difference: drawn(&|numbers| Some(numbers.between_runs? - numbers.between_datasets?), n, (-1.0, 1.0)),
    };
    let mut at = 0;
    let sets = runs.iter().zip(saved).map(|(run, saved)| {
        let run = run.as_ref()?;
        at += 1;
        Some(of_run(at - 1, run, saved))
    });
    (sets.collect(), distances)
}

impl Run {
    /// `None` where the analysis has no sets, or no head of which all samples have some.
    fn new(saved: &Saved, streams: &mut Vec<(String, Vec<String>)>) -> Option<Self> {
        let samples = saved.stats.iter().find(|(key, _)| key.metric == "set_ratio")?.1;
        let heads = complete_heads([samples]);
        let (keys, rows) = table(samples, &heads);
        let mut datasets: Vec<(Dataset, Vec<String>)> = Vec::new();
        for name in saved.analysis.datasets.iter().map(|dataset| &dataset.dataset) {
            let of_it = || keys.iter().zip(&rows).filter(|((dataset, _), _)| dataset == name);
            let dataset =
                Dataset { name: name.clone(), stream: 0, rows: of_it().map(|(_, row)| row.clone()).collect() };
            datasets.push((dataset, of_it().map(|((_, id), _)| id.clone()).collect()));
        }
        datasets.retain(|(dataset, _)| !dataset.rows.is_empty());
        let mut stream = |(dataset, ids): (Dataset, Vec<String>)| {
            let samples = (dataset.name.clone(), ids);
            let known = streams.iter().position(|other| *other == samples);
            let stream = known.unwrap_or_else(|| {
                streams.push(samples);
                streams.len() - 1
            });
            Dataset { stream, ..dataset }
        };
        let depth = |layer: &usize| (*layer, relative_depth(*layer, saved.analysis.model.n_layers));
        let layers: Vec<(usize, f64)> = saved.analysis.layers.iter().map(depth).collect();
        let is_whole = layers.iter().all(|(layer, _)| heads.iter().any(|head| head.0 == *layer));
        (is_whole && !heads.is_empty() && !datasets.is_empty()).then(|| Self {
            layers,
            heads,
            datasets: datasets.into_iter().map(&mut stream).collect(),
        })
    }
}

/// Which of `n` samples a draw takes: the same for all data sets of one stream.
fn chosen(seed: u64, draw: usize, stream: usize, n: usize) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(((stream as u64) << 32) | draw as u64);
    (0..n).map(|_| random.random_range(0..n)).collect()
}

type Choose<'a> = &'a (dyn Fn(usize, usize) -> Vec<usize> + Sync);

fn numbers(runs: &[&Run], choose: Option<Choose<'_>>) -> Numbers {
    let lines: Vec<(OfRun, Vec<Line>)> = runs.iter().map(|run| of_run(run, choose)).collect();
    let mut between_runs = Mean::default();
    for (at, (run, (_, lines_of_run))) in runs.iter().zip(&lines).enumerate() {
        for (other, (_, lines_of_other)) in runs.iter().zip(&lines).skip(at + 1) {
            for (dataset, line) in run.datasets.iter().zip(lines_of_run) {
                let same = other.datasets.iter().position(|o| o.name == dataset.name);
                between_runs.extend(same.and_then(|same| distance(line, &lines_of_other[same])));
            }
        }
    }
    let of_runs = || lines.iter().filter_map(|(run, _)| run.between_datasets);
    let between_datasets = mean(of_runs());
    Numbers {
        between_datasets,
        between_runs: between_runs.get(),
        runs: lines.into_iter().map(|(run, _)| run).collect(),
    }
}

fn of_run(run: &Run, choose: Option<Choose<'_>>) -> (OfRun, Vec<Line>) {
    let n_heads = run.heads.len();
    let mut heads = vec![0.0; n_heads];
    let (mut datasets, mut lines) = (Vec::new(), Vec::<Line>::new());
    for dataset in &run.datasets {
        let n = dataset.rows.len();
        let rows = choose.map_or_else(|| (0..n).collect(), |choose| choose(dataset.stream, n));
        let mut means = vec![0.0; n_heads];
        for row in rows {
            means.iter_mut().zip(&dataset.rows[row]).for_each(|(mean, value)| *mean += value / n as f64);
        }
        heads.iter_mut().zip(&means).for_each(|(head, mean)| *head += mean / run.datasets.len() as f64);
        let mut layers: Vec<Mean> = vec![Mean::default(); run.layers.len()];
        for ((layer, _), value) in run.heads.iter().zip(&means) {
            if let Some(at) = run.layers.iter().position(|(other, _)| other == layer) {
                layers[at].add(*value);
            }
        }
        let layers: Vec<f64> = layers.iter().filter_map(|mean| mean.get()).collect();
        lines.push(run.layers.iter().map(|(_, depth)| *depth).zip(layers.iter().copied()).collect());
        datasets.push(mean(&means).into_iter().chain(layers).collect());
    }
    let mut apart = Mean::default();
    for (at, line) in lines.iter().enumerate() {
        apart.extend(lines[..at].iter().filter_map(|other| distance(line, other)));
    }
    (OfRun { datasets, heads, between_datasets: apart.get() }, lines)
}

/// Mean distance of two lines at the depths that both have; `None` where there is none.
fn distance(a: &Line, b: &Line) -> Option<f64> {
    let depths = (0..DEPTHS).map(|i| i as f64 / (DEPTHS - 1) as f64);
    mean(depths.filter_map(|depth| Some((at(a, depth)? - at(b, depth)?).abs())))
}

/// A line's value at a depth between its ends, from the points on either side.
fn at(line: &Line, depth: f64) -> Option<f64> {
    let after = line.partition_point(|point| point.0 < depth);
    let (x1, y1) = *line.get(after)?;
    if x1 == depth {
        return Some(y1);
    }
    let (x0, y0) = *line.get(after.checked_sub(1)?)?;
    Some(y0 + (y1 - y0) * (depth - x0) / (x1 - x0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(layers: &[f64], datasets: &[(&str, &[&[f64]])]) -> Run {
        let dataset = |(stream, (name, rows)): (usize, &(&str, &[&[f64]]))| Dataset {
            name: (*name).into(),
            stream,
            rows: rows.iter().map(|row| row.to_vec()).collect(),
        };
        Run {
            layers: layers.iter().copied().enumerate().collect(),
            heads: (0..layers.len()).map(|layer| (layer, 0)).collect(),
            datasets: datasets.iter().enumerate().map(dataset).collect(),
        }
    }

    #[test]
    fn lines_of_other_depths_are_compared_by_hand() {
        // Two layers, 0.2 to 0.6: at depth x 0.2 + 0.4 x. Three layers 0.2, 0.8, 0.6: up to 0.5 0.2 + 1.2 x, then 1 - 0.4 x.
        // They are 0.8 x apart up to the middle and 0.8 (1 - x) behind: at twentieths 2 · 0.04 · (1 + … + 9) + 0.4 over 21.
        let (two, three) = (vec![(0.0, 0.2), (1.0, 0.6)], vec![(0.0, 0.2), (0.5, 0.8), (1.0, 0.6)]);
        let expected = (2.0 * 0.04 * 45.0 + 0.4) / 21.0;
        assert!((distance(&two, &three).unwrap() - expected).abs() < 1e-12);
        // Lines over parts of a model are compared where both are.
        let (front, back) = (vec![(0.0, 0.1), (0.5, 0.1)], vec![(0.5, 0.4), (1.0, 0.9)]);
        assert!((distance(&front, &back).unwrap() - 0.3).abs() < 1e-12);
        assert_eq!(distance(&vec![(0.0, 0.1)], &vec![(1.0, 0.4)]), None);
    }

    #[test]
    fn data_sets_within_a_run_and_runs_on_a_data_set_by_hand() {
        // Means by layer: x 0.2 0.4, y 0.3 0.5: 0.1 apart. The other run has x alone, 0.6 0.8: 0.4 from x. Heads: 0.25, 0.45.
        let a = run(&[0.0, 1.0], &[("x", &[&[0.1, 0.5], &[0.3, 0.3]]), ("y", &[&[0.3, 0.5]])]);
        let b = run(&[0.0, 1.0], &[("x", &[&[0.6, 0.8]]), ("z", &[&[0.9, 0.9]])]);
        let found = numbers(&[&a, &b], None);
        let close = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-12, "{got} for {expected}");
        close(found.runs[0].between_datasets.unwrap(), 0.1);
        // z lies 0.3 and 0.1 above x, on a line between: 0.2 on average.
        close(found.runs[1].between_datasets.unwrap(), 0.2);
        close(found.between_datasets.unwrap(), 0.15);
        close(found.between_runs.unwrap(), 0.4);
        close(found.runs[0].heads[0], 0.25);
        close(found.runs[0].heads[1], 0.45);
        close(found.runs[0].datasets[0][0], 0.3);
        // Samples of one stream are drawn alike, and a draw is the same again.
        assert_eq!(chosen(3, 7, 0, 9), chosen(3, 7, 0, 9));
        assert_ne!(chosen(3, 7, 0, 9), chosen(3, 7, 1, 9));
        let alone = numbers(&[&b], None);
        assert_eq!(alone.between_runs, None);
    }
}
