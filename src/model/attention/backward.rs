//! How attention outputs depend on the queries, keys and values of their own tokens.

use rayon::prelude::*;

use crate::math::{Rhs, axpy, dot, product, scale};
use crate::model::attention::Geometry;
use crate::model::attention::block::{BLOCK_TOKENS, QueryBlock};
use crate::model::slots::HeadSlots;

/// Gradients by the rotated queries `[T, n_q_heads, D]`, and by the rotated keys and the values `[T, n_kv_heads, D]`.
pub struct StateGradients {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// What a gradient by the outputs of [`attend`](super::attend) is by the chunk's queries, keys and values; older slots are constants.
///
/// - Shape: q, outputs `[T, n_q_heads, D]`, heads `[n_kv_heads]` of n slots each, the last T of which are the chunk's
/// - Cost:  O(T·n·D) time per query head; n · 64 · group weights at a time per thread
pub fn attend_backward(
    q: &[f32],
    heads: &[HeadSlots<'_>],
    geometry: Geometry,
    first_position: usize,
    outputs: &[f32],
) -> StateGradients {
    let Geometry { n_q_heads, n_kv_heads, head_dim, .. } = geometry;
    let n_tokens = q.len() / (n_q_heads * head_dim);
    let of_heads: Vec<StateGradients> = (0..heads.len())
        .into_par_iter()
        .map(|head| {
            let keys = heads[head].keys.widened();
            let queries = QueryBlock {
                q,
                keys: &keys,
                bias: heads[head].logit_bias,
                positions: heads[head].positions,
                head,
                rows: 0..0,
                n_tokens,
                first_position,
                geometry,
            };
            of_head(queries, &heads[head].values.widened(), outputs)
        })
        .collect();
    let interleaved = |part: fn(&StateGradients) -> &[f32], width: usize| {
        let mut all = vec![0f32; n_tokens * n_kv_heads * width];
        for (head, gradients) in of_heads.iter().enumerate() {
            let places = all.chunks_exact_mut(width).skip(head).step_by(n_kv_heads);
            places.zip(part(gradients).chunks_exact(width)).for_each(|(place, from)| place.copy_from_slice(from));
        }
        all
    };
    StateGradients {
        q: interleaved(|of| &of.q, geometry.group() * head_dim),
        k: interleaved(|of| &of.k, head_dim),
        v: interleaved(|of| &of.v, head_dim),
    }
}

/// Of one KV head, block by block. With weights p, values v and gradients g by the outputs, those by the logits are p (g·v - Σ p g·v).
fn of_head(mut queries: QueryBlock<'_>, values: &[f32], outputs: &[f32]) -> StateGradients {
    let (group, head_dim, n_tokens) = (queries.geometry.group(), queries.geometry.head_dim, queries.n_tokens);
    let n_before = queries.positions.len() - n_tokens;
    let factor = 1.0 / (head_dim as f32).sqrt();
    let mut gradients = StateGradients {
        q: Vec::with_capacity(n_tokens * group * head_dim),
        k: vec![0f32; n_tokens * head_dim],
        v: vec![0f32; n_tokens * head_dim],
    };
    let mut weights = Vec::new();
    for block in 0..n_tokens.div_ceil(BLOCK_TOKENS) {
        queries.rows = QueryBlock::tokens_of(n_tokens, block);
        let (n_rows, seen) = (queries.n_rows(), queries.seen());
        let slots = seen.start * head_dim..seen.end * head_dim;
        let mut inverse_sums = Vec::with_capacity(n_rows);
        queries.weigh(&mut weights, |row| inverse_sums.push(row.inverse_sum));
        let by_output = queries.gather(outputs, 1.0);
        let mut by_logit = vec![0f32; n_rows * seen.len()];
        product(&by_output, &values[slots.clone()], &mut by_logit, [n_rows, seen.len(), head_dim], Rhs::Transposed);
        let rows = weights.chunks_exact_mut(seen.len()).zip(by_logit.chunks_exact_mut(seen.len()));
        for ((weights, by_logit), inverse_sum) in rows.zip(inverse_sums) {
            scale(weights, inverse_sum);
            let mean = dot(weights, by_logit);
            by_logit.iter_mut().zip(weights).for_each(|(x, weight)| *x = *weight * (*x - mean));
        }
        let mut by_query = vec![0f32; n_rows * head_dim];
        product(&by_logit, &queries.keys[slots], &mut by_query, [n_rows, head_dim, seen.len()], Rhs::Plain);
        scale(&mut by_query, factor);
        gradients.q.extend(by_query);
        // What the chunk's own slots get, of which the block sees those up to its last token.
        let own = n_before.max(seen.start)..seen.end;
        let tokens = (own.start - n_before) * head_dim..(own.end - n_before) * head_dim;
        let own = own.start - seen.start..own.end - seen.start;
        let add = |weights: &[f32], rows: &[f32], into: &mut [f32]| {
            let columns: Vec<f32> =
                own.clone().flat_map(|slot| weights.iter().skip(slot).step_by(seen.len())).copied().collect();
            let mut sums = vec![0f32; own.len() * head_dim];
            product(&columns, rows, &mut sums, [own.len(), head_dim, n_rows], Rhs::Plain);
            axpy(1.0, &sums, &mut into[tokens.clone()]);
        };
        add(&weights, &by_output, &mut gradients.v);
        add(&by_logit, &queries.gather(queries.q, factor), &mut gradients.k);
    }
    gradients
}
