//! What a checkpoint says about its model, from `config.json` or GGUF metadata, in one form.

#[cfg(test)]
mod tests;

mod foreign;
mod gemma;
mod gguf;
mod granite;
mod hf;
mod mixture;
mod phi;
mod rotary;
mod settings;
mod smollm;
mod told;

pub(in crate::model) use gguf::ROPE_FREQS;
pub use granite::Multipliers;
pub use mixture::{Mixture, MixtureSettings};
pub(in crate::model) use phi::ROPE_FACTORS;

use serde_json::Value;

use crate::math::{LayerRopes, Rope};
use crate::model::ModelError;
use crate::model::gguf::Gguf;
use crate::model::rope::{RopeScaling, rope};

/// A line of the architecture table: what tells one Llama-family member from another.
#[derive(Clone, Copy, PartialEq)]
pub struct Architecture {
    /// `architectures[0]` of `config.json`.
    pub hf_name: &'static str,
    /// `model_type` of `config.json`, where it has one.
    pub model_types: &'static [&'static str],
    /// `general.architecture` of a GGUF file.
    pub gguf_name: &'static str,
    /// Biases of q, k and v, and of the attention's output; `None` where `attention_bias` says so for both.
    pub attention_bias: Option<(Bias, Bias)>,
    /// Whether `mlp_bias` is heeded.
    pub has_mlp_bias: bool,
    /// Whether queries and keys pass an RMS norm before RoPE.
    pub qk_norm: bool,
    /// Which layers of a folder's model have a sliding window.
    pub windows: Windows,
    /// `num_key_value_heads` where it is absent; `None` for as many as query heads.
    pub default_kv_heads: Option<usize>,
    /// `head_dim` where it is absent; `None` for the hidden size divided by the query heads.
    pub default_head_dim: Option<usize>,
    /// Whether GGUF files store q and k rows for interleaved instead of half-split rotation.
    pub gguf_interleaved: bool,
    /// How its layers differ from Llama's.
    pub style: Style,
}

/// How the layers of an architecture differ from Llama's.
#[derive(Clone, Copy, PartialEq)]
pub struct Style {
    /// What the gate of the feed-forward layer passes.
    pub activation: Activation,
    /// Whether what attention and the feed-forward layer are given passes a norm first.
    pub pre_norms: bool,
    /// Whether what attention and the feed-forward layer give passes a norm before it is added to the residual stream.
    pub post_norms: bool,
    /// Whether norms of queries and keys are of all heads together, and not of each by itself.
    pub joint_qk_norm: bool,
    /// Whether q, k and v are stored as one matrix, and gate and up as another, and a part of each head turns by LongRoPE.
    pub is_phi: bool,
    /// Whether folders store the weights of norms less 1.
    pub norms_less_one: bool,
    /// Whether embeddings are multiplied by the root of the hidden size.
    pub scales_embedding: bool,
    /// Whether it has multipliers of its own ([`Multipliers`]), and one of attention.
    pub has_multipliers: bool,
    /// What states its mixtures of experts; `None` where every feed-forward layer is of the usual kind.
    pub mixture: Option<MixtureSettings>,
    /// Every so-manieth layer has no rotary embedding, unless `no_rope_layers` says which; `None` where all have one.
    pub unrotated_period: Option<usize>,
    /// Base of the rotary embedding where it is absent.
    pub default_theta: f64,
    /// `rms_norm_eps` where it is absent.
    pub default_eps: f64,
    /// Whether the embedding is the output matrix where `tie_word_embeddings` is absent.
    pub tied_by_default: bool,
    /// `query_pre_attn_scalar` where it is absent: logits are products over its root. `None` for the head dimension, whatever is
    /// stated.
    pub query_scalar: Option<f64>,
    /// Bases of the rotary embeddings where they are absent: of layers that see all, and of those with a window. `None` for one
    /// embedding in all layers.
    pub rope_thetas: Option<[f64; 2]>,
}

/// What the gate of a feed-forward layer passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + exp(-x)).
    Silu,
    /// x Φ(x), Φ by its approximation with a hyperbolic tangent.
    GeluTanh,
}

impl Activation {
    /// Whether `config.json` means it by that name.
    pub(in crate::model) fn is_called(self, name: &str) -> bool {
        match self {
            Self::Silu => matches!(name, "silu" | "swish"),
            Self::GeluTanh => name == "gelu_pytorch_tanh",
        }
    }
}

