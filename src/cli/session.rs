//! Generation with one cache: a prompt, or the turns of a talk.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::cli::common::Common;
use crate::cli::failure::{Failure, Result, Usage};
use crate::cli::options::stop_flag;
use crate::cli::output::{emit, headed, note, size};
use crate::cli::table::{digits, facts, missing};
use crate::files::{Document, resident_bytes};
use crate::format::generation::{Compared, Divergence, FullCache, Generated, StopReason};
use crate::math::Float;
use crate::merge::Counters;
use crate::model::Model;
use crate::model::tokenizer::SkipSpecial;
use crate::runtime::{Compression, GenerateOptions, Generation, RaggedCache, StopStrings, compare, generate};
use crate::say::percent;

/// Tokens of a prompt, in the model's chat format or as it is.
pub(crate) fn encode_prompt(model: &Model, text: &str, chat: bool) -> Result<Vec<u32>> {
    let prompt = model.tokenizer()?.prompt(&[], text, chat, usize::MAX)?.tokens;
    model.config().check_length(prompt.len() + 1)?;
    Ok(prompt)
}

/// What is to be generated, by which model, with which cache.
pub(crate) struct Job<'a> {
    pub(crate) model: &'a Model,
    /// Whether prompts stand in the model's chat format.
    pub(crate) chat_template: bool,
    /// `None` keeps the full cache.
    pub(crate) compression: Option<Compression>,
    pub(crate) cache_type: Float,
    pub(crate) options: GenerateOptions,
    /// Strings that end the text.
    pub(crate) stop: Vec<String>,
}

/// A cache that is generated with, once or turn by turn.
pub(crate) struct Session<'a> {
    job: &'a Job<'a>,
    cache: RaggedCache,
    name: String,
    params: Option<Value>,
    interrupted: Arc<AtomicBool>,
    /// Generated tokens that the cache has not seen yet.
    unseen: Vec<u32>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(job: &'a Job<'a>) -> Result<Self> {
        let compression = job.compression.as_ref();
        Ok(Self {
            job,
            name: compression.map_or("full".to_string(), |c| c.name.clone()),
            params: compression.map(|c| c.policy.params()),
            cache: RaggedCache::new(job.model.config(), job.cache_type, compression.cloned()),
            interrupted: stop_flag()?,
            unseen: Vec::new(),
        })
    }

    fn is_compressed(&self) -> bool {
        self.params.is_some()
    }

    /// Generates behind what the cache has seen, streaming the text to stdout unless JSON is wanted; returns what came,
    /// and the run as it is saved.
    pub(crate) fn turn(&mut self, tokens: &[u32], common: &Common) -> Result<(Generation, Generated)> {
        let before = resident_bytes();
        let prompt = [&std::mem::take(&mut self.unseen), tokens].concat();
        self.interrupted.store(false, Ordering::Relaxed);
        let Streamed { generation, text, token_texts } =
            stream(self.job, &prompt, &mut self.cache, &self.interrupted, !common.json)?;
        self.unseen = generation.tokens[generation.decode_steps..].to_vec();
        let cache = &self.cache;
        let report = Generated {
            schema: Generated::schema_id(),
            model: self.job.model.identity()?.clone(),
            policy: self.name.clone(),
            params: self.params.clone(),
            prompt: None,
            text,
            token_texts: Some(token_texts),
            stop: generation.stop,
            chat_template: Some(self.job.chat_template),
            prompt_tokens: prompt.len(),
            new_tokens: generation.tokens.len(),
            seen_tokens: cache.n_seen(),
            cache_bytes: cache.bytes(),
            full_cache_bytes: cache.full_bytes(),
            kept_fraction: cache.kept_fraction(),
            prompt_cache_bytes: generation.prompt_cache_bytes,
            prompt_kept_fraction: generation.prompt_kept_fraction,
            counters: self.is_compressed().then(|| cache.counters()),
            counters_by_layer: self.is_compressed().then(|| cache.counters_by_layer()),
            prefill_secs: generation.prefill.as_secs_f64(),
            prompt_compress_secs: generation.prompt_compress.as_secs_f64(),
            compress_secs: cache.compress_time().as_secs_f64(),
            decode_secs: generation.decode.as_secs_f64(),
            decode_tokens_per_sec: generation.decode_tokens_per_sec(),
            process_bytes_grown: resident_bytes().zip(before).map(|(after, before)| after.saturating_sub(before)),
            compared: None,
        };
        self.summarise(&generation, prompt.len(), common);
        Ok((generation, report))
    }

    fn summarise(&self, generation: &Generation, prompt_tokens: usize, common: &Common) {
        let cache = &self.cache;
        if !common.json && std::io::stderr().is_terminal() {
            note(common, "");
        }
        headed(common, "policy", &self.name);
        let mut lines = vec![("cache", size(cache.bytes()))];
        if self.is_compressed() {
            let kept = cache.kept_fraction().map_or_else(missing, |kept| percent(kept, 1));
            lines[0].1 += &format!(" of {} in full ({kept} of the slots)", size(cache.full_bytes()));
            let Counters { seen, kept, merged, evicted, .. } = cache.counters();
            lines.push(("slots", format!("{seen} seen, {kept} kept, {merged} merged, {evicted} evicted")));
        }
        let (prefill, compress) = (generation.prefill.as_secs_f64(), generation.prompt_compress.as_secs_f64());
        lines.push((
            "prefill",
            format!("{prompt_tokens} tokens in {prefill:.2} s, of which {compress:.2} s compressing"),
        ));
        let speed = generation.decode_tokens_per_sec().map_or_else(String::new, |x| format!(", {x:.1} tokens/s"));
        lines.push(("decode", format!("{} tokens{speed}", generation.tokens.len())));
        note(common, facts(lines).trim_end());
    }
}

