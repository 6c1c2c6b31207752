//! [`Config`] from `config.json`, with the defaults of transformers' configuration classes.

use serde_json::Value;

use crate::checkpoint::brief;
use crate::model::ModelError;
use crate::model::config::foreign::{OTHER_MODEL, refuse_in_json};
use crate::model::config::settings::{Settings, shown};
use crate::model::config::{ARCHITECTURES, Architecture, Bias, Config, MAX_LAYERS, Windows};
use crate::model::rope::RopeScaling;

/// Sliding window of Mistral, Qwen2 and Qwen3 where none is stated.
const DEFAULT_WINDOW: usize = 4096;
/// First windowed layer of Qwen2 and Qwen3 where none is stated.
const DEFAULT_FIRST_WINDOWED: usize = 28;
const DEFAULT_EPS: f64 = 1e-6;
const DEFAULT_THETA: f64 = 10_000.0;

/// Reads `config.json`. Sizes must be stated; all else has the default of the architecture's class.
pub(super) fn read(json: &Value) -> Result<Config, ModelError> {
    let settings = Settings::of(json, "")?;
    let architecture = architecture(settings)?;
    refuse_in_json(settings)?;
    let n_q_heads = settings.count("num_attention_heads")?;
    let hidden_size = settings.count("hidden_size")?;
    let n_layers = settings.count("num_hidden_layers")?;
    let max_positions = settings.count("max_position_embeddings")?;
    let n_kv_heads = match settings.raw("num_key_value_heads") {
        Some(_) => settings.optional_count("num_key_value_heads")?.unwrap_or(n_q_heads),
        None => architecture.default_kv_heads.unwrap_or(n_q_heads),
    };
    let head_dim = settings.optional_count("head_dim")?.or(architecture.default_head_dim);
    let attention_bias = match architecture.attention_bias {
        Some(fixed) => fixed,
        None if settings.flag("attention_bias")? => (Bias::Required, Bias::Required),
        None => (Bias::None, Bias::None),
    };
    let has_mlp_bias = architecture.has_mlp_bias && settings.flag("mlp_bias")?;
    let (rope_theta, rope_scaling) = rope(settings, max_positions)?;
    Ok(Config {
        architecture,
        hidden_size,
        ffn_size: settings.count("intermediate_size")?,
        n_layers,
        n_q_heads,
        n_kv_heads,
        head_dim: head_dim.unwrap_or(hidden_size / n_q_heads.max(1)),
        vocab_size: settings.count("vocab_size")?,
        rms_norm_eps: settings.real_or("rms_norm_eps", DEFAULT_EPS)?,
        rope_theta,
        rope_scaling,
        max_positions,
        // As many as are checked later: nothing is allocated for a stranger's number.
        windows: windows(settings, architecture, n_layers.min(MAX_LAYERS))?,
        tied_output: settings.flag("tie_word_embeddings")?,
        qkv_bias: attention_bias.0,
        o_bias: attention_bias.1,
        mlp_bias: if has_mlp_bias { Bias::Required } else { Bias::None },
        output_bias: Bias::None,
    })
}

fn architecture(settings: Settings<'_>) -> Result<Architecture, ModelError> {
    let name = match settings.list("architectures")?.and_then(|list| list.first()) {
        None => return Err(settings.error("architectures", "names no architecture")),
        Some(Value::String(name)) => name,
        Some(other) => return Err(settings.error("architectures", format!("holds {}, not a text", shown(other)))),
    };
    // The class without the head saves the same settings, and with a tied output all that is needed.
    let with_head = name.strip_suffix("Model").map(|family| format!("{family}ForCausalLM"));
    let with_head = with_head.as_deref().unwrap_or(name);
    let Some(architecture) = ARCHITECTURES.iter().find(|a| a.hf_name == with_head) else {
        return Err(ModelError::unsupported_architecture(name));
    };
    match settings.text("model_type")? {
        Some(kind) if !architecture.model_types.contains(&kind) => {
            let what = format!("is {}, which is no {}", brief(kind), architecture.hf_name);
            Err(settings.error("model_type", what))
        }
        _ => Ok(*architecture),
    }
}

/// The window of every layer.
fn windows(
    settings: Settings<'_>,
    architecture: Architecture,
    n_layers: usize,
) -> Result<Vec<Option<usize>>, ModelError> {
    let stated = match settings.raw("sliding_window") {
        Some(_) if architecture.windows != Windows::Never => settings.optional_count("sliding_window")?,
        _ => Some(DEFAULT_WINDOW),
    };
    let (window, first) = match architecture.windows {
        Windows::Never => return Ok(vec![None; n_layers]),
        Windows::Always => (stated, 0),
        Windows::Switched => {
            let is_on = settings.flag("use_sliding_window")?;
            (stated.filter(|_| is_on), settings.optional_count("max_window_layers")?.unwrap_or(DEFAULT_FIRST_WINDOWED))
        }
    };
    if window == Some(0) {
        return Err(settings.error("sliding_window", "is 0: a query must see itself"));
    }
    let Some(kinds) = settings.list("layer_types")? else {
        return Ok((0..n_layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    if kinds.len() != n_layers {
        return Err(settings.error("layer_types", format!("has {} entries for {n_layers} layers", kinds.len())));
    }
    let of_layer = |kind: &Value| match kind.as_str() {
        Some("full_attention" | "attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => {
            Err(settings.error("layer_types", "names sliding_attention, but no sliding_window is in force"))
        }
        _ => {
            let what = format!("names {}, which kvscope does not compute", shown(kind));
            Err(settings.foreign("layer_types", what, OTHER_MODEL))
        }
    };
    kinds.iter().map(of_layer).collect()
}

/// Base and scaling of the rotary embedding. As in transformers 5, `rope_scaling` comes before `rope_parameters`, and what
/// neither states is looked for beside them.
fn rope(settings: Settings<'_>, max_positions: usize) -> Result<(f64, RopeScaling), ModelError> {
    let outer_theta = settings.real_or("rope_theta", DEFAULT_THETA)?;
    let (newer, older) =
        (settings.object("rope_parameters", "rope_parameters.")?, settings.object("rope_scaling", "rope_scaling.")?);
    let Some(rope) = older.or(newer) else { return Ok((outer_theta, RopeScaling::None)) };
    refuse_in_json(rope)?;
    if let Some((key, _)) = rope.values().find(|(_, value)| value.is_object()) {
        let what = "holds settings of its own: RoPE that differs by layer is not supported";
        return Err(rope.foreign(key, what, OTHER_MODEL));
    }
    let theta = rope.real_or("rope_theta", outer_theta)?;
    let kind = match rope.text("rope_type")? {
        Some(kind) => kind,
        None => rope.text("type")?.unwrap_or("default"),
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: rope.real("factor")? },
        "llama3" => {
            let original = match settings.optional_count("original_max_position_embeddings")? {
                Some(outer) => outer as f64,
                None => rope.real_or("original_max_position_embeddings", max_positions as f64)?,
            };
            RopeScaling::Llama3 {
                factor: rope.real("factor")?,
                low_freq_factor: rope.real("low_freq_factor")?,
                high_freq_factor: rope.real("high_freq_factor")?,
                original_max_positions: original,
            }
        }
        other => {
            let what = format!("is {}; default, linear and llama3 are supported", brief(other));
            return Err(rope.foreign("rope_type", what, OTHER_MODEL));
        }
    };
    Ok((theta, scaling))
}
