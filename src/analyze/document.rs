//! `analysis.json`: what `analyze` found, for `report`, `tune` and people.

use serde::Deserialize;
use serde::Serialize;

use crate::analyze::Persistence;
use crate::dump::State;
use crate::files::Document;
use crate::files::ModelIdentity;
use crate::files::Provenance;
use crate::math::Interval;
use crate::merge::Shares;

/// Distribution of a head's neighbour cosines cos(x_{i-1}, x_i) over all tokens of a data set's samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbours {
    /// Pairs with a defined cosine.
    pub n: usize,
    /// Mean; `None` without pairs, as all that follows.
    pub mean: Option<f64>,
    /// Quantiles at 5, 25, 50, 75 and 95 %.
    pub quantiles: Option<[f64; 5]>,
}

/// One KV head's figures for one state in one data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadSimilarity {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Similarity of neighbours.
    pub neighbours: Neighbours,
    /// Mean cosine at each lag of [`Analysis::lags`]; `None` where no sample is long enough.
    pub locality: Vec<Option<f64>>,
}

/// One KV head's merging sets (keys after RoPE, as the cache holds them) in one data set, at each eps of the grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadSparsity {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Sets per unprotected token, mean over samples: 1 when nothing merges, small when much does.
    pub set_ratio: Vec<Option<f64>>,
    /// Slots kept per token seen, protected ones included, mean over samples.
    pub kept_fraction: Vec<Option<f64>>,
    /// Largest set seen, in tokens.
    pub largest_set: Vec<usize>,
}

/// All heads' similarity of one state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateSimilarity {
    /// The state.
    pub state: State,
    /// Pairs per bin of neighbour cosine, over all heads: 40 equal bins of [-1, 1].
    pub histogram: Vec<u64>,
    /// Every head, by layer and head.
    pub heads: Vec<HeadSimilarity>,
}

/// One data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetAnalysis {
    /// Its name.
    pub dataset: String,
    /// Samples.
    pub n_samples: usize,
    /// Tokens of all samples.
    pub n_tokens: usize,
    /// Similarity by state.
    pub similarity: Vec<StateSimilarity>,
    /// Merging sets by head; empty when keys or masses were not captured.
    pub sparsity: Vec<HeadSparsity>,
}

/// Rank agreement of the heads between two data sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// One data set.
    pub a: String,
    /// The other.
    pub b: String,
    /// Spearman's rho of the heads' set ratios at the reference eps; `None` when one of them does not vary.
    pub spearman: Option<f64>,
}

/// A similarity map that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapEntry {
    /// File below the analysis' folder: safetensors with `level.0` `[T, T]`, `level.1` `[⌈T/2⌉, ⌈T/2⌉]`, … in f16.
    pub file: String,
    /// Data set of the sample.
    pub dataset: String,
    /// Its row id.
    pub id: String,
    /// State.
    pub state: State,
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Tokens T.
    pub n_tokens: usize,
    /// Levels, each half as wide as the one before, values averaged over 2 x 2.
    pub n_levels: usize,
}

/// The whole analysis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// `kvscope.analysis/1`.
    pub schema: String,
    /// How it was made.
    pub provenance: Provenance,
    /// Whose states these are.
    pub model: ModelIdentity,
    /// Layers analysed, rising.
    pub layers: Vec<usize>,
    /// Distances between tokens of the locality curves, rising from 1.
    pub lags: Vec<usize>,
    /// Thresholds of the sparsity figures, rising.
    pub eps_grid: Vec<f32>,
    /// Index into the grid of the threshold that single figures are given for (the paper's 0.75).
    pub reference_eps: usize,
    /// Protected shares that the sets were made with.
    pub shares: Shares,
    /// Whether chains ran on across protected tokens.
    pub bridge: bool,
    /// The data sets, in order of first appearance.
    pub datasets: Vec<DatasetAnalysis>,
    /// kept_fraction at the reference eps over all heads, per data set with the sample as unit, in the same order.
    pub kept_fraction: Vec<Option<Interval>>,
    /// Every pair of data sets.
    pub agreement: Vec<Agreement>,
    /// Whether sparsity persists over data sets; `None` in files of earlier versions.
    #[serde(default)]
    pub persistence: Option<Persistence>,
    /// Maps that were asked for.
    pub maps: Vec<MapEntry>,
}

impl Document for Analysis {
    const NAME: &'static str = "kvscope.analysis";
    const VERSION: u32 = 1;
}
