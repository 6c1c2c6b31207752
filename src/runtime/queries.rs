//! Queries that stand for those to come, kept until the slots of a prompt are chosen.

use crate::math::Rope;
use crate::merge::{Origin, Sampling};
use crate::model::ChunkStates;

/// A seeded sample of the queries of a part of a prompt, in every layer.
#[derive(Clone, Debug)]
pub(super) struct QuerySample {
    sampling: Sampling,
    /// Positions in the prompt of the sampled tokens, rising, and how far behind the part each is to stand.
    tokens: Vec<(usize, usize)>,
    /// Queries after RoPE, `[layer][tokens, n_q_heads · D]`; empty before they pass and once a layer has been compressed.
    queries: Vec<Vec<f32>>,
}

impl QuerySample {
    /// Chooses tokens of a part: as many as give `sampling.queries` rows for every KV head.
    pub fn draw(sampling: Sampling, group: usize, n_layers: usize, part: std::ops::Range<usize>) -> Self {
        // A part that is no longer than what is skipped has nothing else.
        let first = if sampling.skip < part.end { part.start.max(sampling.skip) } else { part.start };
        let mut tokens = sampling.draw(group, part.end - first, part.start as u64);
        tokens.iter_mut().for_each(|(position, _)| *position += first);
        Self { sampling, tokens, queries: vec![Vec::new(); n_layers] }
    }

    /// What was asked for.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// Keeps the sampled ones of a chunk's queries; its token behind the first `skip` stands at `first` in the prompt.
    pub fn take(&mut self, chunk: &ChunkStates<'_>, skip: usize, first: usize) {
        let n_heads = chunk.q.len() / chunk.n_tokens.max(1);
        let end = first + chunk.n_tokens - skip;
        let from = self.tokens.partition_point(|(position, _)| *position < first);
        for (position, _) in self.tokens[from..].iter().take_while(|(position, _)| *position < end) {
            let at = (position - first + skip) * n_heads;
            self.queries[chunk.layer].extend_from_slice(chunk.q.part(at..at + n_heads).flat());
        }
    }

    /// Frees a layer's queries.
    pub fn forget(&mut self, layer: usize) {
        self.queries[layer] = Vec::new();
    }

    /// Whether a layer's queries are there.
    pub fn has(&self, layer: usize) -> bool {
        !self.queries[layer].is_empty()
    }

    /// The queries of the group of a KV head, of every `step`-th sampled token: those of the prompt turned to positions behind
    /// `n_seen`, those of a replay where they stood. A sample that stands for means is never thinned.
    ///
    /// - Shape: `[tokens · group, D]`
    pub fn rows(&self, [layer, kv_head, n_kv_heads]: [usize; 3], rope: &Rope, n_seen: usize, step: usize) -> Vec<f32> {
        let queries = &self.queries[layer];
        let width = queries.len() / self.tokens.len().max(1);
        let group_width = width / n_kv_heads;
        let step = if self.sampling.from == Origin::Average { 1 } else { step };
        let mut rows = Vec::with_capacity(self.tokens.len().div_ceil(step) * group_width);
        for (token, (position, ahead)) in queries.chunks_exact(width.max(1)).zip(&self.tokens).step_by(step) {
            let first = rows.len();
            rows.extend_from_slice(&token[kv_head * group_width..][..group_width]);
            self.sampling.turn(rope, &mut rows[first..], n_seen.saturating_sub(*position), *ahead);
        }
        rows
    }
}
