//! SmolLM3's layers without a rotary embedding.

use serde_json::Value;

use crate::model::ModelError;
use crate::model::config::settings::{Settings, shown};

/// Every so-manieth of a model's layers.
pub(super) fn every(period: usize, n_layers: usize) -> Vec<usize> {
    (0..n_layers).filter(|layer| (layer + 1).is_multiple_of(period)).collect()
}

/// Layers that `no_rope_layers` marks with 0, or else every so-manieth.
pub(super) fn unrotated(
    settings: Settings<'_>,
    default_period: usize,
    n_layers: usize,
) -> Result<Vec<usize>, ModelError> {
    const LIST: &str = "no_rope_layers";
    const PERIOD: &str = "no_rope_layer_interval";
    let Some(marks) = settings.list(LIST)? else {
        return match settings.raw(PERIOD).map_or(Ok(default_period), |_| settings.count(PERIOD))? {
            0 => Err(settings.error(PERIOD, "is 0: no layer is every 0th")),
            period => Ok(every(period, n_layers)),
        };
    };
    if marks.len() < n_layers {
        return Err(settings.error(LIST, format!("has {} entries for {n_layers} layers", marks.len())));
    }
    let is_rotated = |mark: &Value| match mark.as_u64().or(mark.as_bool().map(u64::from)) {
        Some(mark @ (0 | 1)) => Ok(mark == 1),
        _ => Err(settings.error(LIST, format!("holds {}, not 0 or 1", shown(mark)))),
    };
    let rotated = marks[..n_layers].iter().map(is_rotated).collect::<Result<Vec<bool>, _>>()?;
    Ok((0..n_layers).filter(|layer| !rotated[*layer]).collect())
}
