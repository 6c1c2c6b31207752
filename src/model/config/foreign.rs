//! Settings of other models that change what is computed: named and refused unless they are at the value that changes nothing.
//!
//! Code for the Llama family that honours a setting of this list exists somewhere; a checkpoint that carries one is either for
//! that code, or has it switched off.

use serde_json::Value;

use crate::model::ModelError;
use crate::model::config::settings::{Settings, shown};
use crate::model::config::{Architecture, MixtureSettings, Style};
use crate::model::gguf;
use crate::model::gguf::Gguf;

/// Which value changes nothing.
#[derive(Clone, Copy, Debug)]
enum Neutral {
    /// None, false, 0, or nothing in it.
    Off,
    /// A factor of 1, or none.
    One,
    /// One of something, which is as none.
    AtMostOne,
    /// True, or none.
    On,
    /// The architecture's activation, or none.
    Activation,
    /// The softmax, or none.
    Softmax,
}

use Neutral::{Activation, AtMostOne, Off, On, One, Softmax};

/// Settings of `config.json`, and of the RoPE settings in it.
const OF_CONFIG_JSON: &[(&str, Neutral)] = &[
    ("activation_function", Activation),
    ("add_cross_attention", Off),
    ("alibi", Off),
    ("attention_chunk_size", Off),
    ("attention_in_multiplier", One),
    ("attention_multiplier", Off),
    ("attention_out_multiplier", One),
    ("attn_logit_softcapping", Off),
    ("attn_temperature_tuning", Off),
    ("clip_qkv", Off),
    ("compression_config", Off),
    ("dim_model_base", Off),
    ("embedding_multiplier", One),
    ("final_logit_softcapping", Off),
    ("hidden_act", Activation),
    ("hidden_activation", Activation),
    ("is_causal", On),
    ("key_multiplier", One),
    ("llama_4_scaling_beta", Off),
    ("lm_head_multiplier", One),
    ("logit_scale", One),
    ("logits_scaling", One),
    ("mlp_hidden_act", Activation),
    ("moe_num_experts", Off),
    ("n_routed_experts", Off),
    ("no_rope_layer_interval", Off),
    ("no_rope_layers", Off),
    ("num_experts", Off),
    ("num_local_experts", Off),
    ("num_nextn_predict_layers", Off),
    ("parallel_attn", Off),
    ("partial_rotary_factor", One),
    ("per_layer_config", Off),
    ("pruned_heads", Off),
    ("qk_layernorm", Off),
    ("qk_norm", Off),
    ("quantization_config", Off),
    ("query_pre_attn_scalar", Off),
    ("residual_multiplier", One),
    ("rope_interleave", Off),
    ("rope_interleaved", Off),
    ("rope_ratio", One),
    ("rotary_dim", Off),
    ("rotary_pct", One),
    ("scale_depth", Off),
    ("scale_emb", One),
    ("use_alibi", Off),
    ("use_bidirectional_attention", Off),
    ("use_dynamic_ntk", Off),
    ("use_logn_attn", Off),
    ("use_mrope", Off),
    ("use_parallel_residual", Off),
    ("use_qk_norm", Off),
];

/// Settings of `config.json` that act in mixtures of experts only.
const OF_MIXTURES: &[(&str, Neutral)] = &[
    ("decoder_sparse_step", AtMostOne),
    ("expert_bias", Off),
    ("first_k_dense_replace", Off),
    ("interleave_moe_layer_step", AtMostOne),
    ("mlp_only_layers", Off),
    ("moe_intermediate_size", Off),
    ("moe_layer_freq", AtMostOne),
    ("moe_router_activation_func", Softmax),
    ("moe_router_enable_expert_bias", Off),
    ("moe_shared_expert_intermediate_size", Off),
    ("n_group", AtMostOne),
    ("n_shared_experts", Off),
    ("norm_topk_prob", On),
    ("num_expert_group", AtMostOne),
    ("num_shared_experts", Off),
    ("routed_scaling_factor", One),
    ("router_bias", Off),
    ("scoring_func", Softmax),
    ("shared_expert_intermediate_size", Off),
    ("topk_group", AtMostOne),
    ("use_expert_bias", Off),
    ("use_shared_expert", Off),
];

