//! Attention of many queries: blocks of query rows against the visible prefix.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::math::{Rhs, axpy, product, scale};
use crate::model::attention::Geometry;
use crate::model::attention::block::{BLOCK_TOKENS, QueryBlock};
use crate::model::slots::{AttnMass, HeadSlots};
use crate::model::store::StoreNeeds;

/// What one block of one head gives back.
struct Block {
    /// `[rows, group, D]`.
    output: Vec<f32>,
    first_slot: usize,
    mass: Vec<f32>,
    mass_window: Vec<f32>,
}

pub(super) fn prefill(
    q: &[f32],
    heads: &[HeadSlots<'_>],
    geometry: Geometry,
    first_position: usize,
    needs: StoreNeeds,
    n_tokens: usize,
) -> (Vec<f32>, AttnMass) {
    let (group, head_dim) = (geometry.group(), geometry.head_dim);
    let width = geometry.n_q_heads * head_dim;
    let keys: Vec<Cow<'_, [f32]>> = heads.iter().map(|h| h.keys.widened()).collect();
    let values: Vec<Cow<'_, [f32]>> = heads.iter().map(|h| h.values.widened()).collect();
    let n_blocks = n_tokens.div_ceil(BLOCK_TOKENS);
    let blocks: Vec<Block> = (0..heads.len() * n_blocks)
        .into_par_iter()
        .map_init(Vec::new, |scores, task| {
            let (head, block) = (task / n_blocks, task % n_blocks);
            let queries = QueryBlock {
                q,
                keys: &keys[head],
                bias: heads[head].logit_bias,
                positions: heads[head].positions,
                head,
                rows: QueryBlock::tokens_of(n_tokens, block),
                n_tokens,
                first_position,
                geometry,
            };
            attend(&queries, &values[head], needs, scores)
        })
        .collect();
    let mut output = vec![0f32; n_tokens * width];
    output.par_chunks_mut(BLOCK_TOKENS * width).enumerate().for_each(|(block, rows)| {
        for head in 0..heads.len() {
            let part = &blocks[head * n_blocks + block].output;
            for (row, from) in rows.chunks_exact_mut(width).zip(part.chunks_exact(group * head_dim)) {
                row[head * group * head_dim..][..group * head_dim].copy_from_slice(from);
            }
        }
    });
    let gather = |wanted: bool, part: fn(&Block) -> &[f32]| -> Vec<Vec<f32>> {
        if !wanted {
            return Vec::new();
        }
        (0..heads.len())
            .into_par_iter()
            .map(|head| {
                let mut sum = vec![0f32; heads[head].positions.len()];
                for block in &blocks[head * n_blocks..(head + 1) * n_blocks] {
                    axpy(1.0, part(block), &mut sum[block.first_slot..]);
                }
                sum
            })
            .collect()
    };
    let mass = AttnMass {
        all: gather(needs.mass, |block| &block.mass),
        window: gather(needs.mass_from_position.is_some(), |block| &block.mass_window),
    };
    (output, mass)
}

/// Outputs of a block's rows, and the mass that they give.
fn attend(queries: &QueryBlock<'_>, values: &[f32], needs: StoreNeeds, scores: &mut Vec<f32>) -> Block {
    let (head_dim, seen, n_rows) = (queries.geometry.head_dim, queries.seen(), queries.n_rows());
    let masses = |wanted: bool| if wanted { vec![0f32; seen.len()] } else { Vec::new() };
    let mut block = Block {
        output: vec![0f32; n_rows * head_dim],
        first_slot: seen.start,
        mass: masses(needs.mass),
        mass_window: masses(needs.mass_from_position.is_some()),
    };
    let mut inverse_sums = Vec::with_capacity(n_rows);
    queries.weigh(scores, |row| {
        inverse_sums.push(row.inverse_sum);
        if needs.mass {
            axpy(row.inverse_sum, row.weights, &mut block.mass[row.from..]);
        }
        if needs.mass_from_position.is_some_and(|start| row.position >= start) {
            axpy(row.inverse_sum, row.weights, &mut block.mass_window[row.from..]);
        }
    });
    let values = &values[seen.start * head_dim..seen.end * head_dim];
    product(scores, values, &mut block.output, [n_rows, head_dim, seen.len()], Rhs::Plain);
    for (row, inverse) in block.output.chunks_exact_mut(head_dim).zip(inverse_sums) {
        scale(row, inverse);
    }
    block
}
