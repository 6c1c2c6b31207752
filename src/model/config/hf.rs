//! [`Config`] from `config.json`, with the defaults of transformers' configuration classes.

use serde_json::Value;

use crate::checkpoint::brief;
use crate::model::ModelError;
use crate::model::config::foreign::{OTHER_MODEL, refuse_in_json};
use crate::model::config::rotary::{RopeSettings, rope_of};
use crate::model::config::settings::{Settings, shown};
use crate::model::config::{ARCHITECTURES, Architecture, Bias, Config, MAX_LAYERS, Style, Windows};
use crate::model::config::{Mixture, MixtureSettings, Multipliers, gemma, granite, phi, smollm};
use crate::model::rope::RopeScaling;

/// Sliding window of every architecture that has one, where none is stated.
const DEFAULT_WINDOW: usize = 4096;
/// First windowed layer of Qwen2 and Qwen3 where none is stated.
const DEFAULT_FIRST_WINDOWED: usize = 28;

/// Reads `config.json`. Sizes must be stated; all else has the default of the architecture's class.
pub(super) fn read(json: &Value) -> Result<Config, ModelError> {
    let settings = Settings::of(json, "")?;
    let architecture = architecture(settings)?;
    refuse_in_json(settings, architecture)?;
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
    let mut partial = 1.0;
    let ((rope_theta, rope_scaling), local_rope) = match architecture.style.rope_thetas {
        None if architecture.style.is_phi => {
            let rope = phi::rope(settings, architecture, max_positions)?;
            partial = rope.partial;
            ((rope.theta, rope.scaling), None)
        }
        None => (rope(settings, architecture, max_positions)?, None),
        Some(thetas) => {
            let [full, sliding] = gemma::ropes(settings, architecture, thetas, max_positions)?;
            (full, Some(sliding))
        }
    };
    let head_dim = head_dim.unwrap_or(hidden_size / n_q_heads.max(1));
    let (multipliers, query_scalar) = match architecture.style.query_scalar {
        Some(default) => (Multipliers::NONE, settings.real_or("query_pre_attn_scalar", default)?),
        None if architecture.style.has_multipliers => granite::multipliers(settings)?,
        None => (Multipliers::NONE, head_dim as f64),
    };
    let tied_output = match settings.value("tie_word_embeddings") {
        None => architecture.style.tied_by_default,
        Some(_) => settings.flag("tie_word_embeddings")?,
    };
    // As many as are checked later: nothing is allocated for a stranger's number.
    let n_listed = n_layers.min(MAX_LAYERS);
    let unrotated = match architecture.style.unrotated_period {
        None => Vec::new(),
        Some(period) => smollm::unrotated(settings, period, n_listed)?,
    };
    let ffn_size = settings.count("intermediate_size")?;
    let mixture = architecture.style.mixture.map(|kind| Mixture::from_hf(settings, kind, ffn_size, n_listed));
    Ok(Config {
        architecture,
        hidden_size,
        ffn_size,
        mixture: mixture.transpose()?,
        n_layers,
        n_q_heads,
        n_kv_heads,
        head_dim,
        // A negative share, or none, is refused with the sizes.
        rotary_dim: (head_dim as f64 * partial) as usize,
        vocab_size: settings.count("vocab_size")?,
        rms_norm_eps: settings.real_or("rms_norm_eps", architecture.style.default_eps)?,
        rope_theta,
        rope_scaling,
        local_rope,
        query_scalar,
        max_positions,
        windows: windows(settings, architecture, n_listed, &unrotated)?,
        multipliers,
        unrotated,
        tied_output,
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
        if name.ends_with("ForConditionalGeneration") {
            let what = format!("is {}, a model that reads more than text", brief(name));
            let hint = "take a GGUF file of its text model, or save the text model alone with its own class";
            return Err(settings.foreign("architectures", what, hint));
        }
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
    unrotated: &[usize],
) -> Result<Vec<Option<usize>>, ModelError> {
    let Style { is_phi, mixture, .. } = architecture.style;
    let has_none_by_default =
        architecture.windows == Windows::Unrotated || is_phi || mixture == Some(MixtureSettings::Mixtral);
    let stated = match settings.raw("sliding_window") {
        Some(_) if architecture.windows != Windows::Never => settings.optional_count("sliding_window")?,
        _ => Some(DEFAULT_WINDOW).filter(|_| !has_none_by_default),
    };
    let is_switched = matches!(architecture.windows, Windows::Switched | Windows::SwitchedAtOnce | Windows::Unrotated);
    let is_on = is_switched && settings.flag("use_sliding_window")?;
    let (window, first) = match architecture.windows {
        Windows::Never => return Ok(vec![None; n_layers]),
        Windows::Always => (stated, 0),
        Windows::Switched => {
            (stated.filter(|_| is_on), settings.optional_count("max_window_layers")?.unwrap_or(DEFAULT_FIRST_WINDOWED))
        }
        Windows::SwitchedAtOnce | Windows::Unrotated => (stated.filter(|_| is_on), 0),
        Windows::ButEvery(_) if stated.is_none() => return Err(settings.error("sliding_window", "is null")),
        Windows::ButEvery(_) => (stated, 0),
    };
    if window == Some(0) {
        return Err(settings.error("sliding_window", "is 0: a query must see itself"));
    }
    let Some(kinds) = settings.list("layer_types")? else {
        if let (Windows::ButEvery(default), Some(window)) = (architecture.windows, window) {
            return Ok(gemma::all_but_every(gemma::period(settings, default)?, window, n_layers));
        }
        let slides = |layer: &usize| match architecture.windows {
            Windows::Unrotated => unrotated.contains(layer),
            _ => *layer >= first,
        };
        return Ok((0..n_layers).map(|layer| window.filter(|_| slides(&layer))).collect());
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
fn rope(
    settings: Settings<'_>,
    architecture: Architecture,
    max_positions: usize,
) -> Result<(f64, RopeScaling), ModelError> {
    let theta = settings.real_or("rope_theta", architecture.style.default_theta)?;
    let (newer, older) =
        (settings.object("rope_parameters", "rope_parameters.")?, settings.object("rope_scaling", "rope_scaling.")?);
    let Some(rope) = older.or(newer) else { return Ok((theta, RopeScaling::None)) };
    rope_of(rope, settings, RopeSettings { theta, max_positions, architecture })
}
