//! Activations in 16-bit fixed point.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::model::matrix::fixed::LEN;

/// Blocks of one task of rounding.
const TASK_BLOCKS: usize = 2048;
/// A block whose largest value is below counts as nothing; the inverse of its scale would not be finite.
const NOTHING: f32 = 1e-30;

/// 32 activations.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Block {
    /// Values i and i + 16, rounded to integers, in the low and the high half of place i.
    pub(super) pairs: [u32; LEN / 2],
    /// Of one step.
    pub(super) scale: f32,
    /// Of the rounded values.
    pub(super) sum: f32,
}

/// Rows of activations in 16-bit fixed point.
#[derive(Debug, Default)]
pub(in crate::model::matrix) struct Activations {
    n_blocks: usize,
    blocks: Vec<Block>,
}

impl Activations {
    /// Rounds `x` `[T, n_in]`, n_in a multiple of 32, in place of what was held.
    pub(in crate::model::matrix) fn round(&mut self, x: &[f32], n_in: usize) {
        self.n_blocks = n_in / LEN;
        self.blocks.resize(x.len() / LEN, Block::default());
        let blocks = self.blocks.par_chunks_mut(TASK_BLOCKS);
        x.par_chunks(TASK_BLOCKS * LEN).zip(blocks).for_each(|(x, blocks)| round_blocks(x, blocks));
    }

    /// Blocks of a row.
    pub(super) fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    pub(super) fn n_rows(&self) -> usize {
        self.blocks.len() / self.n_blocks.max(1)
    }

    /// All rows from `row` on.
    pub(super) fn rows_from(&self, row: usize) -> &[Block] {
        &self.blocks[row * self.n_blocks..]
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn round_blocks(x: &[f32], blocks: &mut [Block]) {
    // 1.5 · 2^23: adding it rounds to the nearest integer, which then stands in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const HALF: usize = LEN / 2;
    for (x, block) in x.as_chunks::<LEN>().0.iter().zip(blocks) {
        let (mut highest, mut probe) = ([0f32; HALF], [0f32; HALF]);
        for i in 0..HALF {
            let (low, high) = (x[i].abs(), x[i + HALF].abs());
            highest[i] = if low > high { low } else { high };
            // 0, or NaN where a value is not finite.
            probe[i] = low * 0.0 + high * 0.0;
        }
        let mut width = HALF / 2;
        while width > 0 {
            for i in 0..width {
                highest[i] = if highest[i] > highest[i + width] { highest[i] } else { highest[i + width] };
                probe[i] += probe[i + width];
            }
            width /= 2;
        }
        let has_values = highest[0] > NOTHING;
        // What is not finite stays so: an infinite or undefined value makes the block's scale undefined.
        block.scale = if has_values { highest[0] * (1.0 / 32767.0) } else { 0.0 } + probe[0];
        let inverse = if has_values { 32767.0 / highest[0] } else { 0.0 };
        let step = |x: f32| ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let mut totals = [0i32; HALF];
        for i in 0..HALF {
            let (low, high) = (step(x[i]), step(x[i + HALF]));
            block.pairs[i] = low as u32 & 0xffff | (high as u32) << 16;
            totals[i] = low.wrapping_add(high);
        }
        block.sum = block.scale * totals.iter().fold(0i32, |sum, x| sum.wrapping_add(*x)) as f32;
    }
}
