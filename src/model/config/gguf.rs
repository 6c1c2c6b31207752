//! [`Config`] from GGUF metadata, with the defaults of llama.cpp.

use crate::checkpoint::brief;
use crate::model::ModelError;
use crate::model::config::foreign::{OTHER_MODEL, refuse_in_gguf};
use crate::model::config::{
    ARCHITECTURES, Architecture, Bias, Config, LLAMA_STYLE, MAX_LAYERS, Mixture, Multipliers, ROPE_FACTORS, Style,
    Windows, gemma, granite, smollm,
};
use crate::model::gguf::Gguf;
use crate::model::rope::{RopeScaling, Yarn};

/// Divisors of the rotary frequencies, one for each.
pub(in crate::model) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Layers of Gemma 3 27B, by which llama.cpp tells it.
const LAYERS_OF_LARGEST_GEMMA: usize = 62;

/// Keys of the settings that are checked under their names of `config.json`.
const KEYS: [(&str, &str); 21] = [
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_hidden_layers", "block_count"),
    ("num_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
    ("rope_local_base_freq", "rope.freq_base_swa"),
    ("rope_scaling.factor", "rope.scaling.factor"),
    ("rope_scaling.original_max_position_embeddings", "rope.scaling.original_context_length"),
    ("partial_rotary_factor", "rope.dimension_count"),
    ("rope_scaling.short_factor", "rope_factors_short.weight"),
    ("original_max_position_embeddings", "rope.scaling.original_context_length"),
    ("rope_scaling.beta_fast", "rope.scaling.yarn_beta_fast"),
    ("rope_scaling.beta_slow", "rope.scaling.yarn_beta_slow"),
    ("rope_scaling.attention_factor", "rope.scaling.attn_factor"),
];

/// An error about a setting under the key that this file has for it.
pub(super) fn in_own_words(error: ModelError, architecture: &str) -> ModelError {
    match error {
        ModelError::Config { key, what } => {
            let own = KEYS.iter().find(|(name, _)| *name == key).map(|(_, own)| format!("{architecture}.{own}"));
            ModelError::Config { key: own.unwrap_or(key), what }
        }
        other => other,
    }
}

/// The line of the table that has the name; of two, the one with experts where the file has some.
fn architecture(gguf: &Gguf, name: &str) -> Result<Architecture, ModelError> {
    let has_experts = gguf.u64_of(&format!("{name}.expert_count"))?.is_some_and(|n| n > 0);
    let named = || ARCHITECTURES.iter().filter(|a| a.gguf_name == name);
    let found = named().find(|a| a.style.mixture.is_some() == has_experts).or_else(|| named().next());
    found.copied().ok_or_else(|| ModelError::unsupported_architecture(name))
}

/// Reads metadata; what it leaves out comes from the tensors.
pub(super) fn read(gguf: &Gguf) -> Result<Config, ModelError> {
    let name = gguf.str_of("general.architecture")?.ok_or_else(|| gguf.missing("general.architecture"))?;
    let architecture = architecture(gguf, name)?;
    match gguf.str_of("general.type")? {
        None | Some("model") => {}
        Some(other) => {
            let what = format!("is {}, not model", brief(other));
            return Err(ModelError::foreign("general.type", what, "give the GGUF file of the model itself"));
        }
    }
    refuse_in_gguf(gguf, architecture)?;
    let key = |suffix: &str| format!("{name}.{suffix}");
    let optional = |suffix: &str| Ok::<_, ModelError>(gguf.u64_of(&key(suffix))?.map(|x| x as usize));
    let real = |suffix: &str| Ok::<_, ModelError>(gguf.f64_of(&key(suffix))?);
    let missing = |suffix: &str| ModelError::config(&key(suffix), "is missing");
    let count = |suffix: &str| optional(suffix)?.ok_or_else(|| missing(suffix));
    let has_tensor = |name: &str| gguf.tensors().contains_key(name) || gguf.unreadable().contains_key(name);
    let n_q_heads = count("attention.head_count")?;
    let hidden_size = count("embedding_length")?;
    let n_layers = count("block_count")?;
    let embedding = gguf.tensor_info("token_embd.weight")?;
    let usual_head_dim = hidden_size / n_q_heads.max(1);
    let head_dim = optional("attention.key_length")?.unwrap_or(usual_head_dim);
    let rotary_dim = optional("rope.dimension_count")?.unwrap_or(head_dim);
    let value_dim = optional("attention.value_length")?.unwrap_or(usual_head_dim);
    for (suffix, found) in [("attention.value_length", value_dim), ("rope.dimension_count", rotary_dim)] {
        let may_differ = suffix == "rope.dimension_count" && architecture.style.is_phi;
        if found != head_dim && !may_differ {
            let what = format!("is {found} where keys have {head_dim} numbers; kvscope needs them equal");
            return Err(ModelError::config(&key(suffix), what));
        }
    }
    let factor = match real("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => real("rope.scale_linear")?,
    };
    // Only Llama's own graph divides by a file's factors.
    let factors = match architecture.gguf_interleaved && has_tensor(ROPE_FREQS) {
        true => Some(gguf.tensor(ROPE_FREQS)?.flatten_all()?.to_vec1::<f32>()?),
        false => None,
    };
    let max_positions = count("context_length")?;
    let kind = gguf.str_of(&key("rope.scaling.type"))?;
    let rope_scaling = match (kind, factors, factor) {
        // Files before the type had a name have the tensors alone.
        (None | Some("longrope"), None, _) if architecture.style.is_phi && has_tensor(ROPE_FACTORS[0]) => {
            RopeScaling::LongRope {
                short: gguf.tensor(ROPE_FACTORS[0])?.flatten_all()?.to_vec1::<f32>()?,
                original_max_positions: optional("rope.scaling.original_context_length")?.unwrap_or(max_positions),
                attention_factor: real("rope.scaling.attn_factor")?.unwrap_or(1.0),
            }
        }
        (Some("longrope"), _, _) if architecture.style.is_phi => {
            return Err(ModelError::MissingTensor(ROPE_FACTORS[0].into()));
        }
        (Some("yarn"), Some(_), _) => {
            let what = format!("is yarn, and the file has {ROPE_FREQS}, which is not supported beside it");
            return Err(ModelError::foreign(&key("rope.scaling.type"), what, OTHER_MODEL));
        }
        (Some("yarn"), None, factor) if architecture.style.rope_thetas.is_none() => {
            let factor = factor.ok_or_else(|| missing("rope.scaling.factor"))?;
            RopeScaling::Yarn(Yarn {
                factor,
                original_max_positions: optional("rope.scaling.original_context_length")?.unwrap_or(max_positions)
                    as f64,
                beta_fast: real("rope.scaling.yarn_beta_fast")?.unwrap_or(Yarn::BETA_FAST),
                beta_slow: real("rope.scaling.yarn_beta_slow")?.unwrap_or(Yarn::BETA_SLOW),
                truncate: true,
                attention_factor: Yarn::lengthening(factor, 1.0) * real("rope.scaling.attn_factor")?.unwrap_or(1.0),
            })
        }
        // Without a type, a factor is linear.
        (None | Some("none" | "linear"), Some(factors), factor) => {
            let factor = factor.filter(|_| kind != Some("none")).unwrap_or(1.0);
            RopeScaling::Factors(factors.iter().map(|x| x * factor as f32).collect())
        }
        (Some("linear"), None, None) => return Err(missing("rope.scaling.factor")),
        (None | Some("linear"), None, Some(factor)) => RopeScaling::Linear { factor },
        (None | Some("none"), None, _) => RopeScaling::None,
        (Some(other), _, _) => {
            let supported = match architecture.style {
                Style { is_phi: true, .. } => "none, linear, yarn and longrope",
                Style { rope_thetas: Some(_), .. } => "none and linear",
                _ => "none, linear, yarn and the llama3 factors",
            };
            let what = format!("is {}; {supported} are supported", brief(other));
            return Err(ModelError::foreign(&key("rope.scaling.type"), what, OTHER_MODEL));
        }
    };
    // Without yarn, llama.cpp would lengthen alike.
    if !matches!(rope_scaling, RopeScaling::Yarn(_) | RopeScaling::LongRope { .. })
        && let Some(attn_factor) = real("rope.scaling.attn_factor")?.filter(|factor| *factor != 1.0)
    {
        let what = format!("is {attn_factor}, which is not supported without yarn");
        return Err(ModelError::foreign(&key("rope.scaling.attn_factor"), what, OTHER_MODEL));
    }
    let window = optional("attention.sliding_window")?.filter(|x| *x > 0);
    let n_windows = n_layers.min(MAX_LAYERS);
    let Style { is_phi, mixture, .. } = architecture.style;
    let takes_a_window = architecture.style == LLAMA_STYLE || is_phi || mixture.is_some();
    let windows = match (architecture.windows, window) {
        (Windows::ButEvery(default), Some(window)) => {
            let period = optional("attention.sliding_window_pattern")?.unwrap_or(default);
            gemma::all_but_every(period, window, n_windows)
        }
        (_, Some(window)) if !takes_a_window => {
            let what = format!("is {window}, and llama.cpp knows no {name} with a window");
            return Err(ModelError::foreign(&key("attention.sliding_window"), what, OTHER_MODEL));
        }
        _ => vec![window; n_windows],
    };
    let [global_theta, local_theta] = architecture.style.rope_thetas.map_or([None; 2], |thetas| thetas.map(Some));
    let local_rope = match (real("rope.freq_base_swa")?, local_theta) {
        (_, None) => None,
        (stated, Some(default)) => Some((stated.unwrap_or(default), RopeScaling::None)),
    };
    // No key says what the logits are divided by: of the largest model it is the width of a head, as if all had the hidden size's.
    let query_scalar = match architecture.style.query_scalar {
        Some(_) if n_layers == LAYERS_OF_LARGEST_GEMMA => usual_head_dim,
        _ => head_dim,
    };
    let (multipliers, own_scalar) = match architecture.style.has_multipliers {
        true => granite::multipliers_of_gguf(gguf, name)?,
        false => (Multipliers::NONE, None),
    };
    let ffn_size = count("feed_forward_length")?;
    let mixture = architecture.style.mixture.map(|kind| Mixture::from_gguf(kind, ffn_size, optional, count));
    Ok(Config {
        architecture,
        hidden_size,
        ffn_size,
        mixture: mixture.transpose()?,
        n_layers,
        n_q_heads,
        n_kv_heads: optional("attention.head_count_kv")?.unwrap_or(n_q_heads),
        head_dim,
        rotary_dim,
        vocab_size: embedding.shape.first().copied().unwrap_or(0),
        rms_norm_eps: real("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| missing("attention.layer_norm_rms_epsilon"))?,
        rope_theta: real("rope.freq_base")?.or(global_theta).unwrap_or(10_000.0),
        rope_scaling,
        local_rope,
        // No key says which; llama.cpp takes the same for all.
        unrotated: architecture.style.unrotated_period.map_or_else(Vec::new, |period| smollm::every(period, n_windows)),
        multipliers,
        query_scalar: own_scalar.unwrap_or(query_scalar as f64),
        max_positions,
        windows,
        tied_output: !has_tensor("output.weight"),
        qkv_bias: Bias::IfStored,
        o_bias: Bias::IfStored,
        mlp_bias: Bias::IfStored,
        output_bias: Bias::IfStored,
    })
}
