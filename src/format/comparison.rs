//! `comparison.json`: two analyses head by head.

use serde::{Deserialize, Serialize};

use crate::files::{Document, ModelIdentity, Provenance};
use crate::math::Interval;

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedRun {
    /// Whose states were analysed.
    pub model: ModelIdentity,
    /// Data sets.
    pub datasets: Vec<String>,
    /// Samples of all of them.
    pub n_samples: usize,
    /// Tokens of all of them.
    pub n_tokens: usize,
}

/// One head's figure in both runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadDifference {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Mean over A's samples.
    pub a: f64,
    /// Mean over B's samples.
    pub b: f64,
    /// B less A, with its interval over samples.
    pub difference: Interval,
    /// Whether the interval leaves out 0, as by chance 5 % of them do.
    pub differs: bool,
}

/// One figure in both runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FigureDifference {
    /// Column `metric` of the runs' tables.
    pub metric: String,
    /// Column `state`.
    pub state: String,
    /// Columns `eps`, `budget` and `rule`, where they apply.
    pub eps: Option<f64>,
    /// See `eps`.
    pub budget: Option<f64>,
    /// See `eps`.
    pub rule: Option<String>,
    /// Mean over A's samples and heads.
    pub a: f64,
    /// Mean over B's.
    pub b: f64,
    /// B less A, with its interval over samples.
    pub difference: Interval,
    /// Spearman's rho of the heads' means in A and in B: 1 when both order the heads alike.
    pub rank_agreement: Option<Interval>,
    /// Heads whose interval leaves out 0.
    pub n_differ: usize,
    /// Every head that both runs have the figure of, by layer and head.
    pub heads: Vec<HeadDifference>,
}

/// Two runs compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// `kvscope.comparison/1`.
    pub schema: String,
    /// How it was made.
    pub provenance: Provenance,
    /// The first run.
    pub a: ComparedRun,
    /// The second.
    pub b: ComparedRun,
    /// Whether both are of the same samples, which are then drawn together.
    pub paired: bool,
    /// Figures that both have.
    pub figures: Vec<FigureDifference>,
}

impl Document for Comparison {
    const NAME: &'static str = "kvscope.comparison";
    const VERSION: u32 = 1;
}
