//! What a checkpoint says about its model, from `config.json` or GGUF metadata, in one form.

use serde_json::Value;

use crate::model::ModelError;
use crate::model::gguf::Gguf;

/// A line of the architecture table: what tells one Llama-family member from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// `architectures[0]` of `config.json`.
    pub hf_name: &'static str,
    /// `general.architecture` of a GGUF file.
    pub gguf_name: &'static str,
    /// Whether q, k and v projections carry a bias even when the configuration does not say so.
    pub qkv_bias: bool,
    /// Whether queries and keys pass an RMS norm per head before RoPE.
    pub qk_norm: bool,
    /// Whether the configuration's sliding window is in force without a further switch.
    pub sliding_window: bool,
    /// Whether GGUF files store q and k rows for interleaved instead of half-split rotation.
    pub gguf_interleaved: bool,
}

/// Every supported architecture. Mistral's GGUF files call themselves `llama`.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        hf_name: "LlamaForCausalLM",
        gguf_name: "llama",
        qkv_bias: false,
        qk_norm: false,
        sliding_window: false,
        gguf_interleaved: true,
    },
    Architecture {
        hf_name: "MistralForCausalLM",
        gguf_name: "mistral",
        qkv_bias: false,
        qk_norm: false,
        sliding_window: true,
        gguf_interleaved: true,
    },
    Architecture {
        hf_name: "Qwen2ForCausalLM",
        gguf_name: "qwen2",
        qkv_bias: true,
        qk_norm: false,
        sliding_window: false,
        gguf_interleaved: false,
    },
    Architecture {
        hf_name: "Qwen3ForCausalLM",
        gguf_name: "qwen3",
        qkv_bias: false,
        qk_norm: true,
        sliding_window: false,
        gguf_interleaved: false,
    },
];

/// How rotary frequencies are stretched for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by one factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the first training.
        original_max_positions: f64,
    },
    /// One divisor per frequency, as GGUF stores Llama 3's.
    Factors(Vec<f32>),
}

/// A decoder of the Llama family.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Line of [`ARCHITECTURES`].
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub ffn_size: usize,
    /// Decoder layers.
    pub n_layers: usize,
    /// Query heads of a layer.
    pub n_q_heads: usize,
    /// Key/value heads of a layer.
    pub n_kv_heads: usize,
    /// Numbers in one head's key.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Stretching of the rotary embedding.
    pub rope_scaling: RopeScaling,
    /// Longest context stated, in tokens.
    pub max_positions: usize,
    /// Queries see this many latest tokens, themselves included; `None` for all.
    pub sliding_window: Option<usize>,
    /// Whether the output matrix is the embedding.
    pub tied_output: bool,
    /// Whether q, k and v projections carry a bias.
    pub qkv_bias: bool,
}

/// Limits against absurd sizes in a stranger's file; far above any real model.
const MAX_LAYERS: usize = 4096;
const MAX_WIDTH: usize = 1 << 22;

impl Config {
    /// Query heads that share one KV head.
    pub fn group(&self) -> usize {
        self.n_q_heads / self.n_kv_heads
    }

