//! The learning run: sum up, choose a ridge, solve, judge.

use rayon::prelude::*;
use serde_json::json;

use crate::capture::memory_of_machine;
use crate::files::{Document, ModelIdentity, Provenance};
use crate::format::dump::{Dump, check_model, sample_hashes};
use crate::format::profile::UsedSample;
use crate::format::scorer::Learning;
use crate::learn::LearnError;
use crate::learn::explained::Explained;
use crate::learn::memory::memory_needed;
use crate::learn::reading::{CHUNK_TOKENS, LEAST, OnRows, read};
use crate::math::{LinearMap, Rows, Scatter, mean};
use crate::merge::Repetition;
use crate::model::Model;
use crate::runtime::{Budget, Compression};
use crate::tune::{Place, chat_template, split_samples};

/// What is learned: the score of this policy.
const TEACHER: &str = "kvzip+";
/// Weights of the ridge that are tried, in units of each input's spread.
const LAMBDAS: [f64; 6] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
/// The one that a single calibration sample gets.
const LAMBDA: f64 = 1e-2;
/// One calibration sample in so many chooses the ridge; the second of them is the first to do so.
const CHOOSING: usize = 4;

/// What to learn from.
#[derive(Clone, Copy, Debug)]
pub struct LearnOptions {
    /// Share of each data set's samples that only judge.
    pub hold_out: f64,
    /// Seed of the split.
    pub seed: u64,
}

impl Default for LearnOptions {
    fn default() -> Self {
        Self { hold_out: 0.34, seed: 0 }
    }
}

/// What was learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// What from, and how well it predicts.
    pub learning: Learning,
    /// By layer, from vectors `[hidden]` to KV heads.
    pub maps: Vec<LinearMap>,
    /// Share of the held-out samples' variance that is predicted, by layer and KV head; `None` where none were held out, or nothing
    /// varies.
    pub r2: Vec<Option<f64>>,
}

/// Learns for every layer the map from a token's vector to the logarithm of its score in `kvzip+`.
///
/// Three of four calibration samples are solved for with every ridge, the fourth chooses among these, and all of them are solved
/// for with the chosen one. Held-out samples only judge.
///
/// - `progress`: samples that are done, and samples in all
/// - Cost:   four passes over each sample; O(T · hidden²) for the sums of each layer, O(hidden³) for each of its ridges
/// - Memory: [`memory_needed`]
/// - Source: KVzap (arXiv 2601.07891), its linear map. Differs: the ridge is in units of each input's spread
/// - Errors: dumps of another model, no sample, too little memory, a sample that the model cannot repeat
pub fn learn(
    model: &Model,
    dumps: &[Dump],
    options: &LearnOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Learned, LearnError> {
    let identity = model.identity()?;
    check_model(dumps, identity)?;
    let (calibration, held_out) = split_samples(dumps, options.hold_out, options.seed);
    if calibration.is_empty() {
        return Err(LearnError::NoSamples);
    }
    let longest = dumps.iter().flat_map(|dump| &dump.manifest().samples).map(|sample| sample.n_prompt_tokens).max();
    let needed = memory_needed(model, longest.unwrap_or(0));
    if let Some(available) = memory_of_machine().filter(|available| needed > *available) {
        return Err(LearnError::Memory { needed, available });
    }
    let mut work = Work {
        model,
        scoring: Compression::parse(TEACHER, Budget::KeptFraction(0.5))?,
        n_done: 0,
        n_all: calibration.len() + held_out.len(),
        progress,
    };
    let (n_kv_heads, hidden_size) = (identity.n_kv_heads, model.config().hidden_size);
    let width = hidden_size + n_kv_heads;
    let mut sums = vec![Scatter::new(width); identity.n_layers];
    let (choosing, fitting): (Vec<_>, Vec<_>) = (0..).zip(&calibration).partition(|(at, _)| at % CHOOSING == 1);
    for (_, place) in fitting {
        work.read(place, &mut |layer, x, y| sums[layer].add(Rows::new(&joined(x, y), width)))?;
    }
    let mut lambda = LAMBDA;
    if !choosing.is_empty() {
        let tried = LAMBDAS.map(|lambda| maps(&sums, hidden_size, lambda));
        let tried = tried.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut judges = vec![Judge::new(identity); tried.len()];
        for (_, place) in choosing {
            work.read(place, &mut |layer, x, y| {
                tried.iter().zip(&mut judges).for_each(|(maps, judge)| judge.add(maps, layer, x, y));
                sums[layer].add(Rows::new(&joined(x, y), width));
            })?;
        }
        let r2 = judges.iter().map(|judge| mean_r2(&judge.r2()).unwrap_or(f64::NEG_INFINITY));
        let best = LAMBDAS.into_iter().zip(r2).max_by(|a, b| a.1.total_cmp(&b.1));
        lambda = best.map_or(LAMBDA, |(lambda, _)| lambda);
    }
    let maps = maps(&sums, hidden_size, lambda)?;
    drop(sums);
    let mut judge = Judge::new(identity);
    for place in &held_out {
        work.read(place, &mut |layer, x, y| judge.add(&maps, layer, x, y))?;
    }
    let r2 = judge.r2();
    let used = |places: &[Place<'_>]| places.iter().map(|place| UsedSample::of(place.entry(), None)).collect();
    let learning = Learning {
        schema: Learning::schema_id(),
        provenance: provenance(dumps, options),
        model: identity.clone(),
        hidden_size,
        chat_template: chat_template(dumps),
        lambda,
        held_out_r2: r2.chunks(n_kv_heads).map(mean_r2).collect(),
        calibration: used(&calibration),
        held_out: used(&held_out),
    };
    Ok(Learned { learning, maps, r2 })
}

/// What every reading of a sample needs.
struct Work<'a> {
    model: &'a Model,
    scoring: Compression,
    n_done: usize,
    n_all: usize,
    progress: &'a mut dyn FnMut(usize, usize),
}

impl Work<'_> {
    fn read(&mut self, place: &Place<'_>, on_rows: OnRows<'_>) -> Result<(), LearnError> {
        let (sample, entry) = (place.open()?, place.entry());
        let mut tokens = sample.token_ids()?;
        tokens.truncate(entry.n_prompt_tokens);
        let (model, scoring) = (self.model, &self.scoring);
        sample.verified(|| {
            read(model, &tokens, scoring, on_rows).map_err(|source| LearnError::Sample {
                dataset: entry.dataset.clone(),
                id: entry.id.clone(),
                source,
            })
        })?;
        self.n_done += 1;
        (self.progress)(self.n_done, self.n_all);
        Ok(())
    }
}

