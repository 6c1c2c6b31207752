//! Names of tensors: Hugging Face's, GGUF's, and what strange ones tell about a checkpoint.

use crate::checkpoint::brief;
use crate::model::ModelError;
use crate::model::config::{ROPE_FACTORS, ROPE_FREQS, Style};
use crate::model::rope::RopeScaling;

/// How a checkpoint calls its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// `model.layers.3.…`, and `lm_head.weight`.
    HuggingFace,
    /// As [`Naming::HuggingFace`] without `model.`: saved from the model without its head.
    Headless,
    /// `blk.3.…`
    Gguf {
        /// Whether the layers have norms behind their blocks too.
        post_norms: bool,
    },
}

const EMBEDDING: &str = "embed_tokens.weight";

impl Naming {
    /// Which of Hugging Face's it is.
    ///
    /// - Errors: names with another prefix
    pub(super) fn of_safetensors<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Result<Self, ModelError> {
        let Some(embedding) = names.clone().find(|name| name.ends_with(EMBEDDING)) else {
            return Ok(Self::HuggingFace);
        };
        match embedding.strip_suffix(EMBEDDING) {
            Some("model.") => Ok(Self::HuggingFace),
            Some("") => Ok(Self::Headless),
            _ if names.into_iter().any(|name| name == "model.embed_tokens.weight") => Ok(Self::HuggingFace),
            prefix => Err(ModelError::Foreign {
                part: format!("tensor {}", brief(embedding)),
                what: format!("has the prefix {}, where model. is due", brief(prefix.unwrap_or_default())),
                hint: "rename the tensors, or save the text model alone with its own class",
            }),
        }
    }

    /// The name in the file of what Hugging Face calls `name`.
    pub(super) fn stored(self, name: &str) -> String {
        match self {
            Self::HuggingFace => name.into(),
            Self::Headless => name.strip_prefix("model.").unwrap_or(name).into(),
            Self::Gguf { post_norms } => gguf_name(name, post_norms),
        }
    }

    /// Whether it is one of Hugging Face's.
    pub(super) fn is_hugging_face(self) -> bool {
        !matches!(self, Self::Gguf { .. })
    }
}

/// `model.layers.3.self_attn.q_proj.weight` → `blk.3.attn_q.weight`.
fn gguf_name(name: &str, post_norms: bool) -> String {
    const PARTS: &[(&str, &str)] = &[
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.gate.", "ffn_gate_inp."),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("input_layernorm", "attn_norm"),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
    ];
    let behind_attention = ("post_attention_layernorm", if post_norms { "post_attention_norm" } else { "ffn_norm" });
    let parts = PARTS.iter().chain([&behind_attention]);
    parts.fold(name.to_string(), |name, (hf, gguf)| name.replace(hf, gguf))
}

/// Whether a tensor has no part in any result: buffers that older programs saved and that are computed anew, and the rotary
/// divisors, which the configuration has read.
pub(super) fn is_without_effect(name: &str, scaling: &RopeScaling) -> bool {
    const BUFFERS: &[&str] = &["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "position_ids"];
    BUFFERS.iter().any(|buffer| name == *buffer || name.ends_with(&format!(".{buffer}")))
        || match scaling {
            RopeScaling::Factors(_) => name == ROPE_FREQS,
            RopeScaling::LongRope { .. } => ROPE_FACTORS.contains(&name),
            _ => false,
        }
}

/// A kind of checkpoint that is not read.
struct Kind {
    /// A tensor with any of these in its name gives it away.
    marks: &'static [&'static str],
    what: &'static str,
    hint: &'static str,
}

const KINDS: &[Kind] = &[
    Kind {
        marks: &["lora_A", "lora_B", "lora_embedding_", "lora_magnitude", ".lora_a", ".lora_b"],
        what: "belongs to an adapter (LoRA)",
        hint: "merge the adapter into its model first",
    },
    Kind {
        marks: &[
            ".qweight",
            ".qzeros",
            ".g_idx",
            ".weight_packed",
            ".weight_scale",
            ".weight_zero_point",
            ".input_scale",
            ".quant_state.",
            ".absmax",
            ".quant_map",
            ".SCB",
            ".scales",
            ".biases",
        ],
        what: "belongs to packed (quantised) weights",
        hint: "take the model's unquantised weights, or a GGUF file",
    },
    SHARED,
    MIXTURE,
    FUSED,
];

const SHARED: Kind = Kind {
    marks: &["shared_expert", "_shexp."],
    what: "belongs to an expert that all tokens pass",
    hint: "take a dense model, or a Qwen3-MoE or Mixtral checkpoint",
};

const MIXTURE: Kind = Kind {
    marks: &[".experts.", "block_sparse_moe", "mlp.router", "_exps.", "ffn_gate_inp"],
    what: "belongs to a mixture of experts",
    hint: "take a dense model, or a Qwen3-MoE or Mixtral checkpoint",
};

const FUSED: Kind = Kind {
    marks: &["qkv_proj", "gate_up_proj", "attn_qkv", "query_key_value", "W_pack"],
    what: "holds several matrices in one",
    hint: "convert the checkpoint to the layout of its architecture's class in transformers",
};

