//! Prefill, compress, decode.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::format::generation::StopReason;
use crate::merge::Weighing;
use crate::model::{Decoding, LogitRows, Model, ModelError, Pass};
use crate::runtime::replay::replay;
use crate::runtime::{RaggedCache, RuntimeError, Sampling};

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Stop after this many tokens.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Prompt tokens per forward pass; 0 for all at once.
    pub chunk_tokens: usize,
    /// Tokens that end the text; they are not part of it.
    pub stop_tokens: Vec<u32>,
}

/// What was generated, and at what cost.
#[derive(Clone, Debug)]
pub struct Generation {
    /// New tokens.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: StopReason,
    /// Time of the prompt, compression included.
    pub prefill: Duration,
    /// Time of compression while the prompt passed.
    pub prompt_compress: Duration,
    /// Time of all new tokens but the first, which the prompt's pass gives.
    pub decode: Duration,
    /// Decode steps: of the new tokens, the cache has seen so many of the first.
    pub decode_steps: usize,
    /// Bytes of the cache when the prompt was compressed.
    pub prompt_cache_bytes: u64,
    /// kept_fraction when the prompt was compressed.
    pub prompt_kept_fraction: Option<f64>,
}

impl Generation {
    /// Decode speed; `None` without a decode step.
    pub fn decode_tokens_per_sec(&self) -> Option<f64> {
        (self.decode_steps > 0).then(|| self.decode_steps as f64 / self.decode.as_secs_f64())
    }
}

/// Runs a prompt behind what `cache` has seen, compressing as the cache says; returns the last token's logits `[vocab]`.
///
/// `chunk_tokens` tokens pass at a time, 0 for all at once, and never more than up to the next compression.
///
/// - Errors: no tokens, or more than the context holds; a compression that cannot be met or did nothing
pub fn prefill(
    pass: &mut Pass<'_>,
    prompt: &[u32],
    cache: &mut RaggedCache,
    chunk_tokens: usize,
) -> Result<Vec<f32>, RuntimeError> {
    // Known before any chunk runs, so that a long prompt does not cost a context's worth of work first.
    let n_tokens = cache.n_seen() + prompt.len();
    if prompt.is_empty() {
        return Err(ModelError::Empty.into());
    }
    pass.model().config().check_length(n_tokens)?;
    cache.check_has_queries()?;
    cache.check_scorers(pass.model())?;
    if cache.wants_projections() {
        cache.set_projections(pass.model().projections()?.clone());
    }
    if cache.replays().into_iter().any(|chunk_tokens| cache.repeats_by(chunk_tokens, Weighing::Gradient)) {
        pass.model().check_differentiable()?;
    }
    for chunk_tokens in cache.replays() {
        cache.check_sees_back(n_tokens + chunk_tokens.min(prompt.len()))?;
    }
    cache.begin_prompt(prompt.len());
    let mut logits = Vec::new();
    let mut rest = prompt;
    while !rest.is_empty() {
        let most = if chunk_tokens == 0 { rest.len() } else { chunk_tokens.min(rest.len()) };
        let (chunk, later) = rest.split_at(cache.part_left().map_or(most, |left| most.min(left)));
        let rows = if later.is_empty() { LogitRows::Last } else { LogitRows::None };
        logits = pass.forward(chunk, cache.n_seen(), cache, rows)?;
        rest = later;
    }
    for chunk_tokens in cache.replays() {
        replay(pass, prompt, cache, chunk_tokens)?;
    }
    cache.end_prompt()?;
    Ok(logits)
}

/// Generates after `prompt`, behind what `cache` has seen; `on_token` sees every new token and may end it.
///
/// - Errors: a prompt that is empty or longer than the context; a compression that cannot be met or did nothing; sampling
///   numbers out of range; states or logits that are no finite numbers
pub fn generate(
    model: &Model,
    prompt: &[u32],
    cache: &mut RaggedCache,
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<StopReason>,
) -> Result<Generation, RuntimeError> {
    options.sampling.check()?;
    let (started, compressed_before) = (Instant::now(), cache.compress_time());
    let mut pass = Pass::new(model);
    let logits = prefill(&mut pass, prompt, cache, options.chunk_tokens)?;
    let mut generation = Generation {
        tokens: Vec::new(),
        stop: StopReason::MaxNewTokens,
        prefill: started.elapsed(),
        prompt_compress: cache.compress_time().saturating_sub(compressed_before),
        decode: Duration::ZERO,
        decode_steps: 0,
        prompt_cache_bytes: cache.bytes(),
        prompt_kept_fraction: cache.kept_fraction(),
    };
    let mut processor = options.sampling.processor();
    let mut text = prompt.to_vec();
    let started = Instant::now();
    let position = cache.n_seen();
    let mut decoding = Decoding::new(&mut pass, cache, position, logits);
    while generation.tokens.len() < options.max_new_tokens {
        let token = options.sampling.draw(&mut processor, std::mem::take(decoding.logits()), &text)?;
        if options.stop_tokens.contains(&token) {
            generation.stop = StopReason::StopToken;
            break;
        }
        generation.tokens.push(token);
        text.push(token);
        if let ControlFlow::Break(reason) = on_token(token) {
            generation.stop = reason;
            break;
        }
        if generation.tokens.len() == options.max_new_tokens {
            break;
        }
        if decoding.is_full() {
            generation.stop = StopReason::ContextFull;
            break;
        }
        decoding.feed(token)?;
        generation.decode_steps += 1;
    }
    generation.decode = started.elapsed();
    Ok(generation)
}
