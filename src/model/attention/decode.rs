//! Attention of one query: each head's slots in pieces, joined by their running maximum.

use rayon::prelude::*;

use crate::math::add_weighted_rows;
use crate::math::axpy;
use crate::math::dot_rows;
use crate::math::exp_shifted_sum;
use crate::math::max;
use crate::math::scale;
use crate::model::attention::Geometry;
use crate::model::attention::widen;
use crate::model::store::HeadSlots;
use crate::model::store::SlotVectors;

/// Slots of one piece.
const PIECE_SLOTS: usize = 512;

/// A piece's contribution to one query head: softmax numerator, denominator and the maximum they are relative to.
struct Partial {
    max: f32,
    sum: f32,
    output: Vec<f32>,
}

pub(super) fn decode(q: &[f32], heads: &[HeadSlots<'_>], geometry: Geometry, position: usize) -> Vec<f32> {
    let (group, head_dim) = (geometry.group(), geometry.head_dim);
    let factor = 1.0 / (head_dim as f32).sqrt();
    let tasks: Vec<(usize, usize, usize)> = heads
        .iter()
        .enumerate()
        .flat_map(|(head, slots)| {
            let (first, n) = (geometry.first_visible(slots.positions, position), slots.positions.len());
            (first..n).step_by(PIECE_SLOTS).map(move |start| (head, start, (start + PIECE_SLOTS).min(n)))
        })
        .collect();
    let partials: Vec<Vec<Partial>> = tasks
        .par_iter()
        .map(|(head, start, end)| {
            let slots = &heads[*head];
            let keys = widen(part(slots.keys, head_dim, *start, *end));
            let values = widen(part(slots.values, head_dim, *start, *end));
            (0..group)
                .map(|g| {
                    let mut query = q[(head * group + g) * head_dim..][..head_dim].to_vec();
                    scale(&mut query, factor);
                    let mut scores = vec![0f32; end - start];
                    dot_rows(&keys, &query, &mut scores);
                    if let Some(bias) = slots.logit_bias {
                        axpy(1.0, &bias[*start..*end], &mut scores);
                    }
                    let max = max(&scores);
                    let sum = exp_shifted_sum(&mut scores, max);
                    let mut output = vec![0f32; head_dim];
                    add_weighted_rows(&values, &scores, &mut output);
                    Partial { max, sum, output }
                })
                .collect()
        })
        .collect();
    let mut output = vec![0f32; q.len()];
    for (row, out) in output.chunks_exact_mut(head_dim).enumerate() {
        let (head, g) = (row / group, row % group);
        let pieces = || tasks.iter().zip(&partials).filter(|(task, _)| task.0 == head).map(|(_, parts)| &parts[g]);
        let highest = pieces().map(|p| p.max).fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0f32;
        for piece in pieces() {
            let weight = (piece.max - highest).exp();
            total += weight * piece.sum;
            axpy(weight, &piece.output, out);
        }
        scale(out, 1.0 / total);
    }
    output
}

fn part<'a>(vectors: SlotVectors<'a>, head_dim: usize, start: usize, end: usize) -> SlotVectors<'a> {
    let range = start * head_dim..end * head_dim;
    match vectors {
        SlotVectors::F32(x) => SlotVectors::F32(&x[range]),
        SlotVectors::F16(x) => SlotVectors::F16(&x[range]),
        SlotVectors::Bf16(x) => SlotVectors::Bf16(&x[range]),
    }
}
