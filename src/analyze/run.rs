//! The analysis itself: samples one after the other, the heads of a sample in parallel.

use std::path::Path;

use rayon::iter::IntoParallelRefMutIterator;
use rayon::iter::ParallelIterator;

use crate::analyze::Agreement;
use crate::analyze::Analysis;
use crate::analyze::AnalyzeError;
use crate::analyze::AnalyzeOptions;
use crate::analyze::DatasetAnalysis;
use crate::analyze::HeadSimilarity;
use crate::analyze::StateSimilarity;
use crate::analyze::maps::MapFile;
use crate::analyze::persistence::PersistenceOptions;
use crate::analyze::persistence::SampleRatios;
use crate::analyze::persistence::persistence;
use crate::analyze::plan::DatasetPlan;
use crate::analyze::plan::RunPlan;
use crate::analyze::plan::entry;
use crate::analyze::similarity::COARSE_BINS;
use crate::analyze::similarity::Directions;
use crate::analyze::similarity::HeadCounters;
use crate::analyze::similarity::Sum;
use crate::analyze::sparsity::SampleSets;
use crate::analyze::sparsity::SetCounters;
use crate::analyze::sparsity::SetRule;
use crate::analyze::table::StatsRow;
use crate::analyze::table::StatsTable;
use crate::dump::Dump;
use crate::dump::Sample;
use crate::dump::State;
use crate::files::Document;
use crate::files::Provenance;
use crate::files::create_dir;
use crate::files::write_json;
use crate::math::bootstrap_mean;
use crate::math::mean;
use crate::math::spearman;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 10_000;

/// Analyses dumps of one model and writes `analysis.json`, `stats.parquet` and `maps/*.safetensors` below `out_dir`.
///
/// A data set may be spread over several dumps, as the shards of a capture are; a state is analysed where all of its
/// samples have it. Incomplete dumps are analysed as they are: the provenance says how many samples were planned and
/// how many were found. `progress` is told the samples and maps that are done, and their total.
///
/// - Memory: per thread one head's states, `[T, D]` in f32; about 100 KB of counters per head of one data set; 8 bytes per
///   sample and head
/// - Cost:   O(T·D·lags) per head, state and sample; O(T²·D) per map
/// - Errors: dumps of different models or layers, dumps without keys and values, damaged files, unusable options
pub fn analyze(
    dumps: &[Dump],
    options: &AnalyzeOptions,
    out_dir: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Analysis, AnalyzeError> {
    let reference_eps = options.check()?;
    let plan = RunPlan::new(dumps, options)?;
    let model = dumps[plan.datasets[0].samples[0].0].manifest().model.clone();
    create_dir(out_dir)?;
    if !options.maps.is_empty() {
        create_dir(&out_dir.join("maps"))?;
    }
    let mut table = StatsTable::create(&out_dir.join("stats.parquet"), &model)?;
    let n_maps: usize =
        plan.datasets.iter().map(|d| d.samples.len().min(options.map_samples) * options.maps.len()).sum();
    let total = plan.n_samples() + n_maps;
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress(done, total);
    };

    let (mut datasets, mut kept_fraction, mut maps) = (Vec::new(), Vec::new(), Vec::new());
    let mut ratios: Vec<SampleRatios> = Vec::new();
    for (index, dataset) in plan.datasets.iter().enumerate() {
        let mut run = DatasetRun::new(&plan, dataset, options, reference_eps);
        for sample in &dataset.samples {
            run.add(&dumps[sample.0].sample(sample.1)?, &mut table)?;
            step();
        }
        kept_fraction.push(bootstrap_mean(&run.kept_fractions[reference_eps], RESAMPLES, options.seed));
        let in_dataset = std::mem::take(&mut run.ratios).into_iter();
        ratios.extend(in_dataset.map(|(n_tokens, ratios)| SampleRatios { dataset: index, n_tokens, ratios }));
        datasets.push(run.finish(dataset, dumps));
        for (number, sample) in dataset.samples.iter().take(options.map_samples).enumerate() {
            let sample = dumps[sample.0].sample(sample.1)?;
            for request in &options.maps {
                let map = MapFile { model: &model, sample: &sample, request: *request, dataset: index, number };
                maps.push(map.write(out_dir)?);
                step();
            }
        }
    }
    table.finish()?;

    let heads: Vec<(usize, usize)> = plan.heads().collect();
    let persistence_options = PersistenceOptions {
        eps_grid: &options.eps_grid,
        reference_eps,
        tolerance: options.tolerance,
        seed: options.seed,
        heads: &heads,
    };
    let persistence = persistence(&ratios, &datasets, persistence_options);
    let options_json = options.to_json(plan.dumps);
    let analysis = Analysis {
        schema: Analysis::schema_id(),
        provenance: Provenance::new("analyze", options.seed, options_json, plan.inputs),
        model,
        layers: plan.layers,
        lags: options.lags.clone(),
        eps_grid: options.eps_grid.clone(),
        reference_eps,
        shares: options.shares,
        bridge: options.bridge,
        agreement: agreement(&datasets, reference_eps),
        datasets,
        kept_fraction,
        persistence: Some(persistence),
        maps,
    };
    // Last, so that whoever finds it finds the files that it names.
    write_json(&out_dir.join("analysis.json"), &analysis)?;
    Ok(analysis)
}

