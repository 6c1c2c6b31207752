//! What tuning may know of the model: what it loses when a single head is compressed, and its output projections.

use std::sync::Arc;

use crate::choose::error::ChooseError;
use crate::choose::ways::{measured_kls, sample_item, spread};
use crate::eval::{EvalError, Item};
use crate::format::dump::{Dump, check_model};
use crate::math::Projections;
use crate::model::Model;
use crate::runtime::Compression;
use crate::tune::{HeadLosses, TuneOptions, split_samples};

/// Slots per token that a head keeps while all others are whole: few enough to tell, and a size that heads come to have.
const SHARE: f64 = 0.1;

/// What settings may look at and dumps do not hold: the output projections of the model that was captured.
///
/// - Errors: dumps of another model, weights that are no finite numbers
pub fn projections(model: &Model, dumps: &[Dump]) -> Result<Arc<Projections>, ChooseError> {
    check_model(dumps, model.identity().map_err(EvalError::from)?)?;
    Ok(model.projections().map_err(EvalError::from)?.clone())
}

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
    check_model(dumps, identity)?;
    let (samples, _) = split_samples(dumps, options.hold_out, options.seed);
    let n_texts = n_texts.min(samples.len());
    let items: Vec<Item> = spread(samples.len(), n_texts)
        .map(|place| Ok(sample_item(samples[place].dump, samples[place].index)?))
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
