//! Settings as text, of which a model's fingerprint is made.
//!
//! What a model has in common with Llama is left out of the later fields, so that a new field changes no fingerprint.

use std::fmt::{Debug, Formatter, Result};

use crate::model::config::{Architecture, Config, LLAMA_STYLE, Multipliers, Style};

impl Debug for Architecture {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { hf_name, model_types, gguf_name, attention_bias, has_mlp_bias, qk_norm, windows, .. } = self;
        let Self { default_kv_heads, default_head_dim, gguf_interleaved, style, .. } = self;
        let mut told = f.debug_struct("Architecture");
        told.field("hf_name", hf_name).field("model_types", model_types).field("gguf_name", gguf_name);
        told.field("attention_bias", attention_bias).field("has_mlp_bias", has_mlp_bias).field("qk_norm", qk_norm);
        told.field("windows", windows).field("default_kv_heads", default_kv_heads);
        told.field("default_head_dim", default_head_dim).field("gguf_interleaved", gguf_interleaved);
        if *style != LLAMA_STYLE {
            told.field("style", style);
        }
        told.finish()
    }
}

impl Debug for Style {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { activation, post_norms, norms_less_one, scales_embedding, tied_by_default, .. } = self;
        let Self { query_scalar, rope_thetas, unrotated_period, default_theta, has_multipliers, .. } = self;
        let Self { is_phi, pre_norms, joint_qk_norm, default_eps, mixture, .. } = self;
        let mut told = f.debug_struct("Style");
        told.field("activation", activation).field("post_norms", post_norms).field("norms_less_one", norms_less_one);
        told.field("scales_embedding", scales_embedding).field("tied_by_default", tied_by_default);
        told.field("query_scalar", query_scalar).field("rope_thetas", rope_thetas);
        if !pre_norms {
            told.field("pre_norms", pre_norms);
        }
        if *joint_qk_norm {
            told.field("joint_qk_norm", joint_qk_norm);
        }
        if *default_eps != LLAMA_STYLE.default_eps {
            told.field("default_eps", default_eps);
        }
        if *is_phi {
            told.field("is_phi", is_phi);
        }
        if let Some(mixture) = mixture {
            told.field("mixture", mixture);
        }
        if *has_multipliers {
            told.field("has_multipliers", has_multipliers);
        }
        if *unrotated_period != LLAMA_STYLE.unrotated_period {
            told.field("unrotated_period", unrotated_period);
        }
        if *default_theta != LLAMA_STYLE.default_theta {
            told.field("default_theta", default_theta);
        }
        told.finish()
    }
}

impl Debug for Config {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { architecture, hidden_size, ffn_size, n_layers, n_q_heads, n_kv_heads, head_dim, .. } = self;
        let Self { vocab_size, rms_norm_eps, rope_theta, rope_scaling, local_rope, query_scalar, .. } = self;
        let Self { rotary_dim, unrotated, multipliers, mixture, .. } = self;
        let Self { max_positions, windows, tied_output, qkv_bias, o_bias, mlp_bias, output_bias, .. } = self;
        let mut told = f.debug_struct("Config");
        told.field("architecture", architecture).field("hidden_size", hidden_size).field("ffn_size", ffn_size);
        told.field("n_layers", n_layers).field("n_q_heads", n_q_heads).field("n_kv_heads", n_kv_heads);
        told.field("head_dim", head_dim).field("vocab_size", vocab_size).field("rms_norm_eps", rms_norm_eps);
        told.field("rope_theta", rope_theta).field("rope_scaling", rope_scaling);
        told.field("max_positions", max_positions).field("windows", windows).field("tied_output", tied_output);
        told.field("qkv_bias", qkv_bias).field("o_bias", o_bias).field("mlp_bias", mlp_bias);
        told.field("output_bias", output_bias);
        if let Some(local_rope) = local_rope {
            told.field("local_rope", local_rope);
        }
        if *query_scalar != *head_dim as f64 {
            told.field("query_scalar", query_scalar);
        }
        if rotary_dim != head_dim {
            told.field("rotary_dim", rotary_dim);
        }
        if *multipliers != Multipliers::NONE {
            told.field("multipliers", multipliers);
        }
        if let Some(mixture) = mixture {
            told.field("mixture", mixture);
        }
        if !unrotated.is_empty() {
            told.field("unrotated", unrotated);
        }
        told.finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::model::config::Config;

    #[test]
    fn what_is_as_in_llama_is_not_told() {
        let json = |architecture: &str| {
            serde_json::json!({
                "architectures": [architecture], "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 16,
                "max_position_embeddings": 32, "sliding_window": 8,
            })
        };
        let told = |architecture: &str| format!("{:?}", Config::from_hf(&json(architecture)).unwrap());
        // As recorded fingerprints have it.
        assert_eq!(
            told("LlamaForCausalLM"),
            "Config { architecture: Architecture { hf_name: \"LlamaForCausalLM\", model_types: [\"llama\"], gguf_name: \"llama\", \
             attention_bias: None, has_mlp_bias: true, qk_norm: false, windows: Never, default_kv_heads: None, \
             default_head_dim: None, gguf_interleaved: true }, hidden_size: 8, ffn_size: 12, n_layers: 1, n_q_heads: 2, \
             n_kv_heads: 1, head_dim: 4, vocab_size: 16, rms_norm_eps: 1e-6, rope_theta: 10000.0, rope_scaling: None, \
             max_positions: 32, windows: [None], tied_output: false, qkv_bias: None, o_bias: None, mlp_bias: None, \
             output_bias: None }"
        );
        let gemma = told("Gemma3ForCausalLM");
        assert!(
            gemma.contains("post_norms: true") && gemma.contains("local_rope: (10000.0, None), query_scalar: 256.0"),
            "{gemma}"
        );
        // Of a style that a recorded fingerprint has, all is told that was told then.
        let style = "Style { activation: GeluTanh, post_norms: true, norms_less_one: true, scales_embedding: true, \
                     tied_by_default: true, query_scalar: Some(256.0), rope_thetas: Some([1000000.0, 10000.0]) }";
        assert!(gemma.contains(style), "{gemma}");
        let smollm = told("SmolLM3ForCausalLM");
        assert!(smollm.contains("unrotated_period: Some(4), default_theta: 2000000.0 }"), "{smollm}");
    }
}