/// Whether a linear map adds a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// Never.
    None,
    /// Always; a checkpoint without it is incomplete.
    Required,
    /// Where the checkpoint holds one, as GGUF files have it.
    IfStored,
}

/// Which layers have the sliding window of `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// None, whatever is stated.
    Never,
    /// All, or those that `layer_types` names.
    Always,
    /// With `use_sliding_window`, those from `max_window_layers` on, or those that `layer_types` names.
    Switched,
    /// With `use_sliding_window`, all, or those that `layer_types` names.
    SwitchedAtOnce,
    /// All but every so-manieth, of which `sliding_window_pattern` may state another number, or those that `layer_types` names.
    ButEvery(usize),
    /// With `use_sliding_window`, those without a rotary embedding, or those that `layer_types` names.
    Unrotated,
}

const LLAMA_STYLE: Style = Style {
    activation: Activation::Silu,
    pre_norms: true,
    post_norms: false,
    joint_qk_norm: false,
    is_phi: false,
    norms_less_one: false,
    scales_embedding: false,
    has_multipliers: false,
    mixture: None,
    unrotated_period: None,
    default_theta: 1e4,
    default_eps: 1e-6,
    tied_by_default: false,
    query_scalar: None,
    rope_thetas: None,
};

const LLAMA: Architecture = Architecture {
    hf_name: "LlamaForCausalLM",
    model_types: &["llama"],
    gguf_name: "llama",
    attention_bias: None,
    has_mlp_bias: true,
    qk_norm: false,
    windows: Windows::Never,
    default_kv_heads: None,
    default_head_dim: None,
    gguf_interleaved: true,
    style: LLAMA_STYLE,
};

const MISTRAL: Architecture = Architecture {
    hf_name: "MistralForCausalLM",
    model_types: &["mistral", "ministral"],
    gguf_name: "mistral",
    attention_bias: Some((Bias::None, Bias::None)),
    has_mlp_bias: false,
    windows: Windows::Always,
    default_kv_heads: Some(8),
    ..LLAMA
};

const QWEN2: Architecture = Architecture {
    hf_name: "Qwen2ForCausalLM",
    model_types: &["qwen2"],
    gguf_name: "qwen2",
    attention_bias: Some((Bias::Required, Bias::None)),
    has_mlp_bias: false,
    windows: Windows::Switched,
    default_kv_heads: Some(32),
    gguf_interleaved: false,
    ..LLAMA
};

/// Every supported architecture. Mistral's and Mixtral's GGUF files call themselves `llama`; the latter's have experts.
pub const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    MISTRAL,
    Architecture { hf_name: "MinistralForCausalLM", gguf_name: "ministral", ..MISTRAL },
    QWEN2,
    Architecture {
        hf_name: "Qwen3ForCausalLM",
        model_types: &["qwen3"],
        gguf_name: "qwen3",
        attention_bias: None,
        qk_norm: true,
        default_head_dim: Some(128),
        ..QWEN2
    },
    Architecture {
        hf_name: "Qwen3MoeForCausalLM",
        model_types: &["qwen3_moe"],
        gguf_name: "qwen3moe",
        attention_bias: None,
        qk_norm: true,
        windows: Windows::SwitchedAtOnce,
        default_kv_heads: Some(4),
        style: Style { mixture: Some(MixtureSettings::Qwen3), ..LLAMA_STYLE },
        ..QWEN2
    },
    Architecture {
        hf_name: "MixtralForCausalLM",
        model_types: &["mixtral"],
        gguf_name: "llama",
        style: Style { mixture: Some(MixtureSettings::Mixtral), default_theta: 1e6, default_eps: 1e-5, ..LLAMA_STYLE },
        ..MISTRAL
    },
    Architecture {
        hf_name: "Gemma3ForCausalLM",
        model_types: &["gemma3_text"],
        gguf_name: "gemma3",
        has_mlp_bias: false,
        qk_norm: true,
        windows: Windows::ButEvery(6),
        default_kv_heads: Some(4),
        default_head_dim: Some(256),
        gguf_interleaved: false,
        style: Style {
            activation: Activation::GeluTanh,
            post_norms: true,
            norms_less_one: true,
            scales_embedding: true,
            tied_by_default: true,
            query_scalar: Some(256.0),
            rope_thetas: Some([1e6, 1e4]),
            ..LLAMA_STYLE
        },
        ..LLAMA
    },
    Architecture {
        hf_name: "GraniteForCausalLM",
        model_types: &["granite"],
        gguf_name: "granite",
        style: Style { has_multipliers: true, ..LLAMA_STYLE },
        ..LLAMA
    },
    Architecture {
        hf_name: "Olmo2ForCausalLM",
        model_types: &["olmo2"],
        gguf_name: "olmo2",
        has_mlp_bias: false,
        qk_norm: true,
        gguf_interleaved: false,
        style: Style { pre_norms: false, post_norms: true, joint_qk_norm: true, default_eps: 1e-5, ..LLAMA_STYLE },
        ..LLAMA
    },
    Architecture {
        hf_name: "Phi3ForCausalLM",
        model_types: &["phi3"],
        gguf_name: "phi3",
        attention_bias: Some((Bias::None, Bias::None)),
        has_mlp_bias: false,
        windows: Windows::Always,
        gguf_interleaved: false,
        style: Style { is_phi: true, default_eps: 1e-5, ..LLAMA_STYLE },
        ..LLAMA
    },
    Architecture {
        hf_name: "SmolLM3ForCausalLM",
        model_types: &["smollm3"],
        gguf_name: "smollm3",
        windows: Windows::Unrotated,
        default_kv_heads: Some(4),
        style: Style { unrotated_period: Some(4), default_theta: 2e6, tied_by_default: true, ..LLAMA_STYLE },
        ..LLAMA
    },
];

