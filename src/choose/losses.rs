//! What the model loses when a single head is compressed.

use crate::choose::{ChooseError, measured_kls, sample_item};
use crate::eval::{EvalError, Item};
use crate::format::dump::Dump;
use crate::model::Model;
use crate::runtime::Compression;
use crate::tune::{HeadLosses, TuneOptions, calibration_samples};

/// Slots per token that a head keeps while all others are whole: few enough to tell, and a size that heads come to have.
const SHARE: f64 = 0.1;

/// Runs the model over some calibration samples, spread over all of them, with one head at a time compressed under the first
/// setting and refitted as the profile will be; `None` without a sample.
///
/// - `progress`: rows that are done, and rows in all
/// - Cost: texts x heads continuations of an eighth of a sample
/// - Errors: dumps of another model, a setting that cannot be run
pub fn head_losses(
    model: &Model,
    dumps: &[Dump],
    options: &TuneOptions,
    n_texts: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<HeadLosses>, ChooseError> {
    let identity = model.identity().map_err(EvalError::from)?;
    if let Some(other) = dumps.iter().map(|dump| &dump.manifest().model).find(|m| m.fingerprint != identity.fingerprint)
    {
        return Err(ChooseError::OtherModel { dumps: other.name.clone(), model: identity.name.clone() });
    }
    let samples = calibration_samples(dumps, options);
    let n_texts = n_texts.min(samples.len());
    let items: Vec<Item> = (0..n_texts)
        .map(|i| samples[(2 * i + 1) * samples.len() / (2 * n_texts)])
        .map(|place| Ok(sample_item(place.dump, place.index)?))
        .collect::<Result<_, ChooseError>>()?;
    let Some(setting) = options.settings.first().filter(|_| n_texts > 0) else { return Ok(None) };
    let n_heads = identity.n_layers * identity.n_kv_heads;
    let of_head = |head: usize| {
        let shares: Vec<f64> = (0..n_heads).map(|other| if other == head { SHARE } else { 1.0 }).collect();
        Ok((SHARE, Compression::per_head(format!("head {head}"), setting, options.refit, shares)?))
    };
    let ways = (0..n_heads).map(of_head).collect::<Result<_, EvalError>>()?;
    let kls = measured_kls(model, &items, &[ways], progress)?;
    let kl = kls.iter().flatten().map(|kls| kls.iter().sum::<f64>() / n_texts as f64).collect();
    Ok(Some(HeadLosses { share: SHARE, kl, n_texts }))
}
