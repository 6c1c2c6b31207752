//! An evaluation's folder: `eval.json`, what was compared on what, and `rows.jsonl`, what was measured.

mod rows;

pub(crate) use rows::RowFile;
pub(crate) use rows::RowKey;
pub use rows::{ROWS_FILE, Row};
pub(crate) use rows::{read_rows, write_rows};

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{Document, ModelIdentity, Provenance, read_own_json};
use crate::format::FormatError;
use crate::format::run::{Run, Shard};
use crate::math::{Interval, Paired};
use crate::merge::Counters;

/// Name of the full cache's arm.
pub const FULL: &str = "full";

/// The measurement that a task family's policies are compared by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Headline {
    /// Its name among a row's metrics.
    pub metric: String,
    /// What it is, with its unit, in words.
    pub title: String,
    /// Whether less of it is better.
    pub less_is_better: bool,
    /// Names of the metrics to be shown beside it.
    pub beside: Vec<String>,
}

/// What an arm is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The full cache, which all others are measured against.
    Reference,
    /// A way that is not published as it stands: other settings, other policies, refits.
    Candidate,
    /// KVMerger as published; a baseline too.
    Paper,
    /// Eviction of what a merge folds.
    Control,
    /// Another published way.
    Baseline,
    /// Random tokens.
    Chance,
    /// A tuned profile.
    Profile,
    /// A policy that keeps as many slots of every head as a tuned profile does.
    AtSizes,
}

/// What a policy is called where it has the head sizes of a profile of that name.
pub fn at_sizes_of(policy: &str, profile: &str) -> String {
    format!("{policy} at the sizes of {profile}")
}

/// One arm as the document has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmEntry {
    /// Policy as typed, or `profile NAME`.
    pub policy: String,
    /// Target share of slots.
    pub budget: Option<f64>,
    /// What it is there for.
    pub role: Role,
    /// The policy that evicts what this one merges.
    pub control: Option<String>,
    /// Checked parameters.
    pub params: Value,
}

/// One text as the document has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextEntry {
    /// Task family.
    pub task: String,
    /// Data set.
    pub dataset: String,
    /// Row id.
    #[serde(rename = "_id")]
    pub id: String,
    /// Tokens of the prompt.
    pub n_prompt_tokens: usize,
}

/// One policy at one budget over the texts of a family or of one of its data sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SummaryEntry {
    /// Task family.
    pub task: String,
    /// Data set; `None` for all of the family's.
    pub dataset: Option<String>,
    /// Policy.
    pub policy: String,
    /// Target share of slots.
    pub budget: Option<f64>,
    /// Texts that were measured.
    pub n: usize,
    /// Texts on which the budget could not be met.
    pub n_unmet: usize,
    /// Share of slots kept, over texts.
    pub kept_fraction: Option<Interval>,
    /// Bytes of all texts' caches over what they take whole.
    pub cache_share: Option<f64>,
    /// What compression did, over all texts.
    pub counters: Counters,
    /// Means over texts, with 95 % bootstrap intervals.
    pub metrics: BTreeMap<String, Interval>,
    /// The benchmark's own score of the data set, of 100.
    pub score_percent: Option<f64>,
}

/// Two arms on the same texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparisonEntry {
    /// Task family.
    pub task: String,
    /// What is compared.
    pub metric: String,
    /// What the comparison answers.
    pub question: Question,
    /// One policy.
    pub a: String,
    /// The other.
    pub b: String,
    /// Target share of slots of both.
    pub budget: Option<f64>,
    /// a against b.
    pub result: Paired,
}

impl ComparisonEntry {
    /// Whether a is better than b by that headline; `None` where interval and sign test do not both show it.
    pub fn better(&self, headline: &Headline) -> Option<bool> {
        self.result.direction().map(|direction| (direction == Ordering::Less) == headline.less_is_better)
    }
}

/// What a comparison answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Does merging beat evicting the same tokens?
    MergeOrEvict,
    /// Do refitted values beat the same slots without?
    RefitOrNot,
    /// Does the tuned profile beat the paper's settings?
    ProfileOrPaper,
    /// Does the tuned profile beat another policy at the same head sizes?
    ProfileOrAtSizes,
    /// Is the best baseline better than the next one?
    BestBaselineOrNext,
    /// Does it beat the best baseline?
    OrBestBaseline,
}

/// Needles found by length and depth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeedleMap {
    /// Policy.
    pub policy: String,
    /// Target share of slots.
    pub budget: Option<f64>,
    /// Cells that hold a text.
    pub cells: Vec<NeedleCell>,
}