/// Counters of one head over a data set.
#[derive(Debug)]
struct HeadRun {
    layer: usize,
    kv_head: usize,
    similarity: Vec<HeadCounters>,
    sets: SetCounters,
}

/// What one sample adds in one head.
struct HeadSample {
    layer: usize,
    kv_head: usize,
    neighbours: Vec<Sum>,
    sets: Option<SampleSets>,
}

/// A data set while its samples are read.
struct DatasetRun<'a> {
    states: &'a [State],
    has_sets: bool,
    options: &'a AnalyzeOptions,
    heads: Vec<HeadRun>,
    reference_eps: usize,
    /// Per threshold: every sample's mean over its heads.
    kept_fractions: Vec<Vec<f64>>,
    /// Tokens and set ratios at the reference threshold of every sample with unprotected tokens.
    ratios: Vec<(usize, Vec<f64>)>,
}

impl<'a> DatasetRun<'a> {
    fn new(plan: &RunPlan, dataset: &'a DatasetPlan, options: &'a AnalyzeOptions, reference_eps: usize) -> Self {
        let head = |layer, kv_head| HeadRun {
            layer,
            kv_head,
            similarity: vec![HeadCounters::new(options.lags.len()); dataset.states.len()],
            sets: SetCounters::new(options.eps_grid.len()),
        };
        let heads = plan.heads().map(|(layer, h)| head(layer, h)).collect();
        let kept_fractions = vec![Vec::new(); options.eps_grid.len()];
        Self {
            states: &dataset.states,
            has_sets: dataset.has_sets,
            options,
            heads,
            reference_eps,
            kept_fractions,
            ratios: Vec::new(),
        }
    }

    fn add(&mut self, sample: &Sample<'_>, table: &mut StatsTable) -> Result<(), AnalyzeError> {
        let (states, has_sets, options) = (self.states, self.has_sets, self.options);
        let found: Vec<HeadSample> = self
            .heads
            .par_iter_mut()
            .map(|head| head.add(sample, states, has_sets, options))
            .collect::<Result<_, AnalyzeError>>()?;
        if has_sets {
            for (index, units) in self.kept_fractions.iter_mut().enumerate() {
                let kept: Vec<f64> =
                    found.iter().filter_map(|h| h.sets.as_ref()).map(|s| s.kept_fraction[index]).collect();
                units.extend(mean(&kept));
            }
        }
        // Protected tokens are as many in every head, so that all have a ratio or none has.
        let at_reference = |head: &HeadSample| head.sets.as_ref()?.set_ratio[self.reference_eps];
        if let Some(ratios) = found.iter().map(at_reference).collect::<Option<Vec<f64>>>() {
            self.ratios.push((sample.entry().n_tokens, ratios));
        }
        found.iter().try_for_each(|head| self.tabulate(sample, head, table))
    }

