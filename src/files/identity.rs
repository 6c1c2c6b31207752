//! What a file was made from: the model, the inputs, the options. No clock and no host, so that equal runs give equal bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::math::{Rope, reach};

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
    /// Those of layers with a sliding window, where they have their own; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_rope_frequencies: Vec<f32>,
    /// Layers without a rotary embedding, rising; empty where all have one, and in files that were written before it was recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers_without_rope: Vec<usize>,
    /// Of each layer, how many latest tokens its queries see, themselves included; `None` for all. Empty where all see all, and in
    /// files that were written before it was recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Option<usize>>,
    /// Longest context that the model states, in tokens.
    pub max_positions: usize,
}

impl ModelIdentity {
    /// Query heads that share one KV head.
    pub fn group(&self) -> usize {
        self.n_q_heads / self.n_kv_heads.max(1)
    }

    /// The sliding window of a layer.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.windows.get(layer).copied().flatten()
    }

    /// The heads of each kind of layer, those with the same sliding window, or none, by layer and KV head.
    ///
    /// Each kind keeps to a budget by itself. How many slots it has beside the others depends on how long a text is, so only then
    /// the sizes keep to the budget at every length.
    pub(crate) fn kinds(&self) -> Vec<Vec<usize>> {
        let mut kinds: Vec<(Option<usize>, Vec<usize>)> = Vec::new();
        for layer in 0..self.n_layers {
            let (window, heads) = (self.window(layer), layer * self.n_kv_heads..(layer + 1) * self.n_kv_heads);
            match kinds.iter_mut().find(|kind| kind.0 == window) {
                Some(kind) => kind.1.extend(heads),
                None => kinds.push((window, heads.collect())),
            }
        }
        kinds.into_iter().map(|kind| kind.1).collect()
    }

    /// Of each layer, how many of `n_tokens` the whole cache holds.
    pub fn reaches(&self, n_tokens: usize) -> Vec<usize> {
        (0..self.n_layers).map(|layer| reach(self.window(layer), n_tokens)).collect()
    }

    /// The tokens that a layer's whole cache holds when it has seen `n_tokens`.
    pub fn within_reach(&self, layer: usize, n_tokens: usize) -> Range<usize> {
        n_tokens - reach(self.window(layer), n_tokens)..n_tokens
    }

    /// The rotary embedding of a layer.
    pub(crate) fn rope(&self, layer: usize) -> Rope {
        if self.layers_without_rope.contains(&layer) {
            return Rope::none(self.head_dim);
        }
        let is_local = self.window(layer).is_some() && !self.local_rope_frequencies.is_empty();
        let frequencies = if is_local { &self.local_rope_frequencies } else { &self.rope_frequencies };
        Rope::new(frequencies.clone(), self.head_dim)
    }

    /// How many layers have which window, in words; `None` where none has one.
    pub fn windows_in_words(&self) -> Option<String> {
        let mut layers: BTreeMap<Option<usize>, usize> = BTreeMap::new();
        self.windows.iter().for_each(|window| *layers.entry(*window).or_default() += 1);
        let words = layers.iter().map(|(window, n)| {
            let seen = window.map_or_else(|| "all tokens".to_string(), |window| format!("{window} tokens"));
            format!("{seen} in {n} of {} layers", self.n_layers)
        });
        (!layers.is_empty()).then(|| words.collect::<Vec<_>>().join(", "))
    }

    /// What cannot be of its layers, in words.
    pub(crate) fn layer_fault(&self) -> Option<String> {
        let (n_layers, n_windows, n_local) = (self.n_layers, self.windows.len(), self.local_rope_frequencies.len());
        let (n_global, without) = (self.rope_frequencies.len(), &self.layers_without_rope);
        if n_windows > 0 && n_windows != n_layers {
            Some(format!("windows of {n_windows} layers in a model of {n_layers}"))
        } else if self.windows.contains(&Some(0)) {
            Some("a layer has a window of 0 tokens".into())
        } else if n_local > 0 && 2 * n_local != self.head_dim {
            Some(format!("{n_local} local_rope_frequencies for a head dimension of {}", self.head_dim))
        } else if 2 * n_global > self.head_dim {
            Some(format!("{n_global} rope_frequencies for a head dimension of {}", self.head_dim))
        } else if !without.is_sorted_by(|a, b| a < b) || without.last().is_some_and(|layer| *layer >= n_layers) {
            Some(format!("layers_without_rope do not rise within the model's {n_layers}"))
        } else {
            None
        }
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
            local_rope_frequencies: Vec::new(),
            layers_without_rope: Vec::new(),
            windows: Vec::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_with_a_window_keep_its_tokens() {
        let model = ModelIdentity { windows: vec![Some(5), None], ..ModelIdentity::toy(2, 1, 1, 4) };
        assert_eq!((model.reaches(3), model.reaches(9)), (vec![3, 3], vec![5, 9]));
        assert_eq!((model.within_reach(0, 9), model.within_reach(1, 9), model.within_reach(0, 3)), (4..9, 0..9, 0..3));
        assert_eq!(ModelIdentity::toy(2, 1, 1, 4).reaches(9), [9, 9]);
        assert_eq!(model.layer_fault(), None);
        let faulty = |change: &dyn Fn(&mut ModelIdentity)| {
            let mut model = model.clone();
            change(&mut model);
            model.layer_fault().unwrap()
        };
        assert!(faulty(&|model| model.windows = vec![None]).contains("1 layers in a model of 2"));
        assert!(faulty(&|model| model.windows = vec![Some(5), Some(0)]).contains("0 tokens"));
        assert!(faulty(&|model| model.local_rope_frequencies = vec![1.0]).contains("head dimension of 4"));
        assert!(faulty(&|model| model.rope_frequencies = vec![1.0; 3]).contains("head dimension of 4"));
        assert!(faulty(&|model| model.layers_without_rope = vec![2]).contains("within the model's 2"));
        assert!(faulty(&|model| model.layers_without_rope = vec![1, 0]).contains("do not rise"));
    }

    #[test]
    fn every_layer_turns_by_its_own_rope() {
        let model = ModelIdentity {
            rope_frequencies: vec![1.0],
            local_rope_frequencies: vec![0.5, 0.25],
            layers_without_rope: vec![1],
            windows: vec![None, None, Some(3)],
            ..ModelIdentity::toy(3, 1, 1, 4)
        };
        let turned = |layer: usize| {
            let mut x = [1.0, 0.0, 0.0, 5.0];
            model.rope(layer).turn(&mut x, 1.0);
            x
        };
        assert_eq!(turned(0), [1f32.cos(), 1f32.sin(), 0.0, 5.0]);
        assert_eq!(turned(1), [1.0, 0.0, 0.0, 5.0]);
        assert_eq!(turned(2), [0.5f32.cos(), -5.0 * 0.25f32.sin(), 0.5f32.sin(), 5.0 * 0.25f32.cos()]);
    }
}