/// Metadata of GGUF files, behind the architecture's name.
const OF_GGUF: &[(&str, Neutral)] = &[
    ("attention.causal", On),
    ("attention.chunk_size", Off),
    ("attention.clamp_kqv", Off),
    ("attention.max_alibi_bias", Off),
    ("attention.scale", Off),
    ("attention.sliding_window_pattern", Off),
    ("attention.temperature_scale", Off),
    ("attn_logit_softcapping", Off),
    ("embedding_scale", One),
    ("expert_chunk_feed_forward_length", Off),
    ("expert_count", Off),
    ("expert_gating_func", AtMostOne),
    ("expert_group_count", AtMostOne),
    ("expert_group_scale", AtMostOne),
    ("expert_group_used_count", AtMostOne),
    ("expert_shared_count", Off),
    ("expert_shared_feed_forward_length", Off),
    ("expert_weights_norm", On),
    ("expert_weights_scale", AtMostOne),
    ("experts_per_group", AtMostOne),
    ("final_logit_softcapping", Off),
    ("interleave_moe_layer_step", AtMostOne),
    ("leading_dense_block_count", Off),
    ("logit_scale", One),
    ("moe_every_n_layers", AtMostOne),
    ("nextn_predict_layers", Off),
    ("residual_scale", One),
    ("rope.dimension_sections", Off),
    ("rope.scaling.alpha", Off),
    ("rope.scaling.finetuned", On),
    ("rope.scaling.yarn_attn_factor", One),
    ("rope.scaling.yarn_ext_factor", One),
    ("rope.scaling.yarn_log_multiplier", Off),
    ("use_parallel_residual", Off),
];

/// Whether an architecture of that style reads the setting, or is the same whatever it says.
fn is_heeded(key: &str, style: Style) -> bool {
    match key {
        "attention_multiplier" | "embedding_multiplier" | "logits_scaling" | "residual_multiplier" => {
            style.has_multipliers
        }
        "attention.scale" | "embedding_scale" | "logit_scale" | "residual_scale" => style.has_multipliers,
        "num_experts" | "num_local_experts" | "expert_count" => style.mixture.is_some(),
        "decoder_sparse_step" | "mlp_only_layers" | "moe_intermediate_size" | "norm_topk_prob" => {
            style.mixture == Some(MixtureSettings::Qwen3)
        }
        "partial_rotary_factor" => style.is_phi,
        // In files of Granite it switches RoPE, in others it is a remark.
        "rope.scaling.finetuned" => !style.has_multipliers,
        "query_pre_attn_scalar" | "attention.sliding_window_pattern" => style.query_scalar.is_some(),
        "no_rope_layers" | "no_rope_layer_interval" => style.unrotated_period.is_some(),
        _ => false,
    }
}

impl Neutral {
    /// In JSON.
    fn is(self, value: &Value, architecture: Architecture) -> bool {
        let is_own = |name: &str| architecture.style.activation.is_called(name);
        let is_off = match value {
            Value::Null => true,
            Value::Bool(flag) => !flag,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(object) => object.is_empty(),
        };
        match self {
            Off => is_off,
            One => value.is_null() || value.as_f64() == Some(1.0),
            AtMostOne => is_off || value.as_f64() == Some(1.0),
            On => value.is_null() || value.as_bool() == Some(true),
            Activation => value.is_null() || value.as_str().is_some_and(is_own),
            Softmax => value.is_null() || value.as_str() == Some("softmax"),
        }
    }

    /// In GGUF, as the value that JSON would have.
    fn is_in_gguf(self, value: &gguf::Value, architecture: Architecture) -> bool {
        let json = match value {
            gguf::Value::U64(n) => (*n).into(),
            gguf::Value::I64(n) => (*n).into(),
            gguf::Value::F64(x) => (*x).into(),
            gguf::Value::Bool(flag) => (*flag).into(),
            gguf::Value::String(text) => text.as_str().into(),
            gguf::Value::U64s(list) if list.iter().all(|n| *n == 0) => Value::Null,
            gguf::Value::I64s(list) if list.iter().all(|n| *n == 0) => Value::Null,
            gguf::Value::Bools(list) if list.iter().all(|flag| !flag) => Value::Null,
            _ => return false,
        };
        self.is(&json, architecture)
    }
}

