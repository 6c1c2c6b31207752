//! A run of `kvscope generate`: the text, and what the cache took.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{Document, ModelIdentity, read_json};
use crate::merge::Counters;

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A stop token came.
    StopToken,
    /// A stop string came.
    StopString,
    /// The wanted number of tokens is there.
    MaxNewTokens,
    /// The model's context is full.
    ContextFull,
    /// The caller asked for it.
    Interrupted,
}

/// How far the next-token distributions lie apart, over a continuation that both caches are given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Next-token distributions compared.
    pub n_tokens: usize,
    /// Mean of KL(full ‖ compressed), in nats.
    pub mean_kl: Option<f64>,
    /// 95th percentile of the same.
    pub p95_kl: Option<f64>,
    /// Share of distributions whose most likely token is the same.
    pub top1_agreement: Option<f64>,
    /// KL of every token, in nats.
    pub kl: Vec<f64>,
}

/// The full cache beside the compressed one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// What the full cache generates.
    pub full: FullCache,
    /// Tokens that both texts share at their beginning; `None` where the texts are the same.
    pub tokens_until_first_difference: Option<usize>,
    /// Both on the full cache's text.
    pub comparison: Divergence,
}

/// A run with the full cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullCache {
    /// Its text.
    pub text: String,
    /// What every token adds to the text; `None` in files of versions that did not record it.
    #[serde(default)]
    pub token_texts: Option<Vec<String>>,
    /// Tokens of the text.
    pub new_tokens: usize,
    /// Seconds of the prompt.
    pub prefill_secs: f64,
    /// Seconds of all new tokens but the first.
    pub decode_secs: f64,
    /// Decode speed; `None` without a decode step.
    pub decode_tokens_per_sec: Option<f64>,
}

/// A run, or a turn of a talk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// `kvscope.generate/1`.
    pub schema: String,
    /// The model.
    pub model: ModelIdentity,
    /// Policy as typed, or the profile's name.
    pub policy: String,
    /// Checked parameters; `None` with the full cache.
    pub params: Option<Value>,
    /// The prompt as it was given, without the chat format; `None` in files of versions that did not record it.
    #[serde(default)]
    pub prompt: Option<String>,
    /// What was generated.
    pub text: String,
    /// What every token adds to the text; `None` in files of versions that did not record it.
    #[serde(default)]
    pub token_texts: Option<Vec<String>>,
    /// Why it ended.
    pub stop: StopReason,
    /// Whether the prompt stood in the model's chat format; `None` in files of versions that did not record it.
    #[serde(default)]
    pub chat_template: Option<bool>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the text.
    pub new_tokens: usize,
    /// Tokens that the cache has seen.
    pub seen_tokens: usize,
    /// Bytes allocated for the cache.
    pub cache_bytes: u64,
    /// Bytes that the same tokens take uncompressed.
    pub full_cache_bytes: u64,
    /// Share of the slots that are kept; `None` before any token.
    pub kept_fraction: Option<f64>,
    /// Bytes of the cache when the prompt was compressed.
    pub prompt_cache_bytes: u64,
    /// Share of the slots that were kept then.
    pub prompt_kept_fraction: Option<f64>,
    /// What compression did; `None` with the full cache.
    pub counters: Option<Counters>,
    /// The same by layer.
    pub counters_by_layer: Option<Vec<Counters>>,
    /// Seconds of the prompt, compression included.
    pub prefill_secs: f64,
    /// Seconds of compression while the prompt passed.
    pub prompt_compress_secs: f64,
    /// Seconds of all compression.
    pub compress_secs: f64,
    /// Seconds of all new tokens but the first.
    pub decode_secs: f64,
    /// Decode speed; `None` without a decode step.
    pub decode_tokens_per_sec: Option<f64>,
    /// Resident memory that the run added; `None` where the system does not tell.
    pub process_bytes_grown: Option<u64>,
    /// The full cache, where it was asked for.
    #[serde(flatten)]
    pub compared: Option<Compared>,
}

impl Document for Generated {
    const NAME: &'static str = "kvscope.generate";
    const VERSION: u32 = 1;
}

/// Faults of a run, each in words that name the file; empty when there is none: shares outside 0 to 1, a divergence that is not of
/// its tokens.
pub fn faults(path: &Path) -> Vec<String> {
    let fault = match read_json::<Generated>(path) {
        Err(error) => return vec![error.to_string()],
        Ok(generated) => generated.fault(),
    };
    fault.map(|what| format!("{}: {what}", path.display())).into_iter().collect()
}

impl Generated {
    fn fault(&self) -> Option<String> {
        let shares = [self.kept_fraction, self.prompt_kept_fraction].into_iter().flatten();
        if let Some(share) = shares.into_iter().find(|share| !(0.0..=1.0).contains(share)) {
            return Some(format!("{share} of the slots are kept"));
        }
        let texts = |texts: &Option<Vec<String>>, n: usize| texts.as_ref().is_some_and(|texts| texts.len() != n);
        if texts(&self.token_texts, self.new_tokens) {
            return Some(format!("not one text for each of {} tokens", self.new_tokens));
        }
        let Compared { full, tokens_until_first_difference, comparison } = self.compared.as_ref()?;
        if texts(&full.token_texts, full.new_tokens) {
            return Some(format!("not one text for each of the full cache's {} tokens", full.new_tokens));
        }
        if comparison.kl.len() != comparison.n_tokens {
            return Some(format!("the KL of {} tokens where it says {}", comparison.kl.len(), comparison.n_tokens));
        }
        if let Some(kl) = comparison.kl.iter().find(|kl| !(kl.is_finite() && **kl >= -1e-6)) {
            return Some(format!("a KL of {kl}"));
        }
        let most = self.new_tokens.max(full.new_tokens);
        let part = tokens_until_first_difference.filter(|part| *part >= most)?;
        Some(format!("the texts part at token {part} of {most}"))
    }
}