impl Job<'_> {
    /// Generates once; with `with_full` the full cache too, and compares. Returns the run as it is saved.
    pub(crate) fn report(&self, prompt: &[u32], with_full: bool, common: &Common) -> Result<Generated> {
        let mut session = Session::new(self)?;
        if with_full && !session.is_compressed() {
            return Err(Usage::error("--compare needs a compressed cache", "add --policy or --profile"));
        }
        session.cache.check_will_act(prompt.len(), self.options.max_new_tokens)?;
        let (generation, mut report) = session.turn(prompt, common)?;
        let stop = Arc::clone(&session.interrupted);
        drop(session);
        if with_full {
            let (model, kind) = (self.model, self.cache_type);
            let mut full = RaggedCache::new(model.config(), kind, None);
            let Streamed { generation: reference, text: reference_text, token_texts } =
                stream(self, prompt, &mut full, &stop, false)?;
            let same = generation.tokens.iter().zip(&reference.tokens).take_while(|(a, b)| a == b).count();
            let differs = same < generation.tokens.len().max(reference.tokens.len());
            // Both caches are fed the full cache's text, so that every distribution is compared on the same tokens.
            let mut full = RaggedCache::new(model.config(), kind, None);
            let mut compressed = RaggedCache::new(model.config(), kind, self.compression.clone());
            let chunk_tokens = self.options.chunk_tokens;
            let comparison = compare(model, prompt, &reference.tokens, &mut full, &mut compressed, chunk_tokens)?;
            summarise_comparison(&reference, &reference_text, differs.then_some(same), &comparison, common);
            let full = FullCache {
                text: reference_text,
                token_texts: Some(token_texts),
                new_tokens: reference.tokens.len(),
                prefill_secs: reference.prefill.as_secs_f64(),
                decode_secs: reference.decode.as_secs_f64(),
                decode_tokens_per_sec: reference.decode_tokens_per_sec(),
            };
            let tokens_until_first_difference = differs.then_some(same);
            report.compared = Some(Compared { full, tokens_until_first_difference, comparison });
        }
        Ok(report)
    }
}

/// What was generated, its text, and what every token adds to that.
struct Streamed {
    generation: Generation,
    text: String,
    token_texts: Vec<String>,
}

fn stream(
    job: &Job<'_>,
    prompt: &[u32],
    cache: &mut RaggedCache,
    interrupted: &AtomicBool,
    show: bool,
) -> Result<Streamed> {
    let mut pieces = job.model.tokenizer()?.stream(SkipSpecial::Yes);
    let mut stop = StopStrings::new(job.stop.clone());
    let (mut text, mut token_texts) = (String::new(), Vec::new());
    let mut failure = None;
    let put = |piece: &str, text: &mut String| -> Result<()> {
        if show {
            emit(piece)?;
        }
        text.push_str(piece);
        Ok(())
    };
    let generation = generate(job.model, prompt, cache, &job.options, &mut |token| {
        let shown = pieces.push(token).map_err(Failure::from).and_then(|piece| {
            let (shown, stopped) = stop.push(&piece);
            token_texts.push(piece);
            put(&shown, &mut text).map(|()| stopped)
        });
        match shown {
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(StopReason::Interrupted)
            }
            Ok(true) => ControlFlow::Break(StopReason::StopString),
            Ok(false) if interrupted.load(Ordering::Relaxed) => ControlFlow::Break(StopReason::Interrupted),
            Ok(false) => ControlFlow::Continue(()),
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    if generation.stop != StopReason::StopString {
        let rest = pieces.finish()?;
        let (piece, _) = stop.push(&rest);
        if let Some(last) = token_texts.last_mut() {
            last.push_str(&rest);
        }
        put(&(piece + &stop.finish()), &mut text)?;
    }
    if show {
        emit("\n")?;
    }
    Ok(Streamed { generation, text, token_texts })
}

fn summarise_comparison(
    reference: &Generation,
    text: &str,
    first_difference: Option<usize>,
    comparison: &Divergence,
    common: &Common,
) {
    headed(common, "full cache says", text.trim());
    let mut lines =
        vec![("texts", first_difference.map_or("are the same".into(), |n| format!("part after {n} tokens")))];
    lines.extend(reference.decode_tokens_per_sec().map(|x| ("decode", format!("{x:.1} tokens/s with the full cache"))));
    lines.push((
        "KL",
        format!(
            "mean {}, 95th percentile {} nats over {} tokens; top-1 agreement {}",
            digits(comparison.mean_kl, 4),
            digits(comparison.p95_kl, 4),
            comparison.n_tokens,
            digits(comparison.top1_agreement, 4)
        ),
    ));
    note(common, facts(lines).trim_end());
}
