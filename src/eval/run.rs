//! The runner: one prefill a text, one row a policy and budget.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::eval::arm::Arm;
use crate::eval::continuation;
use crate::eval::item::{Item, Work};
use crate::eval::plan::Plan;
use crate::eval::{EvalError, answer};
use crate::eval::{predictions, summary};
use crate::files::{FolderLock, write_json};
use crate::format::evaluation::{Evaluation, Row, RowFile, write_rows};
use crate::format::run::{Run, RunError, Target};
use crate::math::Float;
use crate::model::{LogitRows, Model, Pass};
use crate::runtime::{Compression, RaggedCache, RuntimeError, prefill};

/// Prompt tokens that pass at a time.
const CHUNK_TOKENS: usize = 1024;

/// Evaluates every arm on every text, appending each row as it is done, and writes summary and predictions at the end.
///
/// With [`Target::resume`], rows of an earlier run with the same plan are kept, and the folder ends up byte for byte as that
/// of an unbroken run. Setting `stop` ends the run behind the row in flight. `on_row` sees every row, old ones first.
///
/// - Errors: a folder in use or of another run, a policy that changed nothing, a model that cannot run a text
pub fn run(
    model: &Model,
    items: &[Item],
    arms: &[Arm],
    plan: Plan,
    target: &Target<'_>,
    stop: &AtomicBool,
    on_row: &mut dyn FnMut(&Row),
) -> Result<Evaluation, EvalError> {
    let cache_type = plan.cache_type;
    let mut evaluation = plan.document(target);
    let _lock = FolderLock::take(target.dir)?;
    target.earlier(&evaluation)?;
    let path = target.dir.join(Evaluation::FILE);
    let (mut file, mut rows) = RowFile::open(target.dir)?;
    if !rows.is_empty() && !target.resume {
        return Err(RunError::Exists { dir: target.dir.into(), what: Evaluation::WHAT }.into());
    }
    evaluation.check_rows(&rows, target.dir)?;
    let place: HashMap<_, usize> = evaluation.planned_keys().into_iter().zip(0..).collect();
    rows.iter().for_each(&mut *on_row);
    let mut begun = false;
    let mut keep = |measured: &mut Vec<Row>, rows: &mut Vec<Row>| -> Result<(), EvalError> {
        for row in measured.drain(..) {
            if !begun {
                file.made()?;
                write_json(&path, &evaluation)?;
                begun = true;
            }
            file.append(&row)?;
            rows.push(row);
        }
        Ok(())
    };
    let done: HashSet<_> = rows.iter().map(Row::key).collect();
    let mut interrupted = false;
    for item in items.iter().enumerate().filter(|(i, _)| evaluation.holds(*i)).map(|(_, item)| item) {
        let missing: Vec<&Arm> = arms.iter().filter(|arm| !done.contains(&blank_row(item, arm).key())).collect();
        if missing.is_empty() {
            continue;
        }
        let mut text = Text::new(model, item, cache_type);
        let (n_missing, mut measured) = (missing.len(), Vec::new());
        for arm in missing {
            interrupted = stop.load(Ordering::Relaxed);
            if interrupted {
                break;
            }
            let row = text.row(arm, arms)?;
            on_row(&row);
            measured.push(row);
            // The first text's rows wait for one another: nothing is left of a run that cannot finish it.
            if !rows.is_empty() || measured.len() == n_missing {
                keep(&mut measured, &mut rows)?;
            }
        }
        keep(&mut measured, &mut rows)?;
        if interrupted {
            break;
        }
    }
    // A row that somebody took away was made last.
    if !interrupted && !rows.is_sorted_by_key(|row| place.get(&row.key())) {
        rows.sort_by_key(|row| place.get(&row.key()).copied());
        write_rows(target.dir, &rows)?;
    }
    file.made()?;
    summary::fill_in(&mut evaluation, &rows);
    write_json(&path, &evaluation)?;
    if interrupted {
        return Err(RunError::interrupted(&evaluation).into());
    }
    predictions::write(target.dir, &rows)?;
    Ok(evaluation)
}

/// Rows of every arm on every text, `[text][arm]`, with nothing written: for a choice among a few compressions.
///
/// - Errors: a model that cannot run a text, a policy that changed nothing
pub fn measure(
    model: &Model,
    items: &[Item],
    arms: &[Arm],
    cache_type: Float,
    on_row: &mut dyn FnMut(),
) -> Result<Vec<Vec<Row>>, EvalError> {
    items
        .iter()
        .map(|item| {
            let mut text = Text::new(model, item, cache_type);
            arms.iter()
                .map(|arm| {
                    let row = text.row(arm, arms);
                    on_row();
                    row
                })
                .collect()
        })
        .collect()
}

/// A text with what its arms share.
struct Text<'a> {
    model: &'a Model,
    item: &'a Item,
    cache_type: Float,
    /// The whole prompt, with what policies of one observation window need, and its last token's logits.
    prefilled: Option<(Option<usize>, RaggedCache, Vec<f32>)>,
    /// Logits of the given continuation behind the whole prompt.
    full_logits: Option<Vec<f32>>,
}

