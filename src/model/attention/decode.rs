//! Attention of one query: each head's slots in pieces, joined by their running maximum.

use std::ops::Range;

use rayon::prelude::*;

use crate::math::{add_weighted_rows, axpy, dot_rows, exp_shifted_sum, max, scale};
use crate::model::attention::Geometry;
use crate::model::matrix::{bf16_rows, f16_rows};
use crate::model::slots::{HeadSlots, SlotVectors};

/// Slots of one piece.
const PIECE_SLOTS: usize = 512;
/// Slots whose vectors come from memory once and serve all query heads of a group: 8 kB of half precision at D = 64.
const TILE_SLOTS: usize = 64;

pub(super) fn decode(q: &[f32], heads: &[HeadSlots<'_>], geometry: Geometry, position: usize) -> Vec<f32> {
    let (group, head_dim) = (geometry.group(), geometry.head_dim);
    let mut queries = q.to_vec();
    scale(&mut queries, 1.0 / (head_dim as f32).sqrt());
    let mut pieces = Vec::new();
    let mut first_pieces = vec![0];
    for (head, slots) in heads.iter().enumerate() {
        let (first, n) = (geometry.first_visible(slots.positions, position), slots.positions.len());
        pieces.extend((first..n).step_by(PIECE_SLOTS).map(|start| (head, start..(start + PIECE_SLOTS).min(n))));
        first_pieces.push(pieces.len());
    }
    // Of each piece and query head: maximum of the logits, sum of weights relative to it, and sum of weighted values.
    let width = head_dim + 2;
    let mut partials = vec![0f32; pieces.len() * group * width];
    pieces.par_iter().zip(partials.par_chunks_mut(group * width)).for_each_init(
        Vec::new,
        |scores, ((head, range), partials)| {
            let queries = &queries[head * group * head_dim..][..group * head_dim];
            attend_piece(&heads[*head], range.clone(), queries, head_dim, partials, scores);
        },
    );
    let mut output = vec![0f32; q.len()];
    for (row, out) in output.chunks_exact_mut(head_dim).enumerate() {
        let (head, g) = (row / group, row % group);
        let of_head = first_pieces[head]..first_pieces[head + 1];
        let parts = || of_head.clone().map(|piece| &partials[(piece * group + g) * width..][..width]);
        let highest = parts().map(|part| part[0]).fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0f32;
        for part in parts() {
            let weight = (part[0] - highest).exp();
            total += weight * part[1];
            axpy(weight, &part[2..], out);
        }
        scale(out, 1.0 / total);
    }
    output
}

/// One piece of one head's slots, for the scaled queries `[group, D]` of its group; fills `partials` `[group, D + 2]`.
fn attend_piece(
    slots: &HeadSlots<'_>,
    piece: Range<usize>,
    queries: &[f32],
    head_dim: usize,
    partials: &mut [f32],
    scores: &mut Vec<f32>,
) {
    let n = piece.len();
    let tiles = || (0..n).step_by(TILE_SLOTS).map(|start| start..(start + TILE_SLOTS).min(n));
    let places = |tile: &Range<usize>| piece.start + tile.start..piece.start + tile.end;
    scores.resize(queries.len() / head_dim * n, 0.0);
    for tile in tiles() {
        let keys = slots.keys.part(head_dim, places(&tile));
        for (query, scores) in queries.chunks_exact(head_dim).zip(scores.chunks_exact_mut(n)) {
            match keys {
                SlotVectors::F32(keys) => dot_rows(keys, query, &mut scores[tile.clone()]),
                SlotVectors::F16(keys) => f16_rows::dot(keys, query, &mut scores[tile.clone()]),
                SlotVectors::Bf16(keys) => bf16_rows::dot(keys, query, &mut scores[tile.clone()]),
            }
        }
    }
    for (scores, partial) in scores.chunks_exact_mut(n).zip(partials.chunks_exact_mut(head_dim + 2)) {
        if let Some(bias) = slots.logit_bias {
            axpy(1.0, &bias[piece.clone()], scores);
        }
        partial[0] = max(scores);
        partial[1] = exp_shifted_sum(scores, partial[0]);
    }
    for tile in tiles() {
        let values = slots.values.part(head_dim, places(&tile));
        for (weights, partial) in scores.chunks_exact(n).zip(partials.chunks_exact_mut(head_dim + 2)) {
            let (weights, sum) = (&weights[tile.clone()], &mut partial[2..]);
            match values {
                SlotVectors::F32(values) => add_weighted_rows(values, weights, sum),
                SlotVectors::F16(values) => f16_rows::add_weighted(values, weights, sum),
                SlotVectors::Bf16(values) => bf16_rows::add_weighted(values, weights, sum),
            }
        }
    }
}
