//! Speed and memory of prefill, compression and decoding against the length of the context.

use std::ops::ControlFlow;
use std::time::Instant;

use rayon::prelude::*;

use crate::format::bench::{BreakEven, SpeedRow, SpeedSamples};
use crate::math::{Float, dot, quantile};
use crate::model::Model;
use crate::runtime::{Compression, GenerateOptions, RaggedCache, RuntimeError, generate};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct SpeedOptions<'a> {
    /// Lengths of the prompts, rising, each of which leaves room for the new tokens in the model's context.
    pub contexts: &'a [usize],
    /// Compressions, measured beside the full cache.
    pub compressions: &'a [Compression],
    /// How the cache stores keys and values.
    pub cache_type: Float,
    /// Prompt tokens per forward pass; 0 for all at once.
    pub chunk_tokens: usize,
    /// New tokens of every run.
    pub new_tokens: usize,
    /// Runs of every cache at every context.
    pub repeats: usize,
}

/// Every cache at every context length.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// Bytes of weights that a decode step reads.
    pub weight_bytes: u64,
    /// By context, the full cache first.
    pub rows: Vec<SpeedRow>,
    /// By compression.
    pub break_even: Vec<BreakEven>,
}

/// Measures every cache at every context length; `on_run` hears of every run.
///
/// Every repeat goes through all contexts and caches, so that a slow minute of the machine hits all of them.
pub fn speed(model: &Model, options: &SpeedOptions<'_>, on_run: &mut dyn FnMut()) -> Result<Speed, RuntimeError> {
    let vocab_size = model.config().vocab_size;
    let caches: Vec<Option<&Compression>> =
        std::iter::once(None).chain(options.compressions.iter().map(Some)).collect();
    let mut samples = vec![vec![SpeedSamples::default(); caches.len()]; options.contexts.len()];
    for _ in 0..options.repeats {
        for (samples, context) in samples.iter_mut().zip(options.contexts) {
            // Ids spread over the vocabulary: what a token is does not change what it costs.
            let prompt: Vec<u32> = (0..*context).map(|i| ((i * 7919 + 13) % vocab_size) as u32).collect();
            for (samples, compression) in samples.iter_mut().zip(&caches) {
                let cache = RaggedCache::new(model.config(), options.cache_type, compression.cloned());
                measure(model, &prompt, cache, options, samples)?;
                on_run();
            }
        }
    }
    let weight_bytes = model.decode_bytes();
    let mut rows: Vec<SpeedRow> = Vec::new();
    for (samples, context) in samples.into_iter().zip(options.contexts) {
        let mut full = None;
        for (samples, compression) in samples.into_iter().zip(&caches) {
            let name = compression.map_or("full", |compression| compression.name.as_str());
            let row = SpeedRow::new(name, *context, weight_bytes, samples, full.as_ref());
            full.get_or_insert_with(|| row.clone());
            rows.push(row);
        }
    }
    let break_even = options.compressions.iter().map(|compression| {
        let own: Vec<&SpeedRow> = rows.iter().filter(|row| row.policy == compression.name).collect();
        BreakEven::of(&compression.name, &own, options.new_tokens)
    });
    Ok(Speed { weight_bytes, break_even: break_even.collect(), rows })
}

/// Runs the prompt and the decode steps once, and adds what they took to `samples`.
fn measure(
    model: &Model,
    prompt: &[u32],
    mut cache: RaggedCache,
    options: &SpeedOptions<'_>,
    samples: &mut SpeedSamples,
) -> Result<(), RuntimeError> {
    // The prompt's pass gives the first token.
    let options = GenerateOptions {
        max_new_tokens: options.new_tokens + 1,
        chunk_tokens: options.chunk_tokens,
        ..GenerateOptions::default()
    };
    let mut last: Option<Instant> = None;
    let generation = generate(model, prompt, &mut cache, &options, &mut |_| {
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            samples.decode.push((now - last).as_secs_f64());
        }
        ControlFlow::Continue(())
    })?;
    let compressing = cache.compress_time().as_secs_f64();
    samples.prefill.push((generation.prefill.as_secs_f64() - compressing).max(0.0));
    samples.compress.push(compressing);
    samples.cache_bytes = generation.prompt_cache_bytes;
    samples.kept_fraction = generation.prompt_kept_fraction;
    Ok(())
}

impl SpeedRow {
    /// Medians of the samples, beside the full cache's at the same context; `full` is `None` for the full cache itself.
    pub fn new(
        policy: &str,
        context_tokens: usize,
        weight_bytes: u64,
        samples: SpeedSamples,
        full: Option<&Self>,
    ) -> Self {
        let SpeedSamples { cache_bytes, kept_fraction, .. } = samples;
        let [prefill_secs, compress_secs, decode_secs] =
            [&samples.prefill, &samples.compress, &samples.decode].map(|x| quantile(x, 0.5));
        let read = |cache: u64| (weight_bytes + cache) as f64;
        let speedup = full.and_then(|full| Some(full.decode_secs? / decode_secs?));
        let bandwidth_bound = full.map(|full| read(full.cache_bytes) / read(cache_bytes));
        let extra =
            full.and_then(|full| Some(prefill_secs? + compress_secs? - full.prefill_secs? - full.compress_secs?));
        let saved = full.and_then(|full| Some(full.decode_secs? - decode_secs?));
        Self {
            policy: policy.into(),
            context_tokens,
            kept_fraction,
            cache_bytes,
            prefill_secs,
            compress_secs,
            decode_secs,
            decode_bytes_per_sec: decode_secs.map(|secs| read(cache_bytes) / secs),
            speedup,
            bandwidth_bound,
            bound_fraction: speedup.zip(bandwidth_bound).map(|(speedup, bound)| speedup / bound),
            extra_prompt_secs: extra,
            saved_secs_per_token: saved,
            break_even_new_tokens: extra.zip(saved).and_then(|(extra, saved)| match (extra > 0.0, saved > 0.0) {
                (false, true) => Some(0.0),
                (true, true) => Some(extra / saved),
                _ => None,
            }),
            samples_secs: samples,
        }
    }

