//! `comparison.json`: two analyses head by head.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{Document, ModelIdentity, Provenance, read_json};
use crate::math::Interval;
use crate::say;

/// Name of the document within its folder.
pub const FILE: &str = "comparison.json";

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

/// Faults of a comparison, each in words that name the file; empty when there is none: numbers that are none, ends of an interval in
/// the wrong order, other heads than those that differ.
pub fn faults(path: &Path) -> Vec<String> {
    let found = match read_json::<Comparison>(path) {
        Err(error) => return vec![error.to_string()],
        Ok(comparison) => comparison.figures.iter().filter_map(FigureDifference::fault).collect::<Vec<_>>(),
    };
    found.into_iter().map(|what| format!("{}: {what}", path.display())).collect()
}

impl FigureDifference {
    fn fault(&self) -> Option<String> {
        let intervals =
            self.heads.iter().map(|head| head.difference).chain(self.rank_agreement).chain([self.difference]);
        let is_one = |i: Interval| {
            let ends = i.low.zip(i.high);
            i.estimate.is_finite() && ends.is_none_or(|(low, high)| low.is_finite() && high.is_finite() && low <= high)
        };
        let numbers = self.heads.iter().flat_map(|head| [head.a, head.b]).chain([self.a, self.b]);
        if !intervals.into_iter().all(is_one) || !numbers.into_iter().all(f64::is_finite) {
            return Some(format!("{}: a number or an interval cannot be", self.name()));
        }
        let n = self.heads.iter().filter(|head| head.differs).count();
        (n != self.n_differ).then(|| format!("{}: {n} heads differ where it says {}", self.name(), self.n_differ))
    }

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

    /// Whether the interval of the difference leaves out 0.
    pub fn differs(&self) -> bool {
        self.difference.low.zip(self.difference.high).is_some_and(|(low, high)| low > 0.0 || high < 0.0)
    }
}

/// A figure that the verdict tells of.
struct Told {
    metric: &'static str,
    state: &'static str,
    /// What a run does whose figure is larger, and smaller.
    more: &'static str,
    less: &'static str,
    factor: f64,
    decimals: usize,
    unit: &'static str,
}

const TOLD: [Told; 3] = [
    Told {
        metric: "kept_fraction",
        state: "k",
        more: "keeps more of its slots",
        less: "keeps fewer of its slots",
        factor: 100.0,
        decimals: 1,
        unit: " %",
    },
    Told {
        metric: "set_ratio",
        state: "k",
        more: "merges less, with more sets per unprotected token",
        less: "merges more, with fewer sets per unprotected token",
        factor: 1.0,
        decimals: 3,
        unit: "",
    },
    Told {
        metric: "neighbour_cosine_mean",
        state: "k",
        more: "has neighbouring keys that are more alike, by their mean cosine",
        less: "has neighbouring keys that are less alike, by their mean cosine",
        factor: 1.0,
        decimals: 3,
        unit: "",
    },
];

impl Told {
    fn of<'a>(&self, comparison: &'a Comparison) -> Option<&'a FigureDifference> {
        comparison.figures.iter().find(|figure| figure.metric == self.metric && figure.state == self.state)
    }

    /// "B keeps fewer of its slots than A: 43.0 % against 48.1 % (95 % interval of the difference -6.2 to -4.0; 40 of 90 heads differ)."
    fn sentence(&self, figure: &FigureDifference) -> String {
        let number = |value: f64| format!("{:.*}{}", self.decimals, self.factor * value, self.unit);
        let (a, b) = (number(figure.a), number(figure.b));
        let says = match (figure.differs(), figure.difference.estimate > 0.0) {
            (true, true) => format!("B {} than A", self.more),
            (true, false) => format!("B {} than A", self.less),
            (false, _) => format!("It is not shown that B {} than A, or the other way round", self.more),
        };
        let ends = say::ends(figure.difference.times(self.factor), self.decimals);
        let interval = ends.map_or_else(
            || "no interval from one sample".into(),
            |ends| format!("95 % interval of the difference {ends}"),
        );
        let heads = format!("{} of {} heads differ", figure.n_differ, figure.heads.len());
        format!("{says}: {b} against {a} ({interval}; {heads}).")
    }
}

impl Comparison {
    /// What comes out of it, in a few sentences with their numbers.
    pub fn verdict(&self) -> Vec<String> {
        let told = TOLD.iter().filter_map(|told| Some(told.sentence(told.of(self)?)));
        let words: Vec<String> = told.chain(self.order_of_heads()).collect();
        if words.is_empty() { vec!["The two runs have no figure in common.".into()] } else { words }
    }

    /// Whether both runs order the heads alike.
    fn order_of_heads(&self) -> Option<String> {
        let sets = self.figures.iter().find(|figure| figure.metric == "set_ratio")?;
        let agreement = sets.rank_agreement.filter(|agreement| agreement.estimate.is_finite())?;
        let says = match agreement.estimate {
            rho if rho >= 0.8 => "Both runs order the heads alike",
            rho if rho >= 0.5 => "Both runs order the heads roughly alike",
            _ => "The two runs order the heads differently",
        };
        let ends = say::ends(agreement, 2).map_or_else(String::new, |ends| format!(", 95 % interval {ends}"));
        Some(format!("{says} by how much merges in them (rank correlation {:.2}{ends}).", agreement.estimate))
    }
}
