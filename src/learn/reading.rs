//! A sample, read by the model: the vectors of its tokens and what these are worth.

use crate::math::{Float, Rows};
use crate::model::{AttnMass, ChunkStates, HeadSlots, KvStore, LogitRows, Model, Pass, StoreNeeds};
use crate::runtime::{Compression, RaggedCache, RuntimeError, prefill};

/// Prompt tokens that pass at a time.
pub(super) const CHUNK_TOKENS: usize = 1024;
/// Least worth that a logarithm is taken of.
pub(super) const LEAST: f32 = 1e-8;

/// Of a layer, by rising tokens, a few at a time: their vectors `[n, hidden]`, and the logarithms of what they are worth to each KV
/// head, `[n, n_kv_heads]`.
pub(super) type OnRows<'a> = &'a mut (dyn FnMut(usize, Rows<'_>, Rows<'_>) + Send);

/// Reads a sample twice: first with the repetition that `scoring` asks for, then for the vectors. No vector is kept.
pub(super) fn read(
    model: &Model,
    tokens: &[u32],
    scoring: &Compression,
    on_rows: OnRows<'_>,
) -> Result<(), RuntimeError> {
    let (config, mut pass) = (model.config(), Pass::new(model));
    let mut cache = RaggedCache::recording(config, Float::F32, [scoring])?;
    prefill(&mut pass, tokens, &mut cache, CHUNK_TOKENS)?;
    let n_heads = config.n_layers * config.n_kv_heads;
    let log = |worth: &f32| worth.max(LEAST).ln();
    let worth = (0..n_heads).map(|head| cache.repetition(scoring, head).iter().map(log).collect()).collect();
    let cache = RaggedCache::new(config, Float::F32, None);
    let mut watched = Watched { cache, worth, n_kv_heads: config.n_kv_heads, on_rows };
    let mut pass = Pass::new(model);
    pass.forward_by_layer(tokens, 0, CHUNK_TOKENS, &mut watched, LogitRows::None)?;
    Ok(())
}

/// A whole cache that shows what passes.
struct Watched<'a> {
    cache: RaggedCache,
    /// `[heads][T]`.
    worth: Vec<Vec<f32>>,
    n_kv_heads: usize,
    on_rows: OnRows<'a>,
}

impl KvStore for Watched<'_> {
    type Error = RuntimeError;

    fn needs(&self) -> StoreNeeds {
        StoreNeeds { inputs: true, ..self.cache.needs() }
    }

    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), RuntimeError> {
        let tokens = chunk.first_position..chunk.first_position + chunk.n_tokens;
        let heads = &self.worth[chunk.layer * self.n_kv_heads..(chunk.layer + 1) * self.n_kv_heads];
        let worth: Vec<f32> = tokens.flat_map(|token| heads.iter().map(move |head| head[token])).collect();
        (self.on_rows)(chunk.layer, chunk.inputs, Rows::new(&worth, self.n_kv_heads));
        self.cache.append(chunk)
    }

    fn heads(&self, layer: usize) -> Vec<HeadSlots<'_>> {
        self.cache.heads(layer)
    }

    fn rewrites(&self, layer: usize) -> u64 {
        self.cache.rewrites(layer)
    }

    fn attended(&mut self, chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), RuntimeError> {
        self.cache.attended(chunk, mass)
    }
}