    /// Seconds saved in all by a text of `new_tokens`; `None` for the full cache.
    pub fn balance_secs(&self, new_tokens: usize) -> Option<f64> {
        Some(self.saved_secs_per_token? * new_tokens as f64 - self.extra_prompt_secs?)
    }
}

impl BreakEven {
    /// Of one policy's rows, in order of context, for texts of `new_tokens`.
    pub fn of(policy: &str, rows: &[&SpeedRow], new_tokens: usize) -> Self {
        let balance: Vec<(f64, f64)> =
            rows.iter().filter_map(|row| Some((row.context_tokens as f64, row.balance_secs(new_tokens)?))).collect();
        let first = balance.iter().rposition(|(_, saved)| *saved <= 0.0).map_or(0, |loss| loss + 1);
        let context_tokens =
            balance.get(first).map(|(context, saved)| match first.checked_sub(1).map(|i| balance[i]) {
                Some((shorter, lost)) => shorter + (context - shorter) * lost / (lost - saved),
                None => *context,
            });
        Self { policy: policy.into(), context_tokens, at_shortest_measured: first == 0 && context_tokens.is_some() }
    }
}

/// Bytes per second at which all threads together read memory: the best of eight passes over 512 MB.
pub fn read_bandwidth() -> f64 {
    let numbers = vec![1f32; 128 << 20];
    let secs = (0..8).map(|_| {
        let start = Instant::now();
        let sum: f32 = numbers.par_chunks(1 << 16).map(|part| dot(part, part)).sum();
        std::hint::black_box(sum);
        start.elapsed().as_secs_f64()
    });
    4.0 * numbers.len() as f64 / secs.fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(prefill: &[f64], compress: f64, decode: &[f64], cache_bytes: u64) -> SpeedSamples {
        let compress = vec![compress; prefill.len()];
        SpeedSamples { prefill: prefill.into(), compress, decode: decode.into(), cache_bytes, kept_fraction: Some(0.5) }
    }

    #[test]
    fn rows_by_hand() {
        // W = 100, C = 300, c = 100: bound 2. Decode 8 against 5: 1.6, of the bound 0.8. Medians of uneven samples.
        let full = SpeedRow::new("full", 10, 100, samples(&[2.0, 9.0, 1.0], 0.0, &[8.0, 7.0, 100.0], 300), None);
        assert_eq!((full.prefill_secs, full.decode_secs, full.speedup), (Some(2.0), Some(8.0), None));
        assert_eq!(full.decode_bytes_per_sec, Some(50.0));
        let merged = SpeedRow::new("kvmerger", 10, 100, samples(&[3.0], 0.5, &[4.0, 6.0], 100), Some(&full));
        assert_eq!((merged.speedup, merged.bandwidth_bound), (Some(1.6), Some(2.0)));
        assert_eq!(merged.bound_fraction, Some(0.8));
        // 1.5 s more for the prompt, 3 s less per token.
        assert_eq!((merged.extra_prompt_secs, merged.break_even_new_tokens), (Some(1.5), Some(0.5)));
        assert_eq!(merged.balance_secs(4), Some(10.5));
        let slower = SpeedRow::new("h2o", 10, 100, samples(&[3.0], 0.5, &[9.0], 100), Some(&full));
        assert_eq!(slower.break_even_new_tokens, None);
        let nothing = SpeedRow::new("h2o", 10, 100, SpeedSamples::default(), Some(&full));
        assert_eq!((nothing.speedup, nothing.break_even_new_tokens), (None, None));
    }

    #[test]
    fn break_even_lies_between_the_last_loss_and_the_first_gain() {
        let at = |context_tokens: usize, saved: f64, extra: f64| SpeedRow {
            saved_secs_per_token: Some(saved),
            extra_prompt_secs: Some(extra),
            ..SpeedRow::new("p", context_tokens, 0, SpeedSamples::default(), None)
        };
        // Balances of 10 tokens: -3 at 100, +1 at 200, +5 at 400: zero three quarters of the way from 100 to 200.
        let rows = [at(100, 0.1, 4.0), at(200, 0.5, 4.0), at(400, 0.9, 4.0)];
        let rows: Vec<&SpeedRow> = rows.iter().collect();
        let of = |rows: &[&SpeedRow], n| BreakEven::of("p", rows, n);
        assert_eq!(of(&rows, 10).context_tokens, Some(175.0));
        assert!(!of(&rows, 10).at_shortest_measured);
        assert_eq!((of(&rows, 100).context_tokens, of(&rows, 100).at_shortest_measured), (Some(100.0), true));
        assert_eq!((of(&rows, 1).context_tokens, of(&rows, 1).at_shortest_measured), (None, false));
        assert_eq!(of(&[], 1).context_tokens, None);
    }
}
