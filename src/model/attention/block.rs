//! A block of query rows of one KV head, and its weights over the slots that it sees.

use std::ops::Range;

use crate::math::{Rhs, axpy, exp_shifted_sum, max, product};
use crate::model::attention::Geometry;

/// Query tokens of one block. With a group of 3 this makes 192 rows, enough for a full-speed product.
pub(super) const BLOCK_TOKENS: usize = 64;

/// One block of query rows of one KV head.
pub(super) struct QueryBlock<'a> {
    /// `[T, n_q_heads, D]`.
    pub q: &'a [f32],
    pub keys: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub positions: &'a [u32],
    pub head: usize,
    /// Tokens of the chunk.
    pub rows: Range<usize>,
    pub n_tokens: usize,
    pub first_position: usize,
    pub geometry: Geometry,
}

/// A query row of a block and what it sees.
pub(super) struct SeenRow<'a> {
    /// Place among the slots that the block sees of the first one that the row sees.
    pub from: usize,
    /// Position of its token.
    pub position: usize,
    /// 1 over the sum of `weights`.
    pub inverse_sum: f32,
    /// Exponentials of its logits.
    pub weights: &'a [f32],
}

impl QueryBlock<'_> {
    /// Tokens of a block, of so many of a chunk.
    pub fn tokens_of(n_tokens: usize, block: usize) -> Range<usize> {
        block * BLOCK_TOKENS..((block + 1) * BLOCK_TOKENS).min(n_tokens)
    }

    /// Rows: those of a token's group side by side.
    pub fn n_rows(&self) -> usize {
        self.rows.len() * self.geometry.group()
    }

    /// Slots that some row sees.
    pub fn seen(&self) -> Range<usize> {
        let first = self.geometry.first_visible(self.positions, self.first_position + self.rows.start);
        first..self.positions.len() - self.n_tokens + self.rows.end
    }

    /// Of `x` `[T, n_q_heads, D]`, the block's rows times a factor, `[rows, D]`.
    pub fn gather(&self, x: &[f32], factor: f32) -> Vec<f32> {
        let (group, head_dim) = (self.geometry.group(), self.geometry.head_dim);
        let mut rows = Vec::with_capacity(self.n_rows() * head_dim);
        for token in self.rows.clone() {
            let start = (token * self.geometry.n_q_heads + self.head * group) * head_dim;
            rows.extend(x[start..start + group * head_dim].iter().map(|x| x * factor));
        }
        rows
    }

    /// Exponentials of the logits of all rows over the slots that some row sees, 0 where a row does not see a slot; calls `each` with
    /// every row while it is at hand.
    ///
    /// - Shape: weights `[rows, seen]`
    pub fn weigh(&self, weights: &mut Vec<f32>, mut each: impl FnMut(SeenRow<'_>)) {
        let (group, head_dim, seen) = (self.geometry.group(), self.geometry.head_dim, self.seen());
        let (n_rows, n_before) = (self.n_rows(), self.positions.len() - self.n_tokens);
        let queries = self.gather(self.q, 1.0 / (head_dim as f32).sqrt());
        weights.resize(n_rows * seen.len(), 0.0);
        let keys = &self.keys[seen.start * head_dim..seen.end * head_dim];
        product(&queries, keys, weights, [n_rows, seen.len(), head_dim], Rhs::Transposed);
        for (i, row) in weights.chunks_exact_mut(seen.len()).enumerate() {
            let token = self.rows.start + i / group;
            let position = self.first_position + token;
            let from = self.geometry.first_visible(self.positions, position) - seen.start;
            let to = n_before + token + 1 - seen.start;
            row[..from].fill(0.0);
            row[to..].fill(0.0);
            let row = &mut row[from..to];
            if let Some(bias) = self.bias {
                axpy(1.0, &bias[seen.start + from..seen.start + to], row);
            }
            let inverse_sum = 1.0 / exp_shifted_sum(row, max(row));
            each(SeenRow { from, position, inverse_sum, weights: row });
        }
    }
}
