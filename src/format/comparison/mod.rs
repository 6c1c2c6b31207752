//! `comparison.json`: two or more analyses beside each other, and head by head where their heads correspond.

mod check;
mod verdict;

pub use check::faults;

use serde::{Deserialize, Serialize};

use crate::files::{Document, ModelIdentity, Provenance};
use crate::format::analysis::VarianceShares;
use crate::math::Interval;
use crate::say;

/// Name of the document within its folder.
pub const FILE: &str = "comparison.json";
/// Most runs of a comparison: as many as panels of a figure and columns of a terminal's table have room for.
pub const MOST_RUNS: usize = 9;

/// Where a layer stands in a model of so many: 0 is the first, 1 the last.
pub fn relative_depth(layer: usize, n_layers: usize) -> f64 {
    layer as f64 / n_layers.saturating_sub(1).max(1) as f64
}

/// What a figure is of: columns of the runs' tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FigureId {
    /// Column `metric`.
    pub metric: String,
    /// Column `state`.
    pub state: String,
    /// Columns `eps`, `budget` and `rule`, where they apply.
    pub eps: Option<f64>,
    /// See `eps`.
    pub budget: Option<f64>,
    /// See `eps`.
    pub rule: Option<String>,
}

/// One figure of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFigure {
    /// What it is of.
    #[serde(flatten)]
    pub id: FigureId,
    /// Mean over samples and heads, with its interval over samples.
    pub mean: Interval,
}

/// Merging sets per unprotected token of one data set, at the reference eps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetSets {
    /// Its name.
    pub dataset: String,
    /// Samples that have sets.
    pub n_samples: usize,
    /// Mean over samples and heads, with its interval over samples.
    pub mean: Interval,
    /// Mean over samples and the heads of a layer, in the order of [`ComparedRun::layers`], with its interval over samples.
    pub layers: Vec<Interval>,
}

/// One head's merging sets per unprotected token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadSets {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Mean of the data sets' means, with its interval over samples, drawn within data sets.
    pub mean: Interval,
}

/// Whether a run's merging sets are the model's or the data's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSets {
    /// Every data set that has sets.
    pub datasets: Vec<DatasetSets>,
    /// Every head, by layer and head.
    pub heads: Vec<HeadSets>,
    /// Mean distance of two data sets' lines over relative depth; `None` with one data set.
    pub between_datasets: Option<Interval>,
    /// Where the variance comes from, as the analysis has it; `None` where it could not tell.
    pub variance: Option<VarianceShares>,
    /// Kendall's W of data sets ranking heads, as the analysis has it.
    pub kendall_w: Option<Interval>,
    /// Share of heads that keep to their mean in every data set, as the analysis has it.
    pub persistent_share: Option<Interval>,
}

impl RunSets {
    /// The heads that merge most, the first one most.
    pub fn most_merging(&self, n: usize) -> Vec<&HeadSets> {
        let mut heads: Vec<&HeadSets> = self.heads.iter().collect();
        heads.sort_by(|a, b| a.mean.estimate.total_cmp(&b.mean.estimate));
        heads.truncate(n);
        heads
    }
}

/// One run of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedRun {
    /// What it is called: no two runs of a comparison are called alike.
    pub name: String,
    /// Whose states were analysed.
    pub model: ModelIdentity,
    /// Layers analysed, rising.
    pub layers: Vec<usize>,
    /// Data sets.
    pub datasets: Vec<String>,
    /// Samples of all of them.
    pub n_samples: usize,
    /// Tokens of all of them.
    pub n_tokens: usize,
    /// Figures of its table.
    pub figures: Vec<RunFigure>,
    /// Its merging sets; `None` where there are none.
    pub sets: Option<RunSets>,
}

impl ComparedRun {
    /// Whether heads of the same layer and number are compared with each other: both runs have the same ones.
    pub fn has_heads_of(&self, other: &Self) -> bool {
        (&self.layers, self.model.n_kv_heads) == (&other.layers, other.model.n_kv_heads)
    }

    /// Layers and heads in a few words: `30 layers x 3 heads`.
    pub fn shape(&self) -> String {
        let plural = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        format!("{} x {}", plural(self.layers.len(), "layer"), plural(self.model.n_kv_heads, "head"))
    }

    /// A figure's mean, if the run has it.
    pub fn figure(&self, id: &FigureId) -> Option<Interval> {
        self.figures.iter().find(|figure| figure.id == *id).map(|figure| figure.mean)
    }

    /// Sets per unprotected token at the reference eps.
    pub fn set_ratio(&self) -> Option<&RunFigure> {
        self.figures.iter().find(|figure| figure.id.metric == "set_ratio")
    }
}

/// One head's figure in two runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadDifference {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Mean over the first run's samples.
    pub first: f64,
    /// Mean over the other run's samples.
    pub other: f64,
    /// The other less the first, with its interval over samples.
    pub difference: Interval,
    /// Whether the interval leaves out 0, as by chance 5 % of them do.
    pub differs: bool,
}