/// A decoder of the Llama family.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// Line of [`ARCHITECTURES`].
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer, where it is no mixture of experts.
    pub ffn_size: usize,
    /// Its mixtures of experts.
    pub mixture: Option<Mixture>,
    /// Decoder layers.
    pub n_layers: usize,
    /// Query heads of a layer.
    pub n_q_heads: usize,
    /// Key/value heads of a layer.
    pub n_kv_heads: usize,
    /// Numbers in one head's key.
    pub head_dim: usize,
    /// The first of them, which the rotary embedding turns.
    pub rotary_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Stretching of the rotary embedding.
    pub rope_scaling: RopeScaling,
    /// Base and stretching of the rotary embedding in layers with a window, where these have one of their own.
    pub local_rope: Option<(f64, RopeScaling)>,
    /// Multipliers that are 1 in most models.
    pub multipliers: Multipliers,
    /// Layers without a rotary embedding, rising.
    pub unrotated: Vec<usize>,
    /// Attention logits are products of queries and keys over the root of this.
    pub query_scalar: f64,
    /// Longest context stated, in tokens.
    pub max_positions: usize,
    /// Of each layer, how many latest tokens queries see, themselves included; `None` for all.
    pub windows: Vec<Option<usize>>,
    /// Whether the output matrix is the embedding.
    pub tied_output: bool,
    /// Whether q, k and v projections carry a bias.
    pub qkv_bias: Bias,
    /// Whether the attention's output projection carries a bias.
    pub o_bias: Bias,
    /// Whether the feed-forward layer's matrices carry a bias.
    pub mlp_bias: Bias,
    /// Whether the output matrix carries a bias.
    pub output_bias: Bias,
}

/// Limits against absurd sizes in a stranger's file; far above any real model.
const MAX_LAYERS: usize = 4096;
const MAX_WIDTH: usize = 1 << 22;
const MAX_POSITIONS: usize = 1 << 31;

impl Config {
    /// Query heads that share one KV head.
    pub fn group(&self) -> usize {
        self.n_q_heads / self.n_kv_heads
    }

    /// Reads `config.json`, in the forms of transformers 4 and 5.
    ///
    /// - Errors: a setting that is missing, of another type, out of range, or that changes what is computed in a way that is
    ///   not supported; each by its name
    pub fn from_hf(json: &Value) -> Result<Self, ModelError> {
        hf::read(json)?.checked()
    }

