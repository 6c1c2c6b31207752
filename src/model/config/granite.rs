//! Granite's multipliers of what other models add, compare and give as it is.

use crate::model::ModelError;
use crate::model::config::settings::Settings;
use crate::model::gguf::Gguf;

/// Multipliers that are 1 in other models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// Of embeddings.
    pub embedding: f64,
    /// Of what attention and the feed-forward layer add to the residual stream.
    pub residual: f64,
    /// Of the output matrix' products, as divisor.
    pub logits_divisor: f64,
}

impl Multipliers {
    /// Those of other models.
    pub const NONE: Self = Self { embedding: 1.0, residual: 1.0, logits_divisor: 1.0 };
}

/// Multipliers of `config.json`, and what logits of attention are divided by the root of.
pub(super) fn multipliers(settings: Settings<'_>) -> Result<(Multipliers, f64), ModelError> {
    let of = |key: &str| match settings.real_or(key, 1.0)? {
        factor if factor > 0.0 => Ok(factor),
        factor => Err(settings.error(key, format!("is {factor}; a number above 0 is needed"))),
    };
    let [embedding, residual] = [of("embedding_multiplier")?, of("residual_multiplier")?];
    let multipliers = Multipliers { embedding, residual, logits_divisor: of("logits_scaling")? };
    Ok((multipliers, of("attention_multiplier")?.powi(-2)))
}

/// The same of a GGUF file's metadata, where 0 is as nothing; the second is `None` for the usual one.
pub(super) fn multipliers_of_gguf(gguf: &Gguf, architecture: &str) -> Result<(Multipliers, Option<f64>), ModelError> {
    let of = |suffix: &str| {
        let key = format!("{architecture}.{suffix}");
        match gguf.f64_of(&key)?.filter(|factor| *factor != 0.0) {
            Some(factor) if !(factor.is_finite() && factor > 0.0) => {
                Err(ModelError::config(&key, format!("is {factor}; a number above 0 is needed")))
            }
            factor => Ok(factor),
        }
    };
    let [embedding, residual, logits_divisor] =
        [of("embedding_scale")?, of("residual_scale")?, of("logit_scale")?].map(|factor| factor.unwrap_or(1.0));
    let multipliers = Multipliers { embedding, residual, logits_divisor };
    Ok((multipliers, of("attention.scale")?.map(|factor| factor.powi(-2))))
}