/// The error for a tensor that shows what kind of checkpoint this is, where it is not the architecture's own.
pub(super) fn foreign(name: &str, style: &Style) -> Option<ModelError> {
    let is_own = |mark: &str| match style {
        Style { is_phi: true, .. } => FUSED.marks.contains(&mark),
        // transformers 5 has an expert's gate and up in one.
        Style { mixture: Some(_), .. } => MIXTURE.marks.contains(&mark) || mark == "gate_up_proj",
        _ => false,
    };
    let kind = KINDS.iter().find(|kind| kind.marks.iter().any(|mark| name.contains(mark) && !is_own(mark)))?;
    Some(ModelError::Foreign { part: format!("tensor {}", brief(name)), what: kind.what.into(), hint: kind.hint })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::ARCHITECTURES;

    #[test]
    fn names_of_gguf_tensors() {
        assert_eq!(gguf_name("model.layers.3.self_attn.q_proj.weight", false), "blk.3.attn_q.weight");
        assert_eq!(gguf_name("model.layers.3.self_attn.o_proj.bias", false), "blk.3.attn_output.bias");
        assert_eq!(gguf_name("model.layers.0.post_attention_layernorm.weight", false), "blk.0.ffn_norm.weight");
        let with_four = |part: &str| gguf_name(&format!("model.layers.0.{part}.weight"), true);
        assert_eq!(with_four("post_attention_layernorm"), "blk.0.post_attention_norm.weight");
        assert_eq!(with_four("pre_feedforward_layernorm"), "blk.0.ffn_norm.weight");
        assert_eq!(with_four("post_feedforward_layernorm"), "blk.0.post_ffw_norm.weight");
        assert_eq!(gguf_name("model.layers.11.input_layernorm.weight", false), "blk.11.attn_norm.weight");
        assert_eq!(gguf_name("model.embed_tokens.weight", false), "token_embd.weight");
        assert_eq!(gguf_name("model.norm.weight", false), "output_norm.weight");
        assert_eq!(gguf_name("lm_head.weight", false), "output.weight");
        assert_eq!(gguf_name("model.layers.2.mlp.gate.weight", false), "blk.2.ffn_gate_inp.weight");
        assert_eq!(gguf_name("model.layers.2.mlp.gate_proj.weight", false), "blk.2.ffn_gate.weight");
    }

    #[test]
    fn prefixes_are_told_by_the_embedding() {
        let naming = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            Naming::of_safetensors(names.iter())
        };
        assert_eq!(naming(&["lm_head.weight", "model.embed_tokens.weight"]).unwrap(), Naming::HuggingFace);
        assert_eq!(naming(&["embed_tokens.weight", "layers.0.x"]).unwrap(), Naming::Headless);
        assert_eq!(Naming::Headless.stored("model.norm.weight"), "norm.weight");
        assert_eq!(Naming::Headless.stored("lm_head.weight"), "lm_head.weight");
        let error = naming(&["language_model.model.embed_tokens.weight"]).unwrap_err().to_string();
        assert!(error.contains("language_model.model."), "{error}");
    }

    #[test]
    fn buffers_have_no_effect() {
        let without = |name: &str| is_without_effect(name, &RopeScaling::None);
        assert!(without("model.layers.0.self_attn.rotary_emb.inv_freq"));
        assert!(without("rotary_emb.inv_freq") && !without("my_rotary_emb.inv_freq"));
        let factors = RopeScaling::Factors(Vec::new());
        assert!(is_without_effect(ROPE_FREQS, &factors) && !without(ROPE_FREQS));
        assert!(!is_without_effect("model.layers.0.self_attn.q_proj.bias", &factors));
        let long = RopeScaling::LongRope { short: Vec::new(), original_max_positions: 2, attention_factor: 1.0 };
        assert!(ROPE_FACTORS.iter().all(|name| is_without_effect(name, &long) && !is_without_effect(name, &factors)));
    }

    #[test]
    fn foreign_checkpoints_are_told_by_their_tensors() {
        let style = |name: &str| ARCHITECTURES.iter().find(|a| a.hf_name == name).unwrap().style;
        let [llama, phi, mixtral] = ["LlamaForCausalLM", "Phi3ForCausalLM", "MixtralForCausalLM"].map(style);
        let says = |name: &str| foreign(name, &llama).unwrap().to_string();
        assert!(says("model.layers.0.self_attn.q_proj.qweight").contains("quantised"));
        assert!(says("model.layers.0.mlp.down_proj.weight.quant_state.bitsandbytes__nf4").contains("quantised"));
        assert!(says("blk.0.ffn_gate_exps.weight").contains("experts"));
        assert!(says("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight").contains("LoRA"));
        assert!(foreign("model.layers.0.self_attn.q_proj.bias", &llama).is_none());
        for own in
            ["blk.0.ffn_gate_exps.weight", "model.layers.0.mlp.experts.gate_up_proj", "blk.0.ffn_gate_inp.weight"]
        {
            assert!(foreign(own, &llama).is_some() && foreign(own, &mixtral).is_none(), "{own}");
        }
        for shared in ["blk.0.ffn_up_shexp.weight", "model.layers.0.mlp.shared_expert.up_proj.weight"] {
            assert!(foreign(shared, &mixtral).unwrap().to_string().contains("all tokens pass"));
        }
        let fused = "model.layers.0.self_attn.qkv_proj.weight";
        assert!(says(fused).contains("several matrices") && foreign(fused, &phi).is_none());
        assert!(foreign("model.layers.0.self_attn.qkv_proj.qweight", &phi).is_some());
    }
}
