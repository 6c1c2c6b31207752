//! `analysis.json`: what `analyze` found, for `report` and people.

mod check;
mod persistence;

pub use check::faults;
pub use persistence::{
    DatasetTest, EpsPersistence, Evidence, HeadPersistence, HeadTest, LengthDependence, Persistence, RankNull,
    VarianceShares,
};

use serde::{Deserialize, Serialize};

use crate::files::{Document, InputHash, ModelIdentity, Provenance};
use crate::format::dump::State;
use crate::format::map::MapEntry;
use crate::math::{Interval, Mean};
use crate::merge::Shares;

/// Where distributions are cut: their quantiles are at 5, 25, 50, 75 and 95 %.
pub(crate) const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// Samples that are not explored and told of by name.
const MOST_TOLD: usize = 5;
/// Name of the document within the analysis' folder.
pub const FILE: &str = "analysis.json";

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

impl Neighbours {
    /// The mean, to be joined with that of other pairs.
    pub(crate) fn sum(&self) -> Mean {
        self.mean.map_or_else(Mean::default, |mean| Mean::of_sum(mean * self.n as f64, self.n as u64))
    }
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
    /// Share of the pairs of neighbours above each eps of the grid.
    #[serde(default)]
    pub share_above: Vec<Option<f64>>,
    /// Effective rank (Roy and Vetterli 2007) of up to 512 vectors of each sample: directions, from 1 to D.
    #[serde(default)]
    pub effective_rank: Option<f64>,
    /// The same about the vectors' mean.
    #[serde(default)]
    pub effective_rank_centred: Option<f64>,
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
    /// Sets at the reference eps by [`Analysis::set_size_bins`]; empty for the sets of the other bridging.
    #[serde(default)]
    pub sizes: Vec<u64>,
}

/// Tokens that may be merged, and those of them that are, counted once a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// Unprotected tokens.
    pub free: u64,
    /// Tokens in sets of two or more.
    pub merged: u64,
}

impl Placed {
    /// Share of the unprotected tokens that are merged; `None` without one.
    pub fn share(self) -> Option<f64> {
        (self.free > 0).then(|| self.merged as f64 / self.free as f64)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.free += other.free;
        self.merged += other.merged;
    }
}

/// Where the merging sets at the reference eps lie, over all heads of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetPlaces {
    /// By tenth of the prompt.
    pub positions: Vec<Placed>,
    /// By kind of token, in the order of [`crate::format::dump::TokenClass::ALL`]; empty when the dump tells no classes.
    pub classes: Vec<Placed>,
    /// [`Placed::share`] of every one of `positions` with its interval over samples; none in files of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub position_shares: Vec<Option<Interval>>,
    /// The same of `classes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_shares: Vec<Option<Interval>>,
}

/// How far heads merge the same tokens at the reference eps: the Dice coefficient 2 |A ∩ B| / (|A| + |B|) of the tokens that
/// are joined to the one before them, pooled over the pairs of different heads of two layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetOverlap {
    /// `[layers][layers]`; `None` where nothing is joined, or for a layer of one head with itself.
    pub dice: Vec<Vec<Option<f64>>>,
    /// What heads that join as many tokens at random have.
    pub chance: Vec<Vec<Option<f64>>>,
}

/// One KV head's query-aware measures in one data set: means over its samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadQueries {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Logit gap q·(k_i - k_{i+1})/√D of neighbouring keys, root mean square over the kept queries, mean over pairs; nats.
    pub gap: Option<f64>,
    /// Quantiles of the pairs' gaps at 5, 25, 50, 75 and 95 %.
    pub gap_quantiles: Option<[f64; 5]>,
    /// Spearman's rho of the pairs' cosines and gaps: -1 where similarity tells exactly how interchangeable neighbours are.
    pub cosine_predicts: Option<f64>,
    /// Relative attention-output error when this head alone is merged: by budget, then rule, of [`QueryAware`].
    pub errors: Vec<Vec<Option<f64>>>,
}

/// Pairs of neighbouring keys by cosine and logit gap, over all heads of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GapByCosine {
    /// Edges between the bins of the gap, rising, nats; the first bin is below the first edge, the last one above the last.
    pub gap_edges: Vec<f64>,
    /// Pairs by bin of the cosine, as many equal bins of [-1, 1] as there are, then by bin of the gap.
    pub pairs: Vec<Vec<u64>>,
}

impl GapByCosine {
    /// No pairs yet, in bins of the cosine and six bins a power of ten of the gap, from 0.01 to 100 nats.
    pub(crate) fn new(cosine_bins: usize) -> Self {
        let gap_edges: Vec<f64> = (-12..=12).map(|sixth| 10f64.powf(f64::from(sixth) / 6.0)).collect();
        let pairs = vec![vec![0; gap_edges.len() + 1]; cosine_bins];
        Self { gap_edges, pairs }
    }

    pub(crate) fn add(&mut self, cosine: f64, gap: f64) {
        let n_bins = self.pairs.len();
        let bin = (((cosine + 1.0) / 2.0 * n_bins as f64) as usize).min(n_bins.saturating_sub(1));
        let gap_bin = self.gap_edges.partition_point(|edge| *edge <= gap);
        if let Some(n) = self.pairs.get_mut(bin).and_then(|bins| bins.get_mut(gap_bin)) {
            *n += 1;
        }
    }