    fn tabulate(&self, sample: &Sample<'_>, head: &HeadSample, table: &mut StatsTable) -> Result<(), AnalyzeError> {
        let row = |state, metric, eps, value| StatsRow {
            sample: sample.entry(),
            layer: head.layer,
            kv_head: head.kv_head,
            state,
            metric,
            eps,
            value,
        };
        for (state, sum) in self.states.iter().zip(&head.neighbours) {
            table.push(&row(*state, "neighbour_cosine_mean", None, sum.mean()))?;
            table.push(&row(*state, "neighbour_pairs", None, Some(sum.n() as f64)))?;
        }
        let Some(sets) = &head.sets else { return Ok(()) };
        for (index, eps) in self.options.eps_grid.iter().enumerate() {
            let largest = sets.largest_set[index] as f64;
            table.push(&row(State::K, "set_ratio", Some(*eps), sets.set_ratio[index]))?;
            table.push(&row(State::K, "kept_fraction", Some(*eps), Some(sets.kept_fraction[index])))?;
            table.push(&row(State::K, "largest_set", Some(*eps), Some(largest)))?;
        }
        Ok(())
    }

    fn finish(self, plan: &DatasetPlan, dumps: &[Dump]) -> DatasetAnalysis {
        let similarity = self.states.iter().enumerate().map(|(index, state)| {
            let mut histogram = vec![0; COARSE_BINS];
            let mut heads = Vec::with_capacity(self.heads.len());
            for head in &self.heads {
                let counters = &head.similarity[index];
                counters.add_to(&mut histogram);
                heads.push(HeadSimilarity {
                    layer: head.layer,
                    kv_head: head.kv_head,
                    neighbours: counters.neighbours(),
                    locality: counters.locality(),
                });
            }
            StateSimilarity { state: *state, histogram, heads }
        });
        DatasetAnalysis {
            dataset: plan.dataset.clone(),
            n_samples: plan.samples.len(),
            n_tokens: plan.samples.iter().map(|sample| entry(dumps, *sample).n_tokens).sum(),
            similarity: similarity.collect(),
            sparsity: if self.has_sets {
                self.heads.into_iter().map(|head| head.sets.finish(head.layer, head.kv_head)).collect()
            } else {
                Vec::new()
            },
        }
    }
}

impl HeadRun {
    fn add(
        &mut self,
        sample: &Sample<'_>,
        states: &[State],
        has_sets: bool,
        options: &AnalyzeOptions,
    ) -> Result<HeadSample, AnalyzeError> {
        let (layer, kv_head) = (self.layer, self.kv_head);
        let n_tokens = sample.entry().n_tokens;
        let mut found = HeadSample { layer, kv_head, neighbours: Vec::with_capacity(states.len()), sets: None };
        for (state, counters) in states.iter().zip(&mut self.similarity) {
            let rows = sample.vectors(layer, *state, kv_head)?;
            let dim = rows.len() / n_tokens;
            if *state == State::K && has_sets {
                let mass = sample.mass(layer, kv_head)?;
                let rule = SetRule { shares: options.shares, bridge: options.bridge, eps_grid: &options.eps_grid };
                let sets = SampleSets::of(&rows, dim, &mass, rule);
                self.sets.add(&sets);
                found.sets = Some(sets);
            }
            found.neighbours.push(counters.add(&Directions::new(rows, dim), &options.lags));
        }
        Ok(found)
    }
}

/// Spearman's rho of the heads' set ratios for every pair of data sets.
fn agreement(datasets: &[DatasetAnalysis], reference_eps: usize) -> Vec<Agreement> {
    let mut pairs = Vec::new();
    for (index, a) in datasets.iter().enumerate() {
        for b in &datasets[index + 1..] {
            // Both lists are by layer and head, or empty.
            let both = a.sparsity.iter().zip(&b.sparsity);
            let (x, y): (Vec<f64>, Vec<f64>) =
                both.filter_map(|(a, b)| a.set_ratio[reference_eps].zip(b.set_ratio[reference_eps])).unzip();
            pairs.push(Agreement { a: a.dataset.clone(), b: b.dataset.clone(), spearman: spearman(&x, &y) });
        }
    }
    pairs
}
