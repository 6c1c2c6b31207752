//! What a run compares, as its document has it before anything is measured.

use serde_json::json;

use crate::eval::arm::Arm;
use crate::eval::item::{Item, Settings, Skipped};
use crate::eval::task::task;
use crate::files::{Document, InputHash, ModelIdentity, Provenance};
use crate::format::evaluation::{ArmEntry, Evaluation, TextEntry};
use crate::format::run::{Run, Target};
use crate::math::Float;

/// What the numbers are numbers of; the same in every document.
const EVALUATED: &str = "Each prompt is run once, whole, and compressed once, at its end, for every policy and budget from \
    the same states; what follows (a given continuation or an answer) stays uncompressed behind it. A policy that would \
    also compress while it decodes (H2O, CaM) is therefore shown by what it keeps of the prompt. Caches of \
    one budget have equally many slots.";

/// Of a question that is compressed with the prompt, and of one that is not.
const QUESTION_SEEN: [&str; 2] = [
    "The question stands in the prompt, so that selections may depend on it.",
    "What is compressed ends before the question, so that no selection knows it.",
];

/// What a run compares, before anything is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) cache_type: Float,
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
            "chat_template": settings.chat_template,
            "hide_question": settings.hide_question,
            "cache_dtype": settings.cache_type,
        });
        let document = Evaluation {
            schema: Evaluation::schema_id(),
            provenance: Provenance::new("eval", settings.seed, options, inputs),
            model: model.clone(),
            shard: None,
            evaluated: format!("{EVALUATED} {}", QUESTION_SEEN[usize::from(settings.hide_question)]),
            arms: arms.iter().map(arm_entry).collect(),
            texts: items.iter().map(text_entry).collect(),
            headlines: items
                .iter()
                .filter_map(|item| Some((item.task.to_string(), task(item.task)?.headline.into())))
                .collect(),
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

    /// The document of the run, or of its shard.
    pub(super) fn document(&self, target: &Target<'_>) -> Evaluation {
        self.document.planned(target.shard(self.document.texts.len()))
    }
}

fn arm_entry(arm: &Arm) -> ArmEntry {
    let Arm { policy, budget, role, control, compression } = arm.clone();
    ArmEntry { policy, budget, role, control, params: compression.policy.params() }
}

fn text_entry(item: &Item) -> TextEntry {
    let (dataset, id) = (item.dataset.clone(), item.id.clone());
    TextEntry { task: item.task.into(), dataset, id, n_prompt_tokens: item.prompt.len() }
}
