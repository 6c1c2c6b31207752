//! `eval.json`: what was compared on what, what came out, and what it means.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::eval::EvalError;
use crate::eval::arm::Arm;
use crate::eval::arm::Role;
use crate::eval::item::Item;
use crate::eval::item::Settings;
use crate::eval::item::Skipped;
use crate::eval::row::Row;
use crate::eval::row::RowKey;
use crate::eval::summary;
use crate::eval::verdict;
use crate::files::Document;
use crate::files::InputHash;
use crate::files::ModelIdentity;
use crate::files::Provenance;
use crate::format::dump::Shard;
use crate::math::Interval;
use crate::math::Paired;
use crate::merge::Counters;
use crate::runtime::CacheType;

/// Name of the document within a run's folder.
pub const FILE: &str = "eval.json";

/// What the numbers are numbers of; the same in every document.
const EVALUATED: &str = "Each prompt is run once, whole, and compressed once, at its end, for every policy and budget from \
    the same states; what follows (a given continuation or an answer) stays uncompressed behind it. A policy that would \
    also compress while it decodes (H2O, CaM) is therefore shown by what it keeps of the prompt. The question stands in \
    the prompt, so that selections may depend on it. Caches of one budget have equally many slots.";

/// What a run compares, before anything is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) cache_type: CacheType,
    document: Evaluation,
}

impl Plan {
    /// The plan of `arms` on `items`.
    pub fn new(
        model: &ModelIdentity,
        items: &[Item],
        skipped: Skipped,
        arms: &[Arm],
        settings: &Settings,
        inputs: Vec<InputHash>,
    ) -> Self {
        let options = json!({
            "context_tokens": settings.context_tokens,
            "continuation_tokens": settings.continuation_tokens,
            "max_prompt_tokens": settings.max_prompt_tokens,
            "raw": settings.raw,
            "cache_dtype": settings.cache_type,
        });
        let document = Evaluation {
            schema: Evaluation::schema_id(),
            provenance: Provenance::new("eval", settings.seed, options, inputs),
            model: model.clone(),
            shard: None,
            evaluated: EVALUATED.into(),
            arms: arms.iter().map(ArmEntry::new).collect(),
            texts: items.iter().map(TextEntry::new).collect(),
            skipped,
            planned_rows: items.len() * arms.len(),
            rows: 0,
            summary: Vec::new(),
            comparisons: Vec::new(),
            needle: Vec::new(),
            verdict: Vec::new(),
        };
        Self { cache_type: settings.cache_type, document }
    }
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

impl ArmEntry {
    fn new(arm: &Arm) -> Self {
        let Arm { policy, budget, role, control, compression } = arm.clone();
        Self { policy, budget, role, control, params: compression.policy.params() }
    }
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

impl TextEntry {
    fn new(item: &Item) -> Self {
        Self {
            task: item.task.into(),
            dataset: item.dataset.clone(),
            id: item.id.clone(),
            n_prompt_tokens: item.prompt.len(),
        }
    }
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
    /// Tokens of the prompt, to the nearest 500.
    pub length_tokens: usize,
    /// Depth of the needle in percent, to the nearest 5.
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
    /// Texts that were too short or too long, by family and data set.
    pub skipped: Skipped,
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
    pub(super) fn new(plan: Plan, shard: Option<(usize, usize)>) -> Result<Self, EvalError> {
        let mut document = plan.document;
        if let Some((number, count)) = shard {
            if number == 0 || number > count {
                return Err(EvalError::Shard { number, count });
            }
            let shard = Shard { number, count, total_samples: document.texts.len() };
            document.shard = Some(shard);
            document.planned_rows = shard.n_samples() * document.arms.len();
        }
        Ok(document)
    }

    /// Whether the run, or its shard, holds the text of that index.
    pub fn holds(&self, text: usize) -> bool {
        self.shard.is_none_or(|shard| shard.holds(text))
    }

    /// The same run before anything was measured.
    fn unmeasured(&self) -> Self {
        Self {
            rows: 0,
            summary: Vec::new(),
            comparisons: Vec::new(),
            needle: Vec::new(),
            verdict: Vec::new(),
            ..self.clone()
        }
    }

    pub(super) fn check_same_run(&self, old: &Self, dir: &Path) -> Result<(), EvalError> {
        let other = |what| Err(EvalError::OtherRun { dir: dir.into(), what });
        if old.provenance.tool != self.provenance.tool {
            return other("version of kvscope");
        }
        if old.model != self.model {
            return other("model");
        }
        if old.provenance.inputs != self.provenance.inputs || old.texts != self.texts {
            return other("set of texts");
        }
        if old.arms != self.arms {
            return other("set of policies or budgets");
        }
        if old.shard != self.shard {
            return other("shard");
        }
        if old.unmeasured() != self.unmeasured() {
            return other("set of options");
        }
        Ok(())
    }

    /// The same run without a shard.
    pub(super) fn whole(&self) -> Self {
        let planned_rows = self.texts.len() * self.arms.len();
        Self { shard: None, planned_rows, ..self.unmeasured() }
    }

    /// Keys of the planned rows, in the order in which a run writes them.
    pub(super) fn planned_keys(&self) -> Vec<RowKey> {
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

    /// Fills in everything that follows from the rows.
    pub(super) fn summarise(&mut self, rows: &[Row]) {
        self.rows = rows.len();
        self.summary = summary::entries(self, rows);
        self.comparisons = summary::comparisons(self, rows);
        self.needle = summary::needle_maps(self, rows);
        self.verdict = verdict::in_words(self);
    }
}
