//! A run of `kvscope bench`: speed and memory against the length of the context.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{Document, ModelIdentity, read_json};

/// What the full cache is called among the policies.
pub const FULL: &str = "full";

/// The whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bench {
    /// `kvscope.bench/1`.
    pub schema: String,
    /// The model.
    pub model: ModelIdentity,
    /// Everything that was set.
    pub options: Value,
    /// Bytes of weights that a decode step reads.
    pub weight_bytes: u64,
    /// Bytes per second at which all threads read memory.
    pub memory_read_bytes_per_sec: f64,
    /// By context, the full cache first.
    pub rows: Vec<SpeedRow>,
    /// By policy.
    pub break_even: Vec<BreakEven>,
}

impl Document for Bench {
    const NAME: &'static str = "kvscope.bench";
    const VERSION: u32 = 1;
}

/// What was measured of one cache at one context length, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpeedSamples {
    /// The prompt's pass without compression, per run.
    pub prefill: Vec<f64>,
    /// Planning and applying, per run.
    pub compress: Vec<f64>,
    /// Every decode step of every run.
    pub decode: Vec<f64>,
    /// Bytes of the cache when the prompt had passed.
    #[serde(skip)]
    pub(crate) cache_bytes: u64,
    /// Slots stored per token then.
    #[serde(skip)]
    pub(crate) kept_fraction: Option<f64>,
}

/// One cache at one context length: medians, and what follows from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedRow {
    /// Policy as typed; `full` for the whole cache.
    pub policy: String,
    /// Tokens of the prompt.
    pub context_tokens: usize,
    /// Slots stored per token when the prompt had passed.
    pub kept_fraction: Option<f64>,
    /// Bytes of the cache when the prompt had passed.
    pub cache_bytes: u64,
    /// Median of the prompt's pass without compression.
    pub prefill_secs: Option<f64>,
    /// Median of planning and applying.
    pub compress_secs: Option<f64>,
    /// Median of a decode step.
    pub decode_secs: Option<f64>,
    /// Bytes of weights and cache that a decode step reads, per second.
    pub decode_bytes_per_sec: Option<f64>,
    /// The full cache's decode step over this one's; `None` for the full cache.
    pub speedup: Option<f64>,
    /// (W + C) / (W + c): the speed-up if time were bytes, of the weights W, the full cache C and this cache c.
    pub bandwidth_bound: Option<f64>,
    /// speedup / bandwidth_bound.
    pub bound_fraction: Option<f64>,
    /// Seconds that the prompt takes more than with the full cache: compression, and recording what the policy needs.
    pub extra_prompt_secs: Option<f64>,
    /// Seconds that a decode step takes less than with the full cache.
    pub saved_secs_per_token: Option<f64>,
    /// New tokens that pay for the prompt's extra time; `None` when no number does.
    pub break_even_new_tokens: Option<f64>,
    /// The raw samples.
    pub samples_secs: SpeedSamples,
}

/// The context length from which on a policy pays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakEven {
    /// The policy.
    pub policy: String,
    /// Shortest context from which on, at every longer one measured, decoding saves what the prompt took more.
    ///
    /// Between two measured contexts the balance is taken as linear. `None` when the policy does not pay at the longest.
    pub context_tokens: Option<f64>,
    /// Whether it pays at the shortest measured context already, which then stands in its place.
    pub at_shortest_measured: bool,
}

/// Faults of a run, each in words that name the file; empty when there is none: a time that cannot be, a share outside 0 to 1, a
/// context without the full cache.
pub fn faults(path: &Path) -> Vec<String> {
    let found = match read_json::<Bench>(path) {
        Err(error) => return vec![error.to_string()],
        Ok(bench) => bench.rows.iter().filter_map(|row| row.fault(&bench)).collect::<Vec<_>>(),
    };
    found.into_iter().map(|what| format!("{}: {what}", path.display())).collect()
}

impl SpeedRow {
    fn fault(&self, bench: &Bench) -> Option<String> {
        let place = format!("{} at {} tokens", self.policy, self.context_tokens);
        let secs = [self.prefill_secs, self.compress_secs, self.decode_secs].into_iter().flatten();
        let samples = &self.samples_secs;
        let all = secs.chain([&samples.prefill, &samples.compress, &samples.decode].into_iter().flatten().copied());
        if let Some(secs) = all.into_iter().find(|secs| !(secs.is_finite() && *secs >= 0.0)) {
            return Some(format!("{place} took {secs} s"));
        }
        if let Some(kept) = self.kept_fraction.filter(|kept| !(0.0..=1.0).contains(kept)) {
            return Some(format!("{place} keeps {kept} of the slots"));
        }
        let is_whole = |row: &SpeedRow| row.policy == FULL && row.context_tokens == self.context_tokens;
        (!bench.rows.iter().any(is_whole)).then(|| format!("there is no full cache at {} tokens", self.context_tokens))
    }
}