/// One figure in two runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FigureDifference {
    /// What it is of.
    #[serde(flatten)]
    pub id: FigureId,
    /// Mean over the first run's samples and heads.
    pub first: f64,
    /// Mean over the other's.
    pub other: f64,
    /// The other less the first, with its interval over samples.
    pub difference: Interval,
    /// Spearman's rho of the heads' means in both: 1 when both order the heads alike; `None` where heads do not correspond.
    pub rank_agreement: Option<Interval>,
    /// Heads whose interval leaves out 0.
    pub n_differ: usize,
    /// Every head that both runs have the figure of, by layer and head; none where heads do not correspond.
    pub heads: Vec<HeadDifference>,
}

impl FigureDifference {
    /// Whether the interval of the difference leaves out 0.
    pub fn differs(&self) -> bool {
        self.difference.leaves_out_0()
    }
}

/// A run against the first one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Number of the run, from 1: the first one is 0.
    pub run: usize,
    /// Whether both are of the same samples, which are then drawn together.
    pub paired: bool,
    /// Figures that both have.
    pub figures: Vec<FigureDifference>,
}

impl Against {
    /// The merging sets per unprotected token.
    pub fn sets(&self) -> Option<&FigureDifference> {
        self.figures.iter().find(|figure| figure.id.metric == "set_ratio")
    }
}

/// How far lines of merging sets over relative depth lie apart, as mean absolute distances at 21 depths that both have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distances {
    /// Of two data sets in one run, mean over pairs and runs.
    pub between_datasets: Option<Interval>,
    /// Of one data set in two runs, mean over pairs and data sets.
    pub between_runs: Option<Interval>,
    /// The second less the first.
    pub difference: Option<Interval>,
}

/// Runs compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// `kvscope.comparison/2`.
    pub schema: String,
    /// How it was made.
    pub provenance: Provenance,
    /// Threshold of the merging sets.
    pub eps: f32,
    /// Two or more runs, in the order in which they were named.
    pub runs: Vec<ComparedRun>,
    /// How far apart the lines of data sets and of runs lie.
    pub distances: Distances,
    /// Every further run against the first.
    pub against_first: Vec<Against>,
}

impl Document for Comparison {
    const NAME: &'static str = "kvscope.comparison";
    const VERSION: u32 = 2;
}

impl Comparison {
    /// The first run, another, and what both come to; runs that a damaged file does not have are passed over.
    pub fn pairs(&self) -> impl Iterator<Item = (&ComparedRun, &ComparedRun, &Against)> {
        self.against_first.iter().filter_map(|against| Some((self.runs.first()?, self.runs.get(against.run)?, against)))
    }

    /// What the figures are of that at least one run has, each once.
    pub fn figures(&self) -> Vec<&FigureId> {
        let mut ids: Vec<&FigureId> = Vec::new();
        for id in self.runs.iter().flat_map(|run| &run.figures).map(|figure| &figure.id) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }
}

impl FigureId {
    /// What is compared, in a few words.
    pub fn name(&self) -> String {
        match (self.metric.as_str(), self.budget, &self.rule) {
            ("neighbour_cosine_mean", ..) => format!("cosine {}", self.state),
            ("set_ratio", ..) => "sets per token".into(),
            ("kept_fraction", ..) => "kept".into(),
            ("logit_gap", ..) => "logit gap, nats".into(),
            ("cosine_predicts_gap", ..) => "cosine predicts gap".into(),
            (_, Some(budget), Some(rule)) => format!("error {rule} at {:.0} %", 100.0 * budget),
            (metric, ..) => metric.into(),
        }
    }

    /// What that is, in a sentence's part.
    pub fn explained(&self) -> String {
        let state = match self.state.as_str() {
            "k" => "keys after RoPE",
            "k_pre_rope" => "keys before RoPE",
            "v" => "values",
            other => other,
        };
        let eps = self.eps.map_or_else(String::new, |eps| format!(" at threshold {}", eps as f32));
        match (self.metric.as_str(), self.budget, &self.rule) {
            ("neighbour_cosine_mean", ..) => {
                format!("mean cosine of each token's {state} with the token before: 1 when alike")
            }
            ("set_ratio", ..) => {
                format!("merging sets per unprotected token{eps}: 1 when nothing merges, less when more does")
            }
            ("kept_fraction", ..) => format!("share of the slots that stay{eps}, protected tokens included"),
            ("logit_gap", ..) => "how far real queries tell neighbouring keys apart: 0 when not at all".into(),
            ("cosine_predicts_gap", ..) => {
                "rank correlation of cosine and logit gap over neighbours: -1 when cosine tells it all".into()
            }
            (_, Some(budget), Some(rule)) => format!(
                "relative error of a head's attention output when it alone keeps {} of its slots by {rule}",
                say::percent(budget, 0)
            ),
            _ => String::new(),
        }
    }
}
