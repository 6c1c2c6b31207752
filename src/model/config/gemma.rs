//! Gemma's settings that differ by kind of layer: which have a window, and the rotary embedding of each kind.

use crate::model::ModelError;
use crate::model::config::Architecture;
use crate::model::config::rotary::{RopeSettings, rope_of};
use crate::model::config::settings::{Settings, shown};
use crate::model::rope::RopeScaling;

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Of layers with `window`, all but every so-manieth have it.
pub(super) fn all_but_every(period: usize, window: usize, n_layers: usize) -> Vec<Option<usize>> {
    (1..=n_layers).map(|layer| (period == 0 || !layer.is_multiple_of(period)).then_some(window)).collect()
}

/// The rotary embeddings of layers that see all and of those with a window; the defaults of their bases come in this order.
///
/// Older files state bases side by side, and a `rope_scaling` of the first kind; newer ones have an object for each kind in
/// `rope_parameters`.
pub(super) fn ropes(
    settings: Settings<'_>,
    architecture: Architecture,
    [full, sliding]: [f64; 2],
    max_positions: usize,
) -> Result<[(f64, RopeScaling); 2], ModelError> {
    let outer = [settings.real_or("rope_theta", full)?, settings.real_or("rope_local_base_freq", sliding)?];
    let newer = settings.object("rope_parameters", "rope_parameters.")?;
    if let Some(newer) = newer
        && let Some((key, value)) = newer.values().find(|(key, _)| *key != FULL && *key != SLIDING)
    {
        return Err(newer.error(key, format!("is {} where settings of {FULL} and {SLIDING} are due", shown(value))));
    }
    let of_kind = |kind: &str, at: &'static str, theta: f64| {
        let own = newer.map(|newer| newer.object(kind, at)).transpose()?.flatten();
        let own =
            own.map(|own| rope_of(own, settings, RopeSettings { theta, max_positions, architecture })).transpose()?;
        Ok::<_, ModelError>(own.unwrap_or((theta, RopeScaling::None)))
    };
    let mut full = of_kind(FULL, "rope_parameters.full_attention.", outer[0])?;
    let sliding = of_kind(SLIDING, "rope_parameters.sliding_attention.", outer[1])?;
    if let Some(scaling) = settings.object("rope_scaling", "rope_scaling.")? {
        if newer.is_some() {
            let what = "stands beside rope_parameters, which states the same";
            return Err(settings.error("rope_scaling", what));
        }
        full = rope_of(scaling, settings, RopeSettings { theta: full.0, max_positions, architecture })?;
    }
    Ok([full, sliding])
}

/// The number of `sliding_window_pattern`. Newer files have it under another name that nothing reads, beside `layer_types`.
pub(super) fn period(settings: Settings<'_>, default: usize) -> Result<usize, ModelError> {
    const KEY: &str = "sliding_window_pattern";
    match settings.raw(KEY).map_or(Ok(default), |_| settings.count(KEY))? {
        0 => Err(settings.error(KEY, "is 0: no layer is every 0th")),
        period => Ok(period),
    }
}
