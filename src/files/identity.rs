//! What a file was made from: the model, the inputs, the options. No clock and no host, so that equal runs give equal bytes.

use serde::{Deserialize, Serialize};

/// Name and version of this program, as every artifact carries it.
pub const TOOL_VERSION: &str = concat!("kvscope ", env!("CARGO_PKG_VERSION"));

/// Which model a file belongs to, and the shape that a reader needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Folder or file name, for people.
    pub name: String,
    /// Architecture, as Hugging Face names it (`LlamaForCausalLM`).
    pub architecture: String,
    /// SHA-256 over the configuration and, of every tensor, name, type, shape and all bytes.
    pub fingerprint: String,
    /// SHA-256 of the tokenizer's vocabulary and rules.
    pub tokenizer_sha256: Option<String>,
    /// SHA-256 of the chat template; `None` where there is none, and in files that were written before it was recorded.
    #[serde(default)]
    pub chat_template_sha256: Option<String>,
    /// Decoder layers.
    pub n_layers: usize,
    /// Query heads of a layer.
    pub n_q_heads: usize,
    /// Key/value heads of a layer.
    pub n_kv_heads: usize,
    /// Numbers in one head's key.
    pub head_dim: usize,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Angular frequencies of the rotary embedding after scaling, in radians a position, `[D/2]`; empty in files that were
    /// written before they were recorded.
    #[serde(default)]
    pub rope_frequencies: Vec<f32>,
    /// Longest context that the model states, in tokens.
    pub max_positions: usize,
}

impl ModelIdentity {
    /// Query heads that share one KV head.
    pub fn group(&self) -> usize {
        self.n_q_heads / self.n_kv_heads.max(1)
    }

    /// A model of that shape, for tests.
    #[cfg(test)]
    pub(crate) fn toy(n_layers: usize, n_q_heads: usize, n_kv_heads: usize, head_dim: usize) -> Self {
        Self {
            name: "toy".into(),
            architecture: "LlamaForCausalLM".into(),
            fingerprint: String::new(),
            tokenizer_sha256: None,
            chat_template_sha256: None,
            n_layers,
            n_q_heads,
            n_kv_heads,
            head_dim,
            rope_theta: 1e4,
            rope_frequencies: Vec::new(),
            max_positions: 128,
        }
    }
}

/// An input file and its digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InputHash {
    /// File name without folders.
    pub name: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// How a file was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name and version of the program.
    pub tool: String,
    /// Subcommand.
    pub command: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Checked options that can change the content.
    pub options: serde_json::Value,
    /// Files that were read.
    pub inputs: Vec<InputHash>,
}

impl Provenance {
    /// Provenance of this program's `command`.
    pub fn new(command: &str, seed: u64, options: serde_json::Value, inputs: Vec<InputHash>) -> Self {
        Self { tool: TOOL_VERSION.into(), command: command.into(), seed, options, inputs }
    }
}