    /// Reads GGUF metadata.
    ///
    /// - Errors: as [`Config::from_hf`]
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let config = gguf::read(gguf)?;
        let name = config.architecture.gguf_name;
        config.checked().map_err(|error| gguf::in_own_words(error, name))
    }

    /// Refuses numbers that cannot belong to a model, before anything is allocated for them.
    fn checked(mut self) -> Result<Self, ModelError> {
        let sizes = [
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.ffn_size, MAX_WIDTH),
            ("num_hidden_layers", self.n_layers, MAX_LAYERS),
            ("num_attention_heads", self.n_q_heads, MAX_WIDTH),
            ("num_key_value_heads", self.n_kv_heads, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_WIDTH),
            ("vocab_size", self.vocab_size, 1 << 28),
            ("max_position_embeddings", self.max_positions, MAX_POSITIONS),
        ];
        for (key, value, limit) in sizes {
            if value == 0 || value > limit {
                return Err(ModelError::config(key, format!("is {value}, which no model has")));
            }
        }
        if let Some(mixture) = &self.mixture {
            mixture.check(MAX_WIDTH)?;
        }
        if !self.n_q_heads.is_multiple_of(self.n_kv_heads) {
            let what = format!("is {}, which does not divide {} query heads", self.n_kv_heads, self.n_q_heads);
            return Err(ModelError::config("num_key_value_heads", what));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ModelError::config("head_dim", format!("is {}; rotation needs an even number", self.head_dim)));
        }
        if self.rotary_dim == 0 || self.rotary_dim > self.head_dim || !self.rotary_dim.is_multiple_of(2) {
            let what = format!("makes {} of a head's {} numbers turn", self.rotary_dim, self.head_dim);
            return Err(ModelError::config("partial_rotary_factor", what));
        }
        if self.windows.contains(&Some(0)) {
            return Err(ModelError::config("sliding_window", "is 0: a query must see itself"));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            let what = format!("is {}; a number of at least 0 is needed", self.rms_norm_eps);
            return Err(ModelError::config("rms_norm_eps", what));
        }
        positive("query_pre_attn_scalar", self.query_scalar)?;
        self.check_rope("rope_theta", self.rope_theta, &self.rope_scaling)?;
        if let Some((theta, scaling)) = &self.local_rope {
            self.check_rope("rope_local_base_freq", *theta, scaling)?;
        }
        self.max_positions = self.rope_scaling.max_positions(self.max_positions);
        Ok(self)
    }

    /// The mixture of experts of a layer that has one.
    pub(crate) fn mixture_of(&self, layer: usize) -> Option<&Mixture> {
        self.mixture.as_ref().filter(|mixture| !mixture.dense_layers.contains(&layer))
    }

    /// Numbers that a token takes at most in a feed-forward layer, between its input and what is added to the residual stream.
    pub(crate) fn ffn_activations(&self) -> usize {
        let dense = 3 * self.ffn_size;
        // All tokens may pass one expert: their inputs, its outputs and what lies between, beside every logit and route.
        let mixed = |m: &Mixture| 2 * self.hidden_size + 3 * m.expert_size + 2 * m.n_experts + 4 * m.n_used;
        self.mixture.as_ref().map_or(dense, |mixture| mixed(mixture).max(dense))
    }

    /// The rotary embeddings of the layers.
    pub(crate) fn ropes(&self) -> LayerRopes {
        let mut kinds = vec![self.rope()];
        kinds.extend(self.local_rope());
        let n_turning = kinds.len();
        if !self.unrotated.is_empty() {
            kinds.push(Rope::none(self.head_dim));
        }
        let kind = |(layer, window): (usize, &Option<usize>)| match self.unrotated.contains(&layer) {
            true => n_turning,
            // The second is that of layers with a window.
            false => usize::from(window.is_some()).min(n_turning - 1),
        };
        let of_layer = self.windows.iter().enumerate().map(kind).collect();
        LayerRopes::new(kinds, of_layer)
    }

    /// The rotary embedding of layers that see all.
    pub(crate) fn rope(&self) -> Rope {
        rope([self.rotary_dim, self.head_dim], self.rope_theta, &self.rope_scaling)
    }

    /// That of layers with a window, where these have one of their own.
    pub(crate) fn local_rope(&self) -> Option<Rope> {
        self.local_rope.as_ref().map(|(theta, scaling)| rope([self.rotary_dim, self.head_dim], *theta, scaling))
    }

    /// Refuses texts that are longer than the model's context.
    ///
    /// - Errors: [`ModelError::TooLong`]
    pub(crate) fn check_length(&self, n_tokens: usize) -> Result<(), ModelError> {
        if n_tokens <= self.max_positions { Ok(()) } else { Err(self.too_long(n_tokens, self.max_positions)) }
    }

    /// The error for texts that are longer than `max_positions`, the model's context or what is left of it.
    pub(crate) fn too_long(&self, n_tokens: usize, max_positions: usize) -> ModelError {
        let why = match self.rope_scaling {
            RopeScaling::LongRope { .. } => ", beyond which LongRoPE has other frequencies from the first token on",
            RopeScaling::Dynamic { .. } => ", beyond which dynamic RoPE turns all keys anew, as a cache cannot",
            _ => "",
        };
        ModelError::TooLong { n_tokens, max_positions, why }
    }

    /// By what queries are multiplied so that their products with keys over √D are the logits of attention.
    pub(in crate::model) fn query_factor(&self) -> f32 {
        (self.head_dim as f64 / self.query_scalar).sqrt() as f32
    }

    /// By what embeddings are multiplied.
    pub(in crate::model) fn embedding_factor(&self) -> f32 {
        match self.architecture.style.scales_embedding {
            true => (self.hidden_size as f64).sqrt() as f32,
            false => self.multipliers.embedding as f32,
        }
    }

    /// Refuses divisors of another number than there are frequencies, or that are no divisors.
    fn check_divisors(&self, key: &str, divisors: &[f32]) -> Result<(), ModelError> {
        let needed = self.rotary_dim / 2;
        if divisors.len() != needed {
            let what = format!("has {} factors where {needed} are needed", divisors.len());
            return Err(ModelError::config(key, what));
        }
        divisors.iter().try_for_each(|divisor| positive(key, f64::from(*divisor)))
    }

    /// Refuses a rotary embedding whose angles are no numbers.
    fn check_rope(&self, key: &str, theta: f64, scaling: &RopeScaling) -> Result<(), ModelError> {
        positive(key, theta)?;
        match scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => positive("rope_scaling.factor", *factor)?,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                positive("rope_scaling.factor", *factor)?;
                positive("rope_scaling.low_freq_factor", *low_freq_factor)?;
                positive("rope_scaling.original_max_position_embeddings", *original_max_positions)?;
                positive("rope_scaling.high_freq_factor", *high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let what = format!("is {high_freq_factor}, which is not above low_freq_factor, {low_freq_factor}");
                    return Err(ModelError::config("rope_scaling.high_freq_factor", what));
                }
            }
            RopeScaling::Yarn(yarn) => {
                positive("rope_scaling.factor", yarn.factor)?;
                positive("rope_scaling.original_max_position_embeddings", yarn.original_max_positions)?;
                positive("rope_scaling.beta_slow", yarn.beta_slow)?;
                positive("rope_scaling.attention_factor", yarn.attention_factor)?;
                if !(yarn.beta_fast.is_finite() && yarn.beta_fast >= yarn.beta_slow) {
                    let what = format!("is {}, which is below beta_slow, {}", yarn.beta_fast, yarn.beta_slow);
                    return Err(ModelError::config("rope_scaling.beta_fast", what));
                }
                if scaling.max_positions(self.max_positions) > MAX_POSITIONS {
                    let what = format!("is {}, which makes a context longer than any model has", yarn.factor);
                    return Err(ModelError::config("rope_scaling.factor", what));
                }
            }
            RopeScaling::Dynamic { factor } => {
                if !(factor.is_finite() && *factor >= 1.0) {
                    let what = format!("is {factor}; a number of at least 1 is needed");
                    return Err(ModelError::config("rope_scaling.factor", what));
                }
            }
            RopeScaling::LongRope { short, original_max_positions, attention_factor } => {
                self.check_divisors("rope_scaling.short_factor", short)?;
                positive("rope_scaling.attention_factor", *attention_factor)?;
                if *original_max_positions < 2 {
                    let what = format!("is {original_max_positions}, which no model has");
                    return Err(ModelError::config("original_max_position_embeddings", what));
                }
            }
            RopeScaling::Factors(factors) => self.check_divisors(ROPE_FREQS, factors)?,
        }
        if !rope([self.rotary_dim, self.head_dim], theta, scaling)
            .is_finite_up_to(scaling.max_positions(self.max_positions))
        {
            let what = format!("is {theta}, with which the largest angle is no number");
            return Err(ModelError::config(key, what));
        }
        Ok(())
    }
}

/// Refuses a number that is not above 0.
fn positive(key: &str, value: f64) -> Result<(), ModelError> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(ModelError::config(key, format!("is {value}; a number above 0 is needed"))),
    }
}
