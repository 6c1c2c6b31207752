//! An object of RoPE settings in `config.json`.

use crate::checkpoint::brief;
use crate::model::ModelError;
use crate::model::config::Architecture;
use crate::model::config::foreign::{OTHER_MODEL, refuse_in_json};
use crate::model::config::settings::Settings;
use crate::model::rope::RopeScaling;

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
