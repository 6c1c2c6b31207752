//! Activations in 16-bit fixed point.

use std::hint::black_box;

use multiversion::multiversion;
use rayon::prelude::*;

use crate::model::matrix::fixed::LEN;

/// Blocks of one task of rounding.
const TASK_BLOCKS: usize = 2048;
/// A block whose largest value is below counts as nothing; the inverse of its scale would not be finite.
const NOTHING: f32 = 1e-30;

/// 32 activations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// Values i and i + 16, rounded to integers, in the low and the high half of place i.
    pub(super) pairs: [u32; LEN / 2],
    /// Of one step.
    pub(super) scale: f32,
    /// Of the rounded values.
    pub(super) sum: f32,
}

impl Block {
    /// Nothing but zeros.
    pub(super) const EMPTY: Self = Self { pairs: [0; LEN / 2], scale: 0.0, sum: 0.0 };
}

/// Rows of activations in 16-bit fixed point, in panels of a few rows: of each panel first every row's first block, then
/// every row's second, and so on. The last panel is filled up with zeros.
#[derive(Debug, Default)]
pub(in crate::model::matrix) struct Activations {
    n_rows: usize,
    n_blocks: usize,
    /// Rows of a panel.
    height: usize,
    blocks: Vec<Block>,
}

impl Activations {
    /// Rounds `x` `[T, n_in]`, n_in a multiple of 32, in place of what was held, in panels of `height` rows: the
    /// kernel's for so many rows.
    pub(in crate::model::matrix) fn round(&mut self, x: &[f32], n_in: usize, height: usize) {
        self.n_rows = x.len() / n_in;
        self.n_blocks = n_in / LEN;
        self.height = height;
        let panel_blocks = self.height * self.n_blocks;
        self.blocks.resize(self.n_rows.div_ceil(self.height) * panel_blocks, Block::EMPTY);
        let panels = self.blocks.par_chunks_mut(panel_blocks).with_min_len(TASK_BLOCKS.div_ceil(panel_blocks));
        x.par_chunks(self.height * n_in).zip(panels).for_each(|(x, panel)| {
            let rows = x.chunks_exact(n_in);
            let n_rows = rows.len();
            for (row, x) in rows.enumerate() {
                round_row(x, &mut panel[row..], self.height);
            }
            for blocks in panel.chunks_exact_mut(self.height) {
                blocks[n_rows..].fill(Block::EMPTY);
            }
        });
    }

    /// Blocks of a row.
    pub(super) fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    pub(super) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Rows of a panel.
    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// The panel that begins with `row`.
    pub(super) fn panel(&self, row: usize) -> &[Block] {
        let n = self.height * self.n_blocks;
        &self.blocks[row / self.height * n..][..n]
    }
}

/// Rounds a row into every `stride`th block.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn round_row(x: &[f32], blocks: &mut [Block], stride: usize) {
    // 1.5 · 2^23: adding it rounds to the nearest integer, which then stands in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const HALF: usize = LEN / 2;
    for (x, block) in x.as_chunks::<LEN>().0.iter().zip(blocks.iter_mut().step_by(stride)) {
        // Keeps the compiler from gathering the same place of many blocks into a register instead of a block's values.
        let x = black_box(x);
        // Without their sign, floats are ordered as their bits are; what is not finite comes last.
        let highest = x.iter().fold(0, |highest, x| (x.to_bits() & 0x7fff_ffff).max(highest));
        let largest = f32::from_bits(highest);
        let has_values = largest > NOTHING;
        block.scale = if !largest.is_finite() {
            f32::NAN
        } else if has_values {
            largest * (1.0 / 32767.0)
        } else {
            0.0
        };
        let inverse = if has_values { 32767.0 / largest } else { 0.0 };
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
