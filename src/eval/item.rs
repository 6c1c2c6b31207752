//! Prompts into the texts of a run.

use std::collections::{BTreeMap, HashSet};

use crate::eval::EvalError;
use crate::eval::metric::{Reference, metric};
use crate::eval::task::{AnswerJob, Job, Predictions, Take, TaskEntry};
use crate::math::Float;
use crate::model::Model;
use crate::model::tokenizer::Tokenizer;
use crate::prompts::Prompt;

/// Settings of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tokens of the prompt in the family `kl`.
    pub context_tokens: usize,
    /// Tokens of the given continuation in the family `kl`.
    pub continuation_tokens: usize,
    /// Tokens of a prompt that is answered, at most; longer ones lose their middle or are passed over.
    pub max_prompt_tokens: Option<usize>,
    /// Give prompts in the model's chat format, where their benchmark does not forbid it.
    pub chat_template: bool,
    /// Compress what stands before the question, which is read behind it.
    pub hide_question: bool,
    /// Element type of the cache.
    pub cache_type: Float,
    /// Seed of the intervals.
    pub seed: u64,
}

/// A text and what is done with it.
#[derive(Clone, Debug)]
pub struct Item {
    /// Task family.
    pub task: &'static str,
    /// Data set.
    pub dataset: String,
    /// Row id, unique within the data set.
    pub id: String,
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// What is done.
    pub work: Work,
}

impl Item {
    /// Tokens of the prompt that are there when it is compressed.
    pub(super) fn n_seen(&self) -> usize {
        match &self.work {
            Work::Continue(_) => self.prompt.len(),
            Work::Answer(question) => self.prompt.len() - question.n_hidden,
        }
    }
}

/// What is done with a text.
#[derive(Clone, Debug)]
pub enum Work {
    /// Tokens that are fed behind the prompt; the last is only predicted.
    Continue(Vec<u32>),
    /// An answer to generate and score.
    Answer(Box<Question>),
}

/// An answer to generate and score.
#[derive(Clone, Debug)]
pub struct Question {
    /// How.
    pub job: AnswerJob,
    /// Reference answers.
    pub answers: Vec<String>,
    /// Class labels.
    pub all_classes: Option<Vec<String>>,
    /// Length that the record states.
    pub length: Option<u64>,
    /// Whether the prompt lost its middle.
    pub is_cut: bool,
    /// Tokens at the end of the prompt that are read behind the compressed rest.
    pub n_hidden: usize,
    /// Where the answer stands in the prompt, in percent, to the nearest 5.
    pub depth_percent: Option<u32>,
}

impl Question {
    /// What a prediction is scored against.
    pub(super) fn reference(&self) -> Reference<'_> {
        Reference { answers: &self.answers, all_classes: self.all_classes.as_deref().unwrap_or(&[]) }
    }
}

/// Texts that were passed over, by family and data set.
pub type Skipped = BTreeMap<String, usize>;

/// Makes the texts of the given families from prompts, in the prompts' order for each family.
///
/// Texts too short for `kl`, and prompts too long for a family that must see them whole, are passed over and counted.
///
/// - Errors: a family without any prompt of its data sets, a data set or text that cannot be scored, more tokens than the
///   model's context, no text left, a prompt that cannot be encoded
pub fn items(
    model: &Model,
    prompts: &[Prompt],
    tasks: &[&'static TaskEntry],
    settings: &Settings,
) -> Result<(Vec<Item>, Skipped), EvalError> {
    let (mut items, mut skipped) = (Vec::new(), Skipped::new());
    for task in tasks {
        let mut taken = false;
        for prompt in prompts {
            let job = match (task.take)(&prompt.dataset) {
                Take::No => continue,
                Take::Refused(why) => {
                    return Err(EvalError::Refused { task: task.name, dataset: prompt.dataset.clone(), why });
                }
                Take::Yes(job) => job,
            };
            taken = true;
            let made = match job {
                Job::TeacherForced if settings.hide_question => {
                    let why = "it goes on with a text and asks nothing that could be hidden";
                    return Err(EvalError::Refused { task: task.name, dataset: prompt.dataset.clone(), why });
                }
                Job::TeacherForced => continued(model, prompt, settings)?,
                Job::Answer(job) => asked(model, prompt, job, settings)?,
            };
            let (dataset, id) = (prompt.dataset.clone(), prompt.id.clone());
            match made {
                Some((prompt, work)) => items.push(Item { task: task.name, dataset, id, prompt, work }),
                None => *skipped.entry(format!("{}/{dataset}", task.name)).or_default() += 1,
            }
        }
        if !taken {
            return Err(EvalError::NoDataset(task.name));
        }
    }
    check_scored(&items)?;
    let mut seen = HashSet::new();
    if let Some(item) = items.iter().find(|item: &&Item| !seen.insert((item.task, &item.dataset, &item.id))) {
        return Err(EvalError::Twice { dataset: item.dataset.clone(), id: item.id.clone() });
    }
    if items.is_empty() {
        return Err(EvalError::Nothing(skipped.values().sum()));
    }
    Ok((items, skipped))
}

/// Texts that lost their middle.
pub fn n_cut(items: &[Item]) -> usize {
    items.iter().filter(|item| matches!(&item.work, Work::Answer(question) if question.is_cut)).count()
}

/// Texts that are answered without a reference, by family and data set: a benchmark that keeps its answers to itself takes
/// the predictions.
pub fn unscored(items: &[Item]) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for item in items {
        if matches!(&item.work, Work::Answer(question) if !question.reference().has_answer()) {
            *found.entry(format!("{}/{}", item.task, item.dataset)).or_default() += 1;
        }
    }
    found
}

