//! Dumps of a toy model with planted vectors.

use std::path::Path;

use kvscope::files::ModelIdentity;
use kvscope::format::dump::{Dump, Manifest, State, Tensor};

use super::dump::{Sample, manifest, write_dump};
use super::identity::identity;

pub const LAYERS: [usize; 2] = [1, 3];
pub const KV_HEADS: usize = 2;
pub const DIM: usize = 4;

/// Letters of [`kvscope::format::dump::TokenClass`] for ids 0, 1, …: token i of a sample has id i.
pub const CLASSES: &str = "wdpsowwwww";
/// Query heads of a KV head.
pub const GROUP: usize = 2;

/// The vector of a state, layer, head and token; queries, one at every token, are of query heads.
pub type Vectors<'a> = &'a dyn Fn(State, usize, usize, usize) -> [f32; DIM];

/// A sample with one heavy token, or none.
pub struct Planted<'a> {
    pub dataset: &'a str,
    pub id: &'a str,
    pub n_tokens: usize,
    pub heavy: Option<usize>,
    pub vectors: Vectors<'a>,
}

/// Writes a dump in f32 of a run that is not yet complete, and opens it.
pub fn plant(dir: &Path, fingerprint: &str, states: &[State], planted: &[Planted<'_>]) -> Dump {
    let model = identity(4, GROUP * KV_HEADS, KV_HEADS, DIM);
    let manifest = Manifest {
        layers: LAYERS.to_vec(),
        token_classes: Some(CLASSES.into()),
        planned_samples: planted.len() + 1,
        ..manifest(ModelIdentity { fingerprint: fingerprint.into(), ..model }, states)
    };
    let samples: Vec<Sample> = planted
        .iter()
        .map(|it| Sample {
            dataset: it.dataset.into(),
            id: it.id.into(),
            n_tokens: it.n_tokens,
            n_queries: it.n_tokens,
        })
        .collect();
    write_dump(dir, manifest, &samples, &|index, tensor, shape| {
        let Planted { n_tokens, heavy, vectors, .. } = planted[index];
        match tensor {
            Tensor::State(layer, state) if state != State::Mass => {
                (0..shape[0] * n_tokens).flat_map(|row| vectors(state, layer, row / n_tokens, row % n_tokens)).collect()
            }
            _ => (0..KV_HEADS * n_tokens).map(|i| if Some(i % n_tokens) == heavy { 9.0 } else { 0.1 }).collect(),
        }
    })
}
