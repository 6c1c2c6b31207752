//! What a cache records of a passing chunk beside keys and values, for compressions to come.

use crate::math::{Rows, dot};
use crate::merge::{Origin, Repetition, Weighing};
use crate::model::{ChunkStates, Model};
use crate::runtime::cache::Replay;
use crate::runtime::repeated::RepeatedChunk;
use crate::runtime::{RaggedCache, RuntimeError};

impl RaggedCache {
    /// Refuses a model that a compression's weights were not learned for.
    ///
    /// - Cost: where there are any, the first call reads all of the model's weights, for their digest
    /// - Errors: [`RuntimeError::Scorer`]
    pub(in crate::runtime) fn check_scorers(&self, model: &Model) -> Result<(), RuntimeError> {
        for scorer in &self.scorers {
            scorer.check_model(model.identity()?, model.config().hidden_size)?;
        }
        Ok(())
    }

    /// Keeps what a chunk has of the sampled queries.
    pub(super) fn take_queries(&mut self, chunk: &ChunkStates<'_>) {
        let (from, first, skip) = match (self.replay, self.passing) {
            (Some(Replay { first, n_asking, chunk_tokens, .. }), _) if chunk_tokens == Repetition::default().chunk => {
                (Origin::Replay, first, n_asking)
            }
            (Some(_), _) => return,
            (None, Some(_)) => (Origin::Prompt, chunk.first_position, 0),
            (None, None) => return,
        };
        let is_replay = |from| from == Origin::Replay;
        let samples = self.samples.iter_mut().filter(|sample| is_replay(sample.sampling().from) == is_replay(from));
        samples.for_each(|sample| sample.take(chunk, skip, first));
    }

    /// Adds the attention that a repeated chunk of the prompt pays to its original: where it counts by gradients once these are
    /// known, else before.
    pub(super) fn take_repetition(&mut self, chunk: &ChunkStates<'_>, gradient_norms: Option<&[f32]>) {
        let Some(Replay { first, n_asking, n_seen, chunk_tokens }) = self.replay else { return };
        let (group, group_width) = (self.group, self.group * self.head_dim);
        let n_behind = n_seen - (first + chunk.n_tokens - n_asking);
        let over_length = |input: &[f32]| 1.0 / dot(input, input).sqrt().max(f32::MIN_POSITIVE);
        let over_input: Vec<f32> = chunk.inputs.iter().map(over_length).collect();
        for repeated in self.repeated.iter_mut().filter(|repeated| repeated.wanted().chunk == chunk_tokens) {
            let factors = match (repeated.wanted().by, gradient_norms) {
                (Weighing::Attention, None) => &[][..],
                (Weighing::Output, None) => &over_input,
                (Weighing::Gradient, Some(norms)) => norms,
                _ => continue,
            };
            for kv_head in 0..self.n_kv_heads {
                let index = chunk.layer * self.n_kv_heads + kv_head;
                let tokens = chunk.q.flat().chunks_exact(self.n_kv_heads * group_width);
                let of_group = tokens.flat_map(|token| &token[kv_head * group_width..][..group_width]);
                let queries: Vec<f32> = of_group.copied().collect();
                let chunk = RepeatedChunk {
                    n_behind,
                    n_tokens: chunk.n_tokens,
                    queries: Rows::new(&queries, self.head_dim),
                    factors,
                    projection: self.projections.as_ref().map(|all| all.of_kv_head(index, group)),
                };
                repeated.take(index, &self.heads[index], chunk, group);
            }
        }
    }

    /// Keeps what scorers predict of a chunk.
    pub(super) fn take_predicted(&mut self, chunk: &ChunkStates<'_>) -> Result<(), RuntimeError> {
        if self.replay.is_some() || !self.predicts() {
            return Ok(());
        }
        let n_kv_heads = self.n_kv_heads;
        let heads = &mut self.heads[chunk.layer * n_kv_heads..(chunk.layer + 1) * n_kv_heads];
        for (place, scorer) in self.scorers.iter().enumerate() {
            let predicted = scorer.predict(chunk.layer, chunk.inputs);
            for (kv_head, head) in heads.iter_mut().enumerate() {
                let of_head = predicted.iter().skip(kv_head).step_by(n_kv_heads).copied();
                head.add_predicted(place, of_head).map_err(|fault| fault.at(chunk.layer, kv_head))?;
            }
        }
        Ok(())
    }

    /// Whether what scorers predict of tokens is kept: of a prompt, and behind it where that may be compressed again.
    pub(super) fn predicts(&self) -> bool {
        !self.scorers.is_empty() && (self.passing.is_some() || self.compression.is_some())
    }
}
