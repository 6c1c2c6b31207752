//! `manifest.json`: what was captured, from which model and which inputs.

use serde::{Deserialize, Serialize};

use crate::files::{Document, ModelIdentity, Provenance};
use crate::format::run::{Run, Shard};
use crate::math::Float;

/// A captured quantity. Key states are `[kv_heads, T, D]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Keys after the rotary embedding, as the cache holds them.
    K,
    /// Values.
    V,
    /// Keys before the rotary embedding (after the key norm where the model has one).
    KPreRope,
    /// Queries after the rotary embedding at sampled positions, `[heads, n_q, D]`.
    Q,
    /// Attention mass per token, `[kv_heads, T]`: over all queries, and over the last window of them.
    Mass,
}

impl State {
    /// All states.
    pub const ALL: [Self; 5] = [Self::K, Self::V, Self::KPreRope, Self::Q, Self::Mass];
    /// The states with one vector per token and KV head.
    pub const VECTORS: [Self; 3] = [Self::K, Self::KPreRope, Self::V];

    /// Name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::K => "k",
            Self::V => "v",
            Self::KPreRope => "k_pre_rope",
            Self::Q => "q",
            Self::Mass => "mass",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// One captured sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleEntry {
    /// Index within the whole run, from 0; shards of a run share the numbering.
    pub index: usize,
    /// Data set that the prompt came from.
    pub dataset: String,
    /// Row id within it.
    pub id: String,
    /// Tokens captured: the prompt's, then the generated ones.
    pub n_tokens: usize,
    /// Tokens of them that are the prompt's.
    pub n_prompt_tokens: usize,
    /// Tokens of the whole prompt, before any truncation.
    pub n_tokens_full: usize,
    /// File name within the dump's folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
}

/// The whole manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `kvscope.dump/1`.
    pub schema: String,
    /// How it was made.
    pub provenance: Provenance,
    /// Whose states these are.
    pub model: ModelIdentity,
    /// Captured states, sorted.
    pub states: Vec<State>,
    /// Captured layers, rising.
    pub layers: Vec<usize>,
    /// Captured KV heads of every layer, rising, and with them the query heads of their groups; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<Vec<usize>>,
    /// Element type of k, v, k_pre_rope and q; masses are f32.
    pub dtype: Float,
    /// Queries in the observation window of `attn_mass_window`.
    pub window_tokens: usize,
    /// Class of every token id of the vocabulary, one letter of [`crate::format::dump::TokenClass`] an id; `None` where unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_classes: Option<String>,
    /// Set where the dump holds a part of a run's samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Samples that the dump will have when complete.
    pub planned_samples: usize,
    /// Finished samples by rising index.
    pub samples: Vec<SampleEntry>,
}

impl Document for Manifest {
    const NAME: &'static str = "kvscope.dump";
    const VERSION: u32 = 1;
}

impl Run for Manifest {
    const FILE: &'static str = "manifest.json";
    const WHAT: &'static str = "a dump";
    const UNITS: &'static str = "samples";

    fn origin(&self) -> (&Provenance, &ModelIdentity, Option<Shard>) {
        (&self.provenance, &self.model, self.shard)
    }

    fn progress(&self) -> (usize, usize) {
        (self.samples.len(), self.planned_samples)
    }

    fn planned(&self, shard: Option<Shard>) -> Self {
        // Of a shard, `planned_samples` are its own.
        let whole = self.shard.map_or(self.planned_samples, |own| own.total_samples);
        let planned_samples = shard.map_or(whole, |shard| shard.n_samples());
        Self { shard, planned_samples, samples: Vec::new(), ..self.clone() }
    }
}

impl Manifest {
    /// Whether every planned sample is there.
    pub fn is_complete(&self) -> bool {
        self.samples.len() == self.planned_samples
    }

    /// Whether prompts stand in the model's chat format; `None` where that was not recorded.
    pub fn chat_template(&self) -> Option<bool> {
        self.provenance.options["chat_template"].as_bool()
    }

    /// The KV heads that every layer holds, rising, in the order of the tensors' first axis.
    pub fn held_kv_heads(&self) -> impl Iterator<Item = usize> {
        (0..self.model.n_kv_heads).filter(|head| self.kv_heads.as_ref().is_none_or(|heads| heads.contains(head)))
    }

    /// The heads that a state's tensors hold: KV heads, or for queries the query heads of their groups.
    pub fn held_heads(&self, state: State) -> impl Iterator<Item = usize> {
        let per_head = self.heads_per_kv_head(state);
        self.held_kv_heads().flat_map(move |head| head * per_head..(head + 1) * per_head)
    }

    /// Length of the first axis of a state's tensors.
    pub(super) fn n_held_heads(&self, state: State) -> usize {
        self.kv_heads.as_ref().map_or(self.model.n_kv_heads, Vec::len) * self.heads_per_kv_head(state)
    }

    /// Where a head stands on that axis.
    pub(super) fn place_of_head(&self, state: State, head: usize) -> Option<usize> {
        let per_head = self.heads_per_kv_head(state).max(1);
        let place = match &self.kv_heads {
            Some(heads) => heads.iter().position(|held| *held == head / per_head)?,
            None => head / per_head,
        };
        Some(place * per_head + head % per_head).filter(|place| *place < self.n_held_heads(state))
    }

    fn heads_per_kv_head(&self, state: State) -> usize {
        if state == State::Q { self.model.group() } else { 1 }
    }

    /// Data set names in order of first appearance.
    pub fn datasets(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for sample in &self.samples {
            if !names.contains(&sample.dataset.as_str()) {
                names.push(&sample.dataset);
            }
        }
        names
    }
}