    /// Reads `config.json`. Both the form with `rope_theta`/`rope_scaling` and that with `rope_parameters` are known.
    pub fn from_hf(json: &Value) -> Result<Self, ModelError> {
        let name = json["architectures"][0].as_str().unwrap_or("no architecture");
        let architecture = *ARCHITECTURES
            .iter()
            .find(|a| a.hf_name == name)
            .ok_or_else(|| ModelError::unsupported_architecture(name))?;
        let count = |key: &str| {
            json.get(key)
                .and_then(Value::as_u64)
                .map(|x| x as usize)
                .ok_or_else(|| ModelError::config(key, "is missing"))
        };
        if let Some(act) = json.get("hidden_act").and_then(Value::as_str).filter(|act| *act != "silu") {
            return Err(ModelError::config("hidden_act", format!("is {act}; only silu is supported")));
        }
        for key in ["mlp_bias"] {
            if json.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(ModelError::config(key, "is true; only models without it are supported"));
            }
        }
        let n_q_heads = count("num_attention_heads")?;
        let hidden_size = count("hidden_size")?;
        let optional = |key: &str| json.get(key).and_then(Value::as_u64).map(|x| x as usize);
        let rope = json.get("rope_parameters").filter(|v| v.is_object());
        let rope_theta = rope
            .and_then(|r| r.get("rope_theta"))
            .or_else(|| json.get("rope_theta"))
            .and_then(Value::as_f64)
            .unwrap_or(10_000.0);
        let scaling = rope.or_else(|| json.get("rope_scaling")).filter(|v| v.is_object());
        let uses_window =
            architecture.sliding_window || json.get("use_sliding_window").and_then(Value::as_bool) == Some(true);
        let config = Self {
            architecture,
            hidden_size,
            ffn_size: count("intermediate_size")?,
            n_layers: count("num_hidden_layers")?,
            n_q_heads,
            n_kv_heads: optional("num_key_value_heads").unwrap_or(n_q_heads),
            head_dim: optional("head_dim").unwrap_or(hidden_size / n_q_heads.max(1)),
            vocab_size: count("vocab_size")?,
            rms_norm_eps: json.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6),
            rope_theta,
            rope_scaling: hf_scaling(scaling)?,
            max_positions: count("max_position_embeddings")?,
            sliding_window: optional("sliding_window").filter(|_| uses_window),
            tied_output: json.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            qkv_bias: architecture.qkv_bias || json.get("attention_bias").and_then(Value::as_bool) == Some(true),
        };
        if architecture.qkv_bias && uses_window {
            return Err(ModelError::config(
                "use_sliding_window",
                "is true; layers with mixed windows are not supported",
            ));
        }
        config.check()?;
        Ok(config)
    }

    /// Reads GGUF metadata; shapes that metadata leaves out come from the tensors.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let name = gguf.str_of("general.architecture")?.unwrap_or("no architecture");
        let architecture = *ARCHITECTURES
            .iter()
            .find(|a| a.gguf_name == name)
            .ok_or_else(|| ModelError::unsupported_architecture(name))?;
        let key = |suffix: &str| format!("{name}.{suffix}");
        let optional = |suffix: &str| Ok::<_, ModelError>(gguf.u64_of(&key(suffix))?.map(|x| x as usize));
        let real = |suffix: &str| Ok::<_, ModelError>(gguf.f64_of(&key(suffix))?);
        let missing = |suffix: &str| ModelError::config(&key(suffix), "is missing");
        let count = |suffix: &str| optional(suffix)?.ok_or_else(|| missing(suffix));
        let has_tensor = |name: &str| gguf.tensors().contains_key(name);
        let n_q_heads = count("attention.head_count")?;
        let hidden_size = count("embedding_length")?;
        let embedding = gguf.tensor_info("token_embd.weight")?;
        let rope_scaling = if has_tensor("rope_freqs.weight") {
            RopeScaling::Factors(gguf.tensor("rope_freqs.weight")?.flatten_all()?.to_vec1()?)
        } else {
            match gguf.str_of(&key("rope.scaling.type"))? {
                None | Some("none") => RopeScaling::None,
                Some("linear") => RopeScaling::Linear {
                    factor: real("rope.scaling.factor")?.ok_or_else(|| missing("rope.scaling.factor"))?,
                },
                Some(other) => {
                    let what = format!("is {other}; none, linear and the llama3 factors are supported");
                    return Err(ModelError::config(&key("rope.scaling.type"), what));
                }
            }
        };
        let config = Self {
            architecture,
            hidden_size,
            ffn_size: count("feed_forward_length")?,
            n_layers: count("block_count")?,
            n_q_heads,
            n_kv_heads: optional("attention.head_count_kv")?.unwrap_or(n_q_heads),
            head_dim: optional("attention.key_length")?.unwrap_or(hidden_size / n_q_heads.max(1)),
            vocab_size: embedding.shape.first().copied().unwrap_or(0),
            rms_norm_eps: real("attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| missing("attention.layer_norm_rms_epsilon"))?,
            rope_theta: real("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling,
            max_positions: count("context_length")?,
            sliding_window: optional("attention.sliding_window")?.filter(|x| *x > 0),
            tied_output: !has_tensor("output.weight"),
            qkv_bias: has_tensor("blk.0.attn_q.bias"),
        };
        config.check()?;
        Ok(config)
    }

    /// Refuses numbers that cannot belong to a model, before anything is allocated for them.
    fn check(&self) -> Result<(), ModelError> {
        let positive = [
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.ffn_size, MAX_WIDTH),
            ("num_hidden_layers", self.n_layers, MAX_LAYERS),
            ("num_attention_heads", self.n_q_heads, MAX_WIDTH),
            ("num_key_value_heads", self.n_kv_heads, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_WIDTH),
            ("vocab_size", self.vocab_size, 1 << 28),
            ("max_position_embeddings", self.max_positions, 1 << 31),
        ];
        for (key, value, limit) in positive {
            if value == 0 || value > limit {
                return Err(ModelError::config(key, format!("is {value}, which no model has")));
            }
        }
        if !self.n_q_heads.is_multiple_of(self.n_kv_heads) {
            let what = format!("is {}, which does not divide {} query heads", self.n_kv_heads, self.n_q_heads);
            return Err(ModelError::config("num_key_value_heads", what));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ModelError::config("head_dim", format!("is {}; rotation needs an even number", self.head_dim)));
        }
        if let RopeScaling::Factors(factors) = &self.rope_scaling
            && factors.len() != self.head_dim / 2
        {
            let what = format!("has {} factors where {} are needed", factors.len(), self.head_dim / 2);
            return Err(ModelError::config("rope_freqs.weight", what));
        }
        Ok(())
    }
}

