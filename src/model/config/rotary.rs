//! An object of RoPE settings in `config.json`.

use crate::checkpoint::brief;
use crate::model::ModelError;
use crate::model::config::Architecture;
use crate::model::config::foreign::{OTHER_MODEL, refuse_in_json};
use crate::model::config::settings::Settings;
use crate::model::rope::{RopeScaling, Yarn};

/// What is known of a rotary embedding beside its own settings.
pub(super) struct RopeSettings {
    /// Base where it states none.
    pub theta: f64,
    pub max_positions: usize,
    pub architecture: Architecture,
}

/// Base and scaling that an object of RoPE settings states, inside the settings of the model.
pub(super) fn rope_of(
    rope: Settings<'_>,
    settings: Settings<'_>,
    RopeSettings { theta, max_positions, architecture }: RopeSettings,
) -> Result<(f64, RopeScaling), ModelError> {
    refuse_in_json(rope, architecture)?;
    if let Some((key, _)) = rope.values().find(|(_, value)| value.is_object()) {
        let what = "holds settings of its own: RoPE that differs by layer is not supported";
        return Err(rope.foreign(key, what, OTHER_MODEL));
    }
    let theta = rope.real_or("rope_theta", theta)?;
    let kind = match rope.text("rope_type")? {
        Some(kind) => kind,
        None => rope.text("type")?.unwrap_or("default"),
    };
    let original = || match settings.optional_count("original_max_position_embeddings")? {
        Some(outer) => Ok(outer as f64),
        None => rope.real_or("original_max_position_embeddings", max_positions as f64),
    };
    let has_one = architecture.style.rope_thetas.is_none();
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: rope.real("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: rope.real("factor")?,
            low_freq_factor: rope.real("low_freq_factor")?,
            high_freq_factor: rope.real("high_freq_factor")?,
            original_max_positions: original()?,
        },
        "yarn" if has_one => RopeScaling::Yarn(yarn(rope, original()?, max_positions)?),
        "dynamic" if has_one => RopeScaling::Dynamic { factor: rope.real("factor")? },
        other => {
            let supported =
                if has_one { "default, linear, llama3, yarn and dynamic" } else { "default, linear and llama3" };
            return Err(rope.foreign(
                "rope_type",
                format!("is {}; {supported} are supported", brief(other)),
                OTHER_MODEL,
            ));
        }
    };
    Ok((theta, scaling))
}

/// Settings of YaRN, which was first trained on texts of `original` tokens.
fn yarn(rope: Settings<'_>, original: f64, max_positions: usize) -> Result<Yarn, ModelError> {
    let optional = |key: &str| rope.value(key).map(|_| rope.real(key)).transpose();
    let factor = match rope.raw("factor") {
        Some(value) if value.is_null() => max_positions as f64 / original,
        _ => rope.real("factor")?,
    };
    let attention_factor = match (optional("attention_factor")?, optional("mscale")?, optional("mscale_all_dim")?) {
        (Some(stated), _, _) => stated,
        (None, Some(of_rotated), Some(of_all)) if of_rotated != 0.0 && of_all != 0.0 => {
            Yarn::lengthening(factor, of_rotated) / Yarn::lengthening(factor, of_all)
        }
        _ => Yarn::lengthening(factor, 1.0),
    };
    Ok(Yarn {
        factor,
        original_max_positions: original,
        beta_fast: optional("beta_fast")?.unwrap_or(Yarn::BETA_FAST),
        beta_slow: optional("beta_slow")?.unwrap_or(Yarn::BETA_SLOW),
        truncate: rope.raw("truncate").is_none() || rope.flag("truncate")?,
        attention_factor,
    })
}