/// Refuses a text that nothing can be scored against, before any answer is generated. Where the benchmark takes
/// predictions, a data set without any answers is let through.
fn check_scored(items: &[Item]) -> Result<(), EvalError> {
    let has_answer = |item: &&Item| matches!(&item.work, Work::Answer(question) if question.reference().has_answer());
    let answered: HashSet<(&str, &str)> =
        items.iter().filter(has_answer).map(|item| (item.task, item.dataset.as_str())).collect();
    for item in items {
        let Work::Answer(question) = &item.work else { continue };
        let Some(why) = metric(question.job.metric).and_then(|metric| (metric.lacks)(&question.reference())) else {
            continue;
        };
        let is_withheld = !answered.contains(&(item.task, item.dataset.as_str()));
        if question.job.predictions != Predictions::Map || !is_withheld {
            let (dataset, id) = (item.dataset.clone(), item.id.clone());
            return Err(EvalError::Unscorable { task: item.task, dataset, id, why });
        }
    }
    Ok(())
}

fn continued(model: &Model, prompt: &Prompt, settings: &Settings) -> Result<Option<(Vec<u32>, Work)>, EvalError> {
    let mut tokens = model.tokenizer()?.open_prompt(&prompt.earlier, &prompt.text, settings.chat_template)?;
    // Every token that is fed predicts a known one, so one more than is fed is needed.
    let n_tokens = settings.context_tokens.saturating_add(settings.continuation_tokens);
    let max_positions = model.config().max_positions;
    if n_tokens > max_positions {
        return Err(EvalError::Context { n_tokens, max_positions });
    }
    let wanted = n_tokens + 1;
    if tokens.len() < wanted {
        return Ok(None);
    }
    tokens.truncate(wanted);
    let rest = tokens.split_off(settings.context_tokens);
    Ok(Some((tokens, Work::Continue(rest))))
}

fn asked(
    model: &Model,
    prompt: &Prompt,
    job: AnswerJob,
    settings: &Settings,
) -> Result<Option<(Vec<u32>, Work)>, EvalError> {
    let tokenizer = model.tokenizer()?;
    let room = model.config().max_positions.saturating_sub(job.max_new_tokens);
    let most = settings.max_prompt_tokens.map_or(room, |most| most.min(room));
    if most == 0 {
        return Ok(None);
    }
    let limit = if job.cut_middle { most } else { usize::MAX };
    let chat = job.chat && settings.chat_template;
    let asked = tokenizer.prompt(&prompt.earlier, &prompt.text, chat, limit)?;
    if asked.tokens.len() > most {
        return Ok(None);
    }
    let n_hidden = match settings.hide_question {
        true => behind_context(tokenizer, prompt, chat)?,
        false => 0,
    };
    // Of a prompt that lost its middle, the end must hold all that is hidden.
    let room = asked.tokens.len() / if asked.is_cut() { 2 } else { 1 };
    if n_hidden > 0 && n_hidden >= room {
        return Ok(None);
    }
    let question = Question {
        job,
        n_hidden,
        answers: prompt.answers.clone(),
        all_classes: prompt.all_classes.clone(),
        length: prompt.length,
        is_cut: asked.is_cut(),
        depth_percent: if job.by_depth { depth_percent(prompt) } else { None },
    };
    Ok(Some((asked.tokens, Work::Answer(Box::new(question)))))
}

/// Tokens of a prompt behind its context: all from the first one that the context alone does not begin with.
///
/// - Errors: a prompt whose question does not stand behind its context
fn behind_context(tokenizer: &Tokenizer, prompt: &Prompt, chat: bool) -> Result<usize, EvalError> {
    let no_question = || EvalError::NoQuestion { dataset: prompt.dataset.clone(), id: prompt.id.clone() };
    let end = prompt.context_bytes.ok_or_else(no_question)?;
    let whole = tokenizer.prompt(&prompt.earlier, &prompt.text, chat, usize::MAX)?.tokens;
    let context = tokenizer.open_prompt(&prompt.earlier, &prompt.text[..end], chat)?;
    let n_shared = whole.iter().zip(&context).take_while(|(a, b)| a == b).count();
    Ok(whole.len() - n_shared)
}

/// Where the first answer that stands in the text does, in percent of the text, to the nearest 5.
fn depth_percent(prompt: &Prompt) -> Option<u32> {
    let at = prompt.answers.iter().find_map(|answer| prompt.text.find(answer.as_str()))?;
    Some((20.0 * at as f64 / prompt.text.len().max(1) as f64).round() as u32 * 5)
}