/// Rows of both, side by side.
fn joined(x: Rows<'_>, y: Rows<'_>) -> Vec<f32> {
    x.iter().zip(y.iter()).flat_map(|(x, y)| x.iter().chain(y)).copied().collect()
}

/// The map of every layer.
fn maps(sums: &[Scatter], hidden_size: usize, lambda: f64) -> Result<Vec<LinearMap>, LearnError> {
    let solve = |(layer, sums): (usize, &Scatter)| {
        let map = sums.ridge(hidden_size, lambda);
        map.filter(|map| map.is_finite()).ok_or(LearnError::Unsolvable { layer })
    };
    sums.par_iter().enumerate().map(solve).collect()
}

/// Holds maps against what tokens are worth to the heads.
#[derive(Clone)]
struct Judge {
    n_kv_heads: usize,
    /// By layer and KV head.
    heads: Vec<Explained>,
}

impl Judge {
    fn new(model: &ModelIdentity) -> Self {
        let n_kv_heads = model.n_kv_heads;
        Self { n_kv_heads, heads: vec![Explained::default(); model.n_layers * n_kv_heads] }
    }

    fn add(&mut self, maps: &[LinearMap], layer: usize, x: Rows<'_>, y: Rows<'_>) {
        let heads = &mut self.heads[layer * self.n_kv_heads..][..self.n_kv_heads];
        for (y, predicted) in y.iter().zip(maps[layer].apply(x).chunks_exact(heads.len())) {
            heads.iter_mut().zip(y.iter().zip(predicted)).for_each(|(head, (y, predicted))| head.add(*y, *predicted));
        }
    }

    fn r2(&self) -> Vec<Option<f64>> {
        self.heads.iter().map(Explained::r2).collect()
    }
}

/// Mean over the heads of which there is one.
fn mean_r2(heads: &[Option<f64>]) -> Option<f64> {
    mean(heads.iter().flatten())
}

fn provenance(dumps: &[Dump], options: &LearnOptions) -> Provenance {
    let Repetition { sinks, chunk, .. } = Repetition::default();
    let settings = json!({
        "hold_out": options.hold_out,
        "teacher": TEACHER,
        "teacher_chunk": chunk,
        "sinks": sinks,
        "least_score": LEAST,
        "lambdas": LAMBDAS,
        "chunk_tokens": CHUNK_TOKENS,
    });
    Provenance::new("learn", options.seed, settings, sample_hashes(dumps))
}
