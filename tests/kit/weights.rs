//! Weights for the policy `kvzap` that nothing was learned for.

use std::path::Path;

use kvscope::files::{Document, Provenance};
use kvscope::format::scorer::{Learning, Scorer};
use kvscope::math::LinearMap;
use kvscope::model::Model;

/// Writes weights for a model, by a formula that tests/fixtures/presses/make.py knows too, and as many others as `shift` tells;
/// gives the policy as typed, without parameters of its own.
pub fn kvzap(path: &Path, model: &Model, shift: usize) -> String {
    let (identity, hidden_size) = (model.identity().unwrap().clone(), model.config().hidden_size);
    let part = |n: usize, of: usize| ((n % of) as f64 / of as f64) as f32;
    let map = |layer: usize| LinearMap {
        weights: (0..identity.n_kv_heads)
            .flat_map(|head| (0..hidden_size).map(move |i| part(37 * i + 11 * head + 5 * layer + shift, 29) - 0.5))
            .collect(),
        bias: (0..identity.n_kv_heads).map(|head| part(7 * head + 3 * layer, 5) - 2.0).collect(),
    };
    let maps: Vec<LinearMap> = (0..identity.n_layers).map(map).collect();
    let learning = Learning {
        schema: Learning::schema_id(),
        provenance: Provenance::new("learn", 0, serde_json::json!({}), Vec::new()),
        hidden_size,
        chat_template: None,
        lambda: 0.01,
        held_out_r2: vec![Some(0.5); identity.n_layers],
        calibration: Vec::new(),
        held_out: Vec::new(),
        model: identity,
    };
    Scorer::write(path, &learning, &maps).unwrap();
    format!("kvzap:weights={}", path.display())
}
