//! Attention of many queries: blocks of query rows against the visible prefix.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::math::{Rhs, axpy, exp_shifted_sum, max, product, scale};
use crate::model::attention::Geometry;
use crate::model::slots::{AttnMass, HeadSlots};
use crate::model::store::StoreNeeds;

/// Query tokens of one block. With a group of 3 this makes 192 rows, enough for a full-speed product.
const BLOCK_TOKENS: usize = 64;

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
            let rows = block * BLOCK_TOKENS..((block + 1) * BLOCK_TOKENS).min(n_tokens);
            let task = BlockTask {
                q,
                keys: &keys[head],
                values: &values[head],
                bias: heads[head].logit_bias,
                positions: heads[head].positions,
                head,
                rows,
                n_tokens,
                first_position,
                geometry,
                needs,
            };
            task.run(scores)
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

/// One block of query rows of one KV head.
struct BlockTask<'a> {
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    bias: Option<&'a [f32]>,
    positions: &'a [u32],
    head: usize,
    rows: std::ops::Range<usize>,
    n_tokens: usize,
    first_position: usize,
    geometry: Geometry,
    needs: StoreNeeds,
}

impl BlockTask<'_> {
    fn run(&self, scores: &mut Vec<f32>) -> Block {
        let (group, head_dim) = (self.geometry.group(), self.geometry.head_dim);
        let n_before = self.positions.len() - self.n_tokens;
        let first_slot = self.geometry.first_visible(self.positions, self.first_position + self.rows.start);
        let end = n_before + self.rows.end;
        let n_visible = end - first_slot;
        let n_rows = self.rows.len() * group;
        let factor = 1.0 / (head_dim as f32).sqrt();
        let mut queries = Vec::with_capacity(n_rows * head_dim);
        for token in self.rows.clone() {
            let start = (token * self.geometry.n_q_heads + self.head * group) * head_dim;
            queries.extend(self.q[start..start + group * head_dim].iter().map(|x| x * factor));
        }
        scores.resize(n_rows * n_visible, 0.0);
        let keys = &self.keys[first_slot * head_dim..end * head_dim];
        product(&queries, keys, scores, [n_rows, n_visible, head_dim], Rhs::Transposed);
        let mut block = Block { output: vec![0f32; n_rows * head_dim], first_slot, mass: vec![], mass_window: vec![] };
        if self.needs.mass {
            block.mass = vec![0f32; n_visible];
        }
        if self.needs.mass_from_position.is_some() {
            block.mass_window = vec![0f32; n_visible];
        }
        let mut inverse_sums = Vec::with_capacity(n_rows);
        for (i, row) in scores.chunks_exact_mut(n_visible).enumerate() {
            let token = self.rows.start + i / group;
            let position = self.first_position + token;
            let from = self.geometry.first_visible(self.positions, position) - first_slot;
            let to = n_before + token + 1 - first_slot;
            row[..from].fill(0.0);
            row[to..].fill(0.0);
            let seen = &mut row[from..to];
            if let Some(bias) = self.bias {
                axpy(1.0, &bias[first_slot + from..first_slot + to], seen);
            }
            let inverse = 1.0 / exp_shifted_sum(seen, max(seen));
            inverse_sums.push(inverse);
            if self.needs.mass {
                axpy(inverse, seen, &mut block.mass[from..]);
            }
            if self.needs.mass_from_position.is_some_and(|start| position >= start) {
                axpy(inverse, seen, &mut block.mass_window[from..]);
            }
        }
        let values = &self.values[first_slot * head_dim..end * head_dim];
        product(scores, values, &mut block.output, [n_rows, head_dim, n_visible], Rhs::Plain);
        for (row, inverse) in block.output.chunks_exact_mut(head_dim).zip(inverse_sums) {
            scale(row, inverse);
        }
        block
    }
}
