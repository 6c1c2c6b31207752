//! Phi-3's rotary embedding, which turns a part of each head and has other frequencies for long texts.

use serde_json::Value;

use crate::checkpoint::brief;
use crate::model::ModelError;
use crate::model::config::Architecture;
use crate::model::config::foreign::{OTHER_MODEL, refuse_in_json};
use crate::model::config::settings::{Settings, shown};
use crate::model::rope::RopeScaling;

/// Context length of the first training where none is stated.
const DEFAULT_ORIGINAL: usize = 4096;

/// Divisors of the rotary frequencies in GGUF files, for texts up to the first training's length and for longer ones.
pub(in crate::model) const ROPE_FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// A rotary embedding of `config.json`.
pub(super) struct PhiRope {
    pub(super) theta: f64,
    pub(super) scaling: RopeScaling,
    /// Share of each head that turns.
    pub(super) partial: f64,
}

/// Reads `rope_scaling`, or else `rope_parameters`, and what stands beside them.
pub(super) fn rope(
    settings: Settings<'_>,
    architecture: Architecture,
    max_positions: usize,
) -> Result<PhiRope, ModelError> {
    let original = settings.optional_count("original_max_position_embeddings")?.unwrap_or(DEFAULT_ORIGINAL);
    let theta = settings.real_or("rope_theta", architecture.style.default_theta)?;
    let outer_partial = settings.real_or("partial_rotary_factor", 1.0)?;
    let older = settings.object("rope_scaling", "rope_scaling.")?;
    let Some(rope) = older.or(settings.object("rope_parameters", "rope_parameters.")?) else {
        return Ok(PhiRope { theta, scaling: RopeScaling::None, partial: outer_partial });
    };
    refuse_in_json(rope, architecture)?;
    let kind = match rope.text("rope_type")? {
        Some(kind) => kind,
        None => rope.text("type")?.unwrap_or("default"),
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        // Older files call it so.
        "longrope" | "su" | "yarn" => RopeScaling::LongRope {
            short: divisors(rope)?,
            original_max_positions: original,
            attention_factor: match rope.value("attention_factor") {
                Some(_) => rope.real("attention_factor")?,
                None => lengthening(factor(rope, max_positions, original)?, original),
            },
        },
        other => {
            let what = format!("is {}; default and longrope are supported", brief(other));
            return Err(rope.foreign("rope_type", what, OTHER_MODEL));
        }
    };
    Ok(PhiRope {
        theta: rope.real_or("rope_theta", theta)?,
        scaling,
        partial: rope.real_or("partial_rotary_factor", outer_partial)?,
    })
}

/// How much longer texts become than those of the first training.
fn factor(rope: Settings<'_>, max_positions: usize, original: usize) -> Result<f64, ModelError> {
    match rope.value("factor") {
        Some(_) => rope.real("factor"),
        None => Ok(max_positions as f64 / original as f64),
    }
}

/// What attention is multiplied by where texts become `factor` times longer.
///
/// Source: Ding et al. 2024 (arXiv 2402.13753)
fn lengthening(factor: f64, original: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() }
}

fn divisors(rope: Settings<'_>) -> Result<Vec<f32>, ModelError> {
    const KEY: &str = "short_factor";
    let divisor = |value: &Value| {
        let number = value.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && *x > 0.0);
        number.ok_or_else(|| rope.error(KEY, format!("holds {}, not a number above 0", shown(value))))
    };
    let list = rope.list(KEY)?.ok_or_else(|| rope.error(KEY, "is missing"))?;
    list.iter().map(divisor).collect()
}