    pub(crate) fn join(&mut self, other: &Self) {
        for (sums, bins) in self.pairs.iter_mut().zip(&other.pairs) {
            sums.iter_mut().zip(bins).for_each(|(sum, n)| *sum += n);
        }
    }
}

/// The attention-output error of one rule at one budget, mean over heads, with the sample as unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleError {
    /// Slots kept per token.
    pub budget: f64,
    /// What a merging set becomes; `evict` keeps its pivot only.
    pub rule: String,
    /// Relative error; `None` when nothing was measured.
    pub error: Option<Interval>,
    /// Error less that of `evict` on the same samples: below 0 where merging helps.
    pub against_evict: Option<Interval>,
    /// Heads of samples that cannot be merged to this budget and are left out.
    pub unreachable: usize,
}

/// Query-aware measures over all data sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryAware {
    /// Budgets, slots kept per token, rising.
    pub budgets: Vec<f64>,
    /// Rules, `evict` the last.
    pub rules: Vec<String>,
    /// Every budget and rule, by budget.
    pub errors: Vec<RuleError>,
    /// [`HeadQueries::cosine_predicts`], mean over heads, with the sample as unit.
    pub cosine_predicts: Option<Interval>,
    /// The outcome in words, with its numbers.
    pub verdict: String,
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
    /// The same with [`Analysis::bridge`] the other way.
    #[serde(default)]
    pub sparsity_other_bridge: Vec<HeadSparsity>,
    /// Where the sets lie; `None` without them.
    #[serde(default)]
    pub places: Option<SetPlaces>,
    /// Query-aware measures by head; empty when queries were not captured or not asked for.
    #[serde(default)]
    pub queries: Vec<HeadQueries>,
    /// Pairs of neighbouring keys by cosine and logit gap; `None` without queries, and in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_by_cosine: Option<GapByCosine>,
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
    /// What the pairs come to, in words with numbers; `None` with one data set and in files of earlier versions.
    #[serde(default)]
    pub agreement_verdict: Option<String>,
    /// Whether sparsity persists over data sets; `None` in files of earlier versions.
    #[serde(default)]
    pub persistence: Option<Persistence>,
    /// Smallest set of every bin of [`HeadSparsity::sizes`].
    #[serde(default)]
    pub set_size_bins: Vec<usize>,
    /// Overlap of the sets of heads, over all samples; `None` without sets.
    #[serde(default)]
    pub set_overlap: Option<SetOverlap>,
    /// Query-aware measures; `None` when queries were not captured or not asked for.
    #[serde(default)]
    pub queries: Option<QueryAware>,
    /// Maps that were asked for.
    pub maps: Vec<MapEntry>,
    /// The table of all figures by sample; `None` in files of earlier versions.
    #[serde(default)]
    pub table: Option<InputHash>,
    /// What the page's explorer shows; `None` where nothing was asked for, and in files of earlier versions.
    #[serde(default)]
    pub explorer: Option<InputHash>,
    /// Samples that the explorer would show and does not; none in files of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_explored: Vec<NotExplored>,
    /// Pairs of samples, as data set and row id, that are the same tokens, of which the first counts. None in files of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub same_texts: Vec<[String; 2]>,
}

/// A sample that the page's explorer does not show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotExplored {
    /// Its data set.
    pub dataset: String,
    /// Its row id.
    pub id: String,
    /// Its tokens.
    pub n_tokens: usize,
    /// Why, in words that follow its name.
    pub why: String,
}

impl Analysis {
    /// That samples were left out as others have their texts, in a sentence; `None` where none was.
    pub fn same_texts_in_words(&self) -> Option<String> {
        let pairs = self.same_texts.iter().map(|[first, again]| format!("{again} (as {first})"));
        let more = self.same_texts.len().saturating_sub(MOST_TOLD);
        let more = (more > 0).then(|| format!("{more} more"));
        let told: Vec<String> = pairs.take(MOST_TOLD).chain(more).collect();
        (!told.is_empty()).then(|| {
            format!(
                "The same tokens under another name count once, so that no text is taken for two; left out: {}.",
                told.join(", ")
            )
        })
    }

    /// Which samples the explorer would show and does not, and why, in a sentence; `None` where there is none.
    pub fn not_explored_in_words(&self) -> Option<String> {
        let left_out = &self.not_explored;
        let name = |sample: &NotExplored| format!("{}/{} {}", sample.dataset, sample.id, sample.why);
        let more = left_out.len().saturating_sub(MOST_TOLD);
        let more = (more > 0).then(|| format!("{more} more are left out, too"));
        let told: Vec<String> = left_out.iter().take(MOST_TOLD).map(name).chain(more).collect();
        (!told.is_empty()).then(|| format!("Not explored: {}.", told.join("; ")))
    }
}

impl Document for Analysis {
    const NAME: &'static str = "kvscope.analysis";
    const VERSION: u32 = 1;
}
