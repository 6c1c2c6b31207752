//! What a repetition of a prompt tells of the prompt's tokens.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::math::{Rhs, Rows, exp_shifted_sum, max, product, scale};

/// Queries whose weights are held at a time, on each thread.
const BLOCK: usize = 256;

/// By what the attention counts that a token of the repetition pays to a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weighing {
    /// By itself: KVzip (arXiv 2505.23416).
    #[default]
    Attention,
    /// By the length of what the output projection makes of the slot's value, over the length of the token's input to the
    /// layer's attention: KVzip+ (arXiv 2601.07891).
    Output,
    /// By that length, times that of the gradient by what attention adds to the residual stream for the token, of the sum of
    /// squares of the last layer's outputs: KVgrad (openreview.net/forum?id=cg1wTCJjjk).
    Gradient,
}

/// How a prompt is repeated, and what is taken from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repetition {
    /// By what attention counts.
    pub by: Weighing,
    /// First tokens, which every chunk of the repetition sees beside its own, and which stay.
    pub sinks: usize,
    /// Prompt tokens that are repeated at a time, at most.
    pub chunk: usize,
}

impl Default for Repetition {
    fn default() -> Self {
        Self { by: Weighing::default(), sinks: 4, chunk: 2048 }
    }
}

impl Repetition {
    /// Whether it looks at the output projection.
    pub fn projects(self) -> bool {
        self.by != Weighing::Attention
    }
}

/// The largest weight that each slot of a chunk gets from the queries that repeat it, for each query head of the group. They see
/// some first slots, the chunk, and of their own keys those up to their own. Weights of a token's queries count by its factor.
///
/// - Shape: queries `[n · group, D]`, of each token those of the group; sinks `[s, D]`, chunk `[T, D]`, own `[n, D]`; factors
///   `[n]` or empty where all are 1 → `[group, T]`
/// - Cost:  O(n · group · (T + n) · D)
pub(crate) fn largest_weights(
    queries: Rows<'_>,
    group: usize,
    [sinks, chunk, own]: [Rows<'_>; 3],
    factors: &[f32],
) -> Vec<f32> {
    let (n_before, d) = (sinks.len() + chunk.len(), chunk.width());
    let keys = [sinks.flat(), chunk.flat(), own.flat()].concat();
    let of_block = |(block, queries): (usize, &[f32])| {
        let mut largest = vec![0f32; group * chunk.len()];
        let n_rows = queries.len() / d;
        let n_seen = n_before + (block * BLOCK + n_rows).div_ceil(group);
        let mut scaled = queries.to_vec();
        scale(&mut scaled, 1.0 / (d as f32).sqrt());
        let mut weights = vec![0f32; n_rows * n_seen];
        product(&scaled, &keys[..n_seen * d], &mut weights, [n_rows, n_seen, d], Rhs::Transposed);
        for (i, row) in weights.chunks_exact_mut(n_seen).enumerate() {
            let (token, query_head) = ((block * BLOCK + i) / group, (block * BLOCK + i) % group);
            let row = &mut row[..n_before + token + 1];
            let most = max(row);
            let sum = exp_shifted_sum(row, most) / factors.get(token).unwrap_or(&1.0);
            let largest = &mut largest[query_head * chunk.len()..][..chunk.len()];
            for (largest, weight) in largest.iter_mut().zip(&row[sinks.len()..]) {
                *largest = largest.max(weight / sum);
            }
        }
        largest
    };
    let blocks: Vec<Vec<f32>> = queries.flat().par_chunks(BLOCK * d).enumerate().map(of_block).collect();
    let mut largest = vec![0f32; group * chunk.len()];
    for block in blocks {
        largest.iter_mut().zip(block).for_each(|(most, other)| *most = most.max(other));
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_sees_sinks_its_chunk_and_itself_by_hand() {
        // D = 1, two query heads, two tokens. Keys: a sink 0; the chunk ln 2, ln 3; own ln 4, ln 5.
        let own = [4f32.ln(), 5f32.ln()];
        let (sinks, chunk) = ([0.0], [2f32.ln(), 3f32.ln()]);
        // The first token's queries 1 and 0 see 1 + 2 + 3 + 4 = 10 and 4; the second's 0 and -1 see 5 and
        // 1 + 1/2 + 1/3 + 1/4 + 1/5 = 137/60.
        let queries = [1.0, 0.0, 0.0, -1.0];
        let keys = [&sinks[..], &chunk, &own].map(|x| Rows::new(x, 1));
        let is = |factors: &[f32], wanted: [f32; 4]| {
            let found = largest_weights(Rows::new(&queries, 1), 2, keys, factors);
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {wanted:?}");
        };
        is(&[], [0.2, 0.3, 0.25, 0.25]);
        is(&[0.5, 4.0], [0.8, 0.8, 120.0 / 137.0, 80.0 / 137.0]);
    }
}