impl<'a> Text<'a> {
    fn new(model: &'a Model, item: &'a Item, cache_type: Float) -> Self {
        Self { model, item, cache_type, prefilled: None, full_logits: None }
    }

    /// Runs the prompt once for all arms that need the same observation window, or none.
    fn prefill_for(&mut self, arm: &Arm, arms: &[Arm]) -> Result<(), EvalError> {
        let window = |arm: &Arm| arm.compression.policy.needs().mass_window;
        let wanted = window(arm);
        if matches!(&self.prefilled, Some((known, ..)) if wanted.is_none() || wanted == *known) {
            return Ok(());
        }
        let wanted = wanted.or_else(|| arms.iter().find_map(window));
        let shared: Vec<&Compression> = arms
            .iter()
            .filter(|arm| window(arm).is_none() || window(arm) == wanted)
            .map(|arm| &arm.compression)
            .collect();
        // The old cache goes before the new one comes.
        self.prefilled = None;
        let mut cache = RaggedCache::recording(self.model.config(), self.cache_type, shared)?;
        let seen = &self.item.prompt[..self.item.n_seen()];
        let logits = prefill(&mut Pass::new(self.model), seen, &mut cache, CHUNK_TOKENS)?;
        self.prefilled = Some((wanted, cache, logits));
        Ok(())
    }

    fn row(&mut self, arm: &Arm, arms: &[Arm]) -> Result<Row, EvalError> {
        self.prefill_for(arm, arms)?;
        let mut row = blank_row(self.item, arm);
        let Some((_, whole, logits)) = &self.prefilled else { return Ok(row) };
        row.full_cache_bytes = whole.full_bytes();
        let mut cache = match whole.compressed(&arm.compression) {
            Ok(cache) => cache,
            // A budget that a policy cannot meet on this text is a finding; one that changed nothing is no result.
            Err(error @ RuntimeError::Unmeetable { .. }) => {
                row.unmet = Some(error.to_string());
                return Ok(row);
            }
            Err(source) => return Err(self.failed(arm, source)),
        };
        row.counters = cache.counters();
        row.kept_fraction = cache.kept_fraction();
        row.cache_bytes = Some(cache.bytes());
        match &self.item.work {
            Work::Continue(tokens) => {
                if self.full_logits.is_none() {
                    let full = Arm::full()?;
                    let mut copy = whole.compressed(&full.compression)?;
                    self.full_logits = Some(continuation::logits(&mut Pass::new(self.model), tokens, &mut copy)?);
                }
                let full = self.full_logits.as_deref().unwrap_or_default();
                let vocab_size = self.model.config().vocab_size;
                let own;
                let compressed = if arm.budget.is_none() && arm.policy == crate::format::evaluation::FULL {
                    full
                } else {
                    own = continuation::logits(&mut Pass::new(self.model), tokens, &mut cache)?;
                    &own
                };
                row.n_new_tokens = tokens.len() - 1;
                row.metrics = continuation::compare(tokens, vocab_size, full, compressed)?;
            }
            Work::Answer(question) => {
                let mut pass = Pass::new(self.model);
                let hidden = &self.item.prompt[self.item.n_seen()..];
                let logits = match hidden.is_empty() {
                    true => logits.clone(),
                    false => {
                        pass.forward(hidden, cache.n_seen(), &mut cache, LogitRows::Last).map_err(RuntimeError::from)?
                    }
                };
                let (pred, n_new_tokens) = answer::generate(&mut pass, logits, &mut cache, &question.job)?;
                row.n_new_tokens = n_new_tokens;
                row.metrics = answer::score(&pred, question);
                row.pred = Some(pred);
            }
        }
        Ok(row)
    }

    fn failed(&self, arm: &Arm, source: RuntimeError) -> EvalError {
        let Item { dataset, id, .. } = self.item;
        EvalError::Arm { policy: arm.policy.clone(), dataset: dataset.clone(), id: id.clone(), source }
    }
}

/// A row in which nothing has been measured yet.
fn blank_row(item: &Item, arm: &Arm) -> Row {
    let question = match &item.work {
        Work::Answer(question) => Some(question),
        Work::Continue(_) => None,
    };
    Row {
        task: item.task.into(),
        dataset: item.dataset.clone(),
        id: item.id.clone(),
        policy: arm.policy.clone(),
        budget: arm.budget,
        n_prompt_tokens: item.prompt.len(),
        n_new_tokens: 0,
        counters: Default::default(),
        kept_fraction: None,
        cache_bytes: None,
        full_cache_bytes: 0,
        metrics: Default::default(),
        unmet: None,
        pred: None,
        answers: question.map(|question| question.answers.clone()).unwrap_or_default(),
        all_classes: question.and_then(|question| question.all_classes.clone()),
        length: question.and_then(|question| question.length),
        depth_percent: question.and_then(|question| question.depth_percent),
    }
}