/// What to do about a setting that changes what is computed.
pub(super) const OTHER_MODEL: &str = "it changes what the model computes: use a model of the Llama family without it";

/// What a refused setting means, where its name does not say so; and what to do.
fn meaning(key: &str, value: &Value) -> (String, &'static str) {
    match key {
        "quantization_config" | "compression_config" => {
            let method = value.get("quant_method").and_then(Value::as_str).unwrap_or("an unknown method");
            let what = format!("says that the weights are quantised by {method:.40}");
            (what, "take the model's unquantised weights, or a GGUF file")
        }
        "n_routed_experts" | "num_experts" | "num_local_experts" | "moe_num_experts" | "expert_count" => {
            let what = format!("is {}: mixtures of experts of this architecture are not supported", shown(value));
            (what, "take a dense model, or a Qwen3-MoE or Mixtral checkpoint")
        }
        _ => (format!("is {}, which kvscope does not compute", shown(value)), OTHER_MODEL),
    }
}

/// Refuses what is not neutral among the settings of `config.json`, or of its RoPE settings.
pub(super) fn refuse_in_json(settings: Settings<'_>, architecture: Architecture) -> Result<(), ModelError> {
    let of_mixtures = if architecture.style.mixture.is_some() { OF_MIXTURES } else { &[] };
    for (key, neutral) in OF_CONFIG_JSON.iter().chain(of_mixtures) {
        match settings.raw(key) {
            Some(value) if !is_heeded(key, architecture.style) && !neutral.is(value, architecture) => {
                let (what, hint) = meaning(key, value);
                return Err(settings.foreign(key, what, hint));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses what is not neutral in a GGUF file's metadata.
pub(super) fn refuse_in_gguf(gguf: &Gguf, architecture: Architecture) -> Result<(), ModelError> {
    for (suffix, neutral) in OF_GGUF {
        let key = format!("{}.{suffix}", architecture.gguf_name);
        match gguf.metadata().get(&key) {
            Some(value) if !is_heeded(suffix, architecture.style) && !neutral.is_in_gguf(value, architecture) => {
                let json = match value {
                    gguf::Value::U64(n) => (*n).into(),
                    gguf::Value::I64(n) => (*n).into(),
                    gguf::Value::F64(x) => (*x).into(),
                    gguf::Value::Bool(flag) => (*flag).into(),
                    other => other.kind().into(),
                };
                let (what, hint) = meaning(suffix, &json);
                return Err(ModelError::foreign(&key, what, hint));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::ARCHITECTURES;

    #[test]
    fn every_setting_has_one_line_in_order() {
        for table in [OF_CONFIG_JSON, OF_MIXTURES, OF_GGUF] {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }

    #[test]
    fn neutral_values_pass_and_others_do_not() {
        let refused = |key: &str, value: Value| {
            let json = serde_json::json!({key: value});
            refuse_in_json(Settings::of(&json, "").unwrap(), ARCHITECTURES[0]).err().map(|error| error.to_string())
        };
        for (key, value) in [
            ("num_local_experts", serde_json::json!(null)),
            ("num_experts", serde_json::json!(0)),
            ("quantization_config", serde_json::json!({})),
            ("partial_rotary_factor", serde_json::json!(1.0)),
            ("hidden_act", serde_json::json!("swish")),
            ("is_causal", serde_json::json!(true)),
            ("unheard_of", serde_json::json!(5)),
        ] {
            assert_eq!(refused(key, value), None, "{key}");
        }
        for (key, value) in [
            ("num_local_experts", serde_json::json!(8)),
            ("partial_rotary_factor", serde_json::json!(0.5)),
            ("logits_scaling", serde_json::json!("1")),
            ("hidden_act", serde_json::json!(["silu"])),
            ("is_causal", serde_json::json!(false)),
        ] {
            assert!(refused(key, value).unwrap().contains(key), "{key}");
        }
        let gptq = refused("quantization_config", serde_json::json!({"quant_method": "gptq", "bits": 4})).unwrap();
        assert!(gptq.contains("quantised by gptq"), "{gptq}");
    }
}