/// One cell of a needle map.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeedleCell {
    /// Tokens of the prompt: as asked for where needles were planted, else to the nearest 500.
    pub length_tokens: usize,
    /// Depth of the needle in percent: as asked for where needles were planted, else to the nearest 5.
    pub depth_percent: u32,
    /// Texts.
    pub n: usize,
    /// Mean score with the full cache.
    pub reference: f64,
    /// Mean score of the policy.
    pub candidate: f64,
}

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// `kvscope.eval/1`.
    pub schema: String,
    /// How it was made.
    pub provenance: Provenance,
    /// The model.
    pub model: ModelIdentity,
    /// Which part of the texts; `None` for all.
    pub shard: Option<Shard>,
    /// What the numbers are numbers of.
    pub evaluated: String,
    /// Policies and budgets, the full cache first.
    pub arms: Vec<ArmEntry>,
    /// Texts of the whole run.
    pub texts: Vec<TextEntry>,
    /// What each family's policies are compared by.
    pub headlines: BTreeMap<String, Headline>,
    /// Texts that were too short or too long, by family and data set.
    pub skipped: BTreeMap<String, usize>,
    /// Rows that the run, or its shard, will have.
    pub planned_rows: usize,
    /// Rows that the summary stands on.
    pub rows: usize,
    /// Means by family, data set and arm.
    pub summary: Vec<SummaryEntry>,
    /// Paired comparisons.
    pub comparisons: Vec<ComparisonEntry>,
    /// Needle maps of every arm but the full cache.
    pub needle: Vec<NeedleMap>,
    /// What it means, in words.
    pub verdict: Vec<String>,
}

impl Document for Evaluation {
    const NAME: &'static str = "kvscope.eval";
    const VERSION: u32 = 1;
}

impl Evaluation {
    /// What a family's policies are compared by; `None` of a family without texts.
    pub fn headline(&self, task: &str) -> Option<&Headline> {
        self.headlines.get(task)
    }

    /// Whether the run, or its shard, holds the text of that index.
    pub fn holds(&self, text: usize) -> bool {
        self.shard.is_none_or(|shard| shard.holds(text))
    }

    /// Refuses rows that the run, or its shard, does not plan.
    pub(crate) fn check_rows(&self, rows: &[Row], dir: &Path) -> Result<(), FormatError> {
        let planned: HashSet<_> = self.planned_keys().into_iter().collect();
        let Some(row) = rows.iter().find(|row| !planned.contains(&row.key())) else { return Ok(()) };
        let what = format!("the row {} of {} for {} is not of this run", row.id, row.dataset, row.policy);
        Err(FormatError::damaged(&dir.join(ROWS_FILE), what))
    }

    /// Keys of the planned rows, in the order in which a run writes them.
    pub fn planned_keys(&self) -> Vec<RowKey> {
        let texts = self.texts.iter().enumerate().filter(|(i, _)| self.holds(*i));
        texts
            .flat_map(|(_, text)| {
                self.arms.iter().map(|arm| {
                    let (task, dataset, id) = (text.task.clone(), text.dataset.clone(), text.id.clone());
                    (task, dataset, id, arm.policy.clone(), arm.budget.map(f64::to_bits))
                })
            })
            .collect()
    }
}

impl Run for Evaluation {
    const FILE: &'static str = "eval.json";
    const WHAT: &'static str = "an evaluation";
    const UNITS: &'static str = "rows";

    fn origin(&self) -> (&Provenance, &ModelIdentity, Option<Shard>) {
        (&self.provenance, &self.model, self.shard)
    }

    fn progress(&self) -> (usize, usize) {
        (self.rows, self.planned_rows)
    }

    fn planned(&self, shard: Option<Shard>) -> Self {
        let n_texts = shard.map_or(self.texts.len(), |shard| shard.n_samples());
        Self {
            shard,
            planned_rows: n_texts * self.arms.len(),
            rows: 0,
            summary: Vec::new(),
            comparisons: Vec::new(),
            needle: Vec::new(),
            verdict: Vec::new(),
            ..self.clone()
        }
    }

    fn own_difference(&self, other: &Self) -> Option<&'static str> {
        if self.texts != other.texts {
            Some("set of prompts")
        } else {
            (self.arms != other.arms).then_some("set of policies or budgets")
        }
    }
}

/// Faults of an evaluation's folder, each in words that name the file; empty when there is none: rows that were changed, that
/// are there twice or are not of the run, and a document that says another number of them.
pub fn faults(dir: &Path) -> Vec<String> {
    let check = || {
        let evaluation: Evaluation = read_own_json(&dir.join(Evaluation::FILE))?;
        let rows = read_rows(dir)?;
        evaluation.check_rows(&rows, dir)?;
        let (told, found) = (evaluation.rows, rows.len());
        // 0 where a run was killed before it summed up.
        if told == found || told == 0 {
            return Ok(());
        }
        let what = format!("the summary stands on {told} rows, of which {found} are there");
        Err(FormatError::damaged(&dir.join(Evaluation::FILE), what))
    };
    check().err().map(|error| error.to_string()).into_iter().collect()
}
