//! The analysis itself: samples one after the other, the heads of a sample in parallel.

use std::path::Path;

use crate::analyze::agreement::{agreement, agreement_verdict};
use crate::analyze::dataset::DatasetRun;
use crate::analyze::explorer;
use crate::analyze::explorer::{Explored, ExplorerPlan};
use crate::analyze::maps;
use crate::analyze::maps::{MapFile, MapMaker};
use crate::analyze::persistence::{PersistenceOptions, SampleRatios, persistence};
use crate::analyze::plan::RunPlan;
use crate::analyze::queries::{SampleErrors, query_aware};
use crate::analyze::sparsity::{OverlapCounters, SIZE_BINS};
use crate::analyze::{AnalyzeError, AnalyzeOptions};
use crate::files::{Document, FolderLock, InputHash, Provenance, check_replaceable, read_own_json, write_json};
use crate::format::analysis::{Analysis, FILE, SetOverlap};
use crate::format::dump::Dump;
use crate::format::stats::{StatsTable, TABLE_FILE};
use crate::math::{Resamples, bootstrap_mean};

/// Above this many layers their overlap, a square of numbers, is left out.
const MAX_OVERLAP_LAYERS: usize = 512;

/// Analyses dumps of one model and writes `analysis.json`, `stats.parquet`, `explorer.safetensors` and `maps/*.safetensors` below
/// `out_dir`.
///
/// A data set may be spread over several dumps, as the shards of a capture are; a state is analysed where all of its
/// samples have it. Samples of the same tokens count once, under the name of the first: two would be taken for independent ones. Incomplete dumps are analysed as they are: the provenance says how many samples were planned and
/// how many were found. `progress` is told the samples and maps that are done, and their total.
///
/// - Memory: per thread one head's states, `[T, D]` in f32; about 100 KB of counters per head of one data set; 8 bytes per
///   sample and head
/// - Cost:   O(T·D·lags) per head, state and sample; O(T²·D) per map
/// - Errors: dumps of different models or layers, dumps without keys and values, damaged or changed files, unusable options, a
///   folder that another process writes to or whose `analysis.json` is not one
pub fn analyze(
    dumps: &[Dump],
    options: &AnalyzeOptions,
    out_dir: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Analysis, AnalyzeError> {
    let reference_eps = options.check()?;
    let plan = RunPlan::new(dumps, options)?;
    let model = dumps[plan.datasets[0].samples[0].0].manifest().model.clone();
    let _lock = FolderLock::take(out_dir)?;
    let path = out_dir.join(FILE);
    check_replaceable::<Analysis>(&path)?;
    // Of a file that cannot be read it is not known which maps are its own: they stay.
    let earlier = read_own_json::<Analysis>(&path).map(|analysis| analysis.maps).unwrap_or_default();
    let mut table = StatsTable::create(&out_dir.join(TABLE_FILE), &model)?;
    let n_maps: usize =
        plan.datasets.iter().map(|d| d.samples.len().min(options.map_samples) * options.maps.len()).sum();
    let explored = Explored::new(dumps, &plan, options, &model);
    let total = plan.n_samples() + n_maps + explored.n_samples();
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress(done, total);
    };

    let (mut datasets, mut kept_fraction, mut maps) = (Vec::new(), Vec::new(), Vec::new());
    let mut maker = MapMaker::default();
    let mut ratios: Vec<SampleRatios> = Vec::new();
    let mut errors: Vec<SampleErrors> = Vec::new();
    let few_enough = plan.layers.len() <= MAX_OVERLAP_LAYERS;
    let mut overlap = few_enough.then(|| OverlapCounters::new(plan.layers.len(), plan.kv_heads.len()));
    for (index, dataset) in plan.datasets.iter().enumerate() {
        let mut run = DatasetRun::new(&plan, dataset, options, reference_eps);
        for sample in &dataset.samples {
            let sample = dumps[sample.0].sample(sample.1)?;
            sample.verified(|| run.add(&sample, overlap.as_mut(), &mut table))?;
            step();
        }
        kept_fraction.push(bootstrap_mean(&run.kept_fractions, Resamples::of_headline(options.seed)));
        let in_dataset = std::mem::take(&mut run.ratios).into_iter();
        ratios.extend(in_dataset.map(|(n_tokens, ratios)| SampleRatios { dataset: index, n_tokens, ratios }));
        errors.append(&mut run.errors);
        datasets.push(run.finish(dataset, dumps));
    }
    // Behind all samples, so that nothing is left of an analysis that cannot read one.
    for (index, dataset) in plan.datasets.iter().enumerate() {
        for (number, sample) in dataset.samples.iter().take(options.map_samples).enumerate() {
            let sample = dumps[sample.0].sample(sample.1)?;
            for request in &options.maps {
                let map = MapFile { model: &model, sample: &sample, request: *request, dataset: index, number };
                maps.push(map.write(out_dir, &mut maker)?);
                step();
            }
        }
    }
    let explorer = match ExplorerPlan::new(dumps, (&plan, &explored), &datasets, options, &model)? {
        Some(explorer) => Some(explorer.write(dumps, out_dir, &mut step)?),
        None => None,
    };
    let table = InputHash { name: TABLE_FILE.into(), sha256: table.finish()? };

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
    let overlap = overlap.filter(|_| datasets.iter().any(|dataset| !dataset.sparsity.is_empty()));
    let set_overlap = overlap.map(|overlap| {
        let [dice, chance] = overlap.finish();
        SetOverlap { dice, chance }
    });
    let agreement = agreement(&datasets, reference_eps);
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
        agreement_verdict: agreement_verdict(&agreement),
        agreement,
        datasets,
        kept_fraction,
        persistence: Some(persistence),
        set_size_bins: SIZE_BINS.to_vec(),
        set_overlap,
        queries: query_aware(&errors, options),
        maps,
        table: Some(table),
        explorer,
        not_explored: explored.left_out,
        same_texts: plan.same_texts,
    };
    // Last, so that whoever finds it finds the files that it names.
    write_json(&path, &analysis)?;
    maps::remove(out_dir, &earlier, &analysis.maps)?;
    if analysis.explorer.is_none() {
        explorer::remove(out_dir)?;
    }
    Ok(analysis)
}
