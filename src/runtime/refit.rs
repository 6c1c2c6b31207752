//! Queries of a prompt, kept until its slots are chosen, and the stored slots refitted to them.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::merge::{Refit, RefitHead, Refitted, refit_slots};
use crate::model::{ChunkStates, Rope};
use crate::runtime::RuntimeError;
use crate::runtime::slots::Head;

/// A seeded sample of the queries of a part of a prompt, in every layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct QuerySample {
    /// Positions of the sampled tokens, rising.
    positions: Vec<usize>,
    /// How far behind the part each of them is to stand, as a share of the span.
    ahead: Vec<f32>,
    /// Queries after RoPE, `[layer][tokens, n_q_heads · D]`; empty once a layer has been refitted.
    queries: Vec<Vec<f32>>,
    /// Query heads of a KV head.
    group: usize,
}

impl QuerySample {
    /// Chooses tokens of a part: as many as give `refit.queries` rows for every KV head.
    pub(crate) fn draw(refit: Refit, group: usize, n_layers: usize, part: std::ops::Range<usize>) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(refit.seed);
        random.set_stream(part.start as u64);
        let n = refit.queries.div_ceil(group).min(part.len());
        let mut positions = rand::seq::index::sample(&mut random, part.len(), n).into_vec();
        positions.sort_unstable();
        positions.iter_mut().for_each(|position| *position += part.start);
        let ahead = positions.iter().map(|_| random.random()).collect();
        Self { positions, ahead, queries: vec![Vec::new(); n_layers], group }
    }

    /// Keeps the sampled ones of a chunk's queries.
    pub(crate) fn take(&mut self, chunk: &ChunkStates<'_>) {
        let end = chunk.first_position + chunk.n_tokens;
        let first = self.positions.partition_point(|position| *position < chunk.first_position);
        let width = chunk.q.len() / chunk.n_tokens.max(1);
        for position in self.positions[first..].iter().take_while(|position| **position < end) {
            let at = (position - chunk.first_position) * width;
            self.queries[chunk.layer].extend_from_slice(&chunk.q[at..at + width]);
        }
    }

    /// Frees a layer's queries.
    pub(crate) fn forget(&mut self, layer: usize) {
        if let Some(queries) = self.queries.get_mut(layer) {
            *queries = Vec::new();
        }
    }

    /// Whether a layer's queries are there.
    pub(crate) fn has(&self, layer: usize) -> bool {
        self.queries.get(layer).is_some_and(|queries| !queries.is_empty())
    }

    /// Refits a layer's new heads to what the old ones give for the layer's queries, turned to positions
    /// behind `n_seen`. Heads of which nothing went stay as they are.
    ///
    /// - Errors: a head whose system could not be solved, or whose values do not fit their type
    pub(crate) fn refit(
        &self,
        refit: Refit,
        rope: &Rope,
        n_seen: usize,
        layer: usize,
        old: &[Head],
        new: &mut [Head],
    ) -> Result<(), RuntimeError> {
        let mut queries = self.queries[layer].clone();
        let width = queries.len() / self.positions.len().max(1);
        for ((row, position), ahead) in queries.chunks_exact_mut(width.max(1)).zip(&self.positions).zip(&self.ahead) {
            rope.turn(row, (n_seen - position) as f32 + (ahead * refit.span as f32).floor());
        }
        let group_width = width / old.len().max(1);
        let head_dim = group_width / self.group.max(1);
        let solved: Vec<Option<Refitted>> = old
            .par_iter()
            .zip(&*new)
            .enumerate()
            .map(|(kv_head, (old, new))| {
                let at = kv_head * group_width;
                let rows = queries.chunks_exact(width.max(1)).flat_map(|row| &row[at..at + group_width]);
                let rows: Vec<f32> = rows.copied().collect();
                let (old_keys, old_values) = (old.keys.widened(), old.values.widened());
                let (new_keys, new_values) = (new.keys.widened(), new.values.widened());
                let full =
                    RefitHead { head_dim, keys: &old_keys, values: &old_values, logit_bias: old.logit_bias.as_deref() };
                let stored =
                    RefitHead { head_dim, keys: &new_keys, values: &new_values, logit_bias: new.logit_bias.as_deref() };
                if old.len() == new.len() {
                    return Some(Refitted { values: new_values.into_owned(), logit_bias: None });
                }
                refit_slots(&rows, full, stored, refit)
            })
            .collect();
        for (kv_head, (head, refitted)) in new.iter_mut().zip(solved).enumerate() {
            let refitted = refitted.ok_or(RuntimeError::Refit { layer, kv_head })?;
            head.set_refitted(refitted).map_err(|fault| fault.at(layer, kv_head))?;
        }
        Ok(())
    }
}