fn hf_scaling(scaling: Option<&Value>) -> Result<RopeScaling, ModelError> {
    let Some(scaling) = scaling else { return Ok(RopeScaling::None) };
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str).unwrap_or("default");
    let real = |key: &str| {
        let name = format!("rope_scaling.{key}");
        scaling.get(key).and_then(Value::as_f64).ok_or_else(|| ModelError::config(&name, "is missing"))
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: real("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: real("factor")?,
            low_freq_factor: real("low_freq_factor")?,
            high_freq_factor: real("high_freq_factor")?,
            original_max_positions: real("original_max_position_embeddings")?,
        }),
        other => {
            Err(ModelError::config("rope_scaling", format!("is {other}; default, linear and llama3 are supported")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json() -> Value {
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
            "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512, "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        })
    }

    #[test]
    fn both_styles_of_rope_settings_are_read() {
        let mut old = json();
        old["rope_theta"] = 5e5.into();
        old["rope_scaling"] = serde_json::json!({"type": "linear", "factor": 2.0});
        let config = Config::from_hf(&old).unwrap();
        assert_eq!((config.head_dim, config.group(), config.rope_theta), (8, 2, 5e5));
        assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 2.0 });
        let mut new = json();
        new["rope_parameters"] = serde_json::json!({"rope_type": "default", "rope_theta": 1e5});
        let config = Config::from_hf(&new).unwrap();
        assert_eq!((config.rope_theta, config.rope_scaling), (1e5, RopeScaling::None));
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let with = |key: &str, value: Value| {
            let mut json = json();
            json[key] = value;
            Config::from_hf(&json).unwrap_err().to_string()
        };
        assert!(with("architectures", serde_json::json!(["MambaForCausalLM"])).contains("MambaForCausalLM"));
        assert!(with("hidden_act", "gelu".into()).contains("gelu"));
        assert!(with("num_key_value_heads", 3.into()).contains("does not divide"));
        assert!(with("num_hidden_layers", 0.into()).contains("num_hidden_layers"));
        assert!(with("num_hidden_layers", 1_000_000.into()).contains("no model has"));
        assert!(with("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 4.0})).contains("yarn"));
        let mut missing = json();
        missing.as_object_mut().unwrap().remove("vocab_size");
        assert!(Config::from_hf(&missing).unwrap_err().to_string().contains("vocab_size"));
    }
}
