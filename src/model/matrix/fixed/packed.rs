//! Weights of 16 rows side by side.

use std::ops::Range;

use crate::model::StorageType;
use crate::model::matrix::fixed::{GROUP, LEN};

/// How a block of 32 weights is stored. Its file has scale, minimum, fifth bits and codes in this order, as far as it has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    dtype: StorageType,
    /// Bits of a code. 4 and 5 are unsigned, 8 are signed.
    pub(super) bits: usize,
    /// A minimum of two bytes is stored behind the scale.
    pub(super) has_minimum: bool,
    /// Where none is stored: minimum = offset · scale.
    pub(super) offset: f32,
}

const fn layout(dtype: StorageType, bits: usize, has_minimum: bool, offset: f32) -> Layout {
    Layout { dtype, bits, has_minimum, offset }
}

/// Every type that is multiplied in fixed point.
pub(super) const LAYOUTS: [Layout; 5] = [
    layout(StorageType::Q4_0, 4, false, -8.0),
    layout(StorageType::Q4_1, 4, true, 0.0),
    layout(StorageType::Q5_0, 5, false, -16.0),
    layout(StorageType::Q5_1, 5, true, 0.0),
    layout(StorageType::Q8_0, 8, false, 0.0),
];

impl Layout {
    /// Bytes of scale and minimum.
    pub(super) const fn scale_bytes(&self) -> usize {
        if self.has_minimum { 4 } else { 2 }
    }

    /// Bytes before the codes.
    pub(super) const fn head_bytes(&self) -> usize {
        self.scale_bytes() + if self.bits == 5 { 4 } else { 0 }
    }

    /// Bytes of the codes without fifth bits.
    pub(super) const fn code_bytes(&self) -> usize {
        if self.bits == 8 { LEN } else { LEN / 2 }
    }

    /// Bytes of a block.
    pub(super) const fn block_bytes(&self) -> usize {
        self.head_bytes() + self.code_bytes()
    }

    /// Reorders the codes of a block so that a word of 32 bits has whole pairs of weights i and i + 16: of 8 bits, weights
    /// 2w, 2w + 1, 2w + 16, 2w + 17 in word w; of 4 bits, weights 4w to 4w + 3 in its low half and those 16 on in its high half.
    fn pair_codes(&self, block: &mut [u8]) {
        let codes = &mut block[self.head_bytes()..];
        let file: [u8; LEN] = std::array::from_fn(|i| codes.get(i).copied().unwrap_or(0));
        for (i, code) in codes.iter_mut().enumerate() {
            let (word, place) = (i / 4, i % 4);
            *code = if self.bits == 8 {
                file[2 * word + place % 2 + place / 2 * 16]
            } else {
                // Byte `place` has codes 2 · place % 4 and the next, of the file's low or high nibbles.
                let nibble = |i: usize| file[4 * word + i] >> (place / 2 * 4) & 15;
                nibble(place % 2 * 2) | nibble(place % 2 * 2 + 1) << 4
            };
        }
    }

    /// Undoes [`Layout::pair_codes`].
    fn file_codes(&self, block: &mut [u8]) {
        let codes = &mut block[self.head_bytes()..];
        let paired: [u8; LEN] = std::array::from_fn(|i| codes.get(i).copied().unwrap_or(0));
        for (i, code) in codes.iter_mut().enumerate() {
            *code = if self.bits == 8 {
                paired[i % 16 / 2 * 4 + i % 2 + i / 16 * 2]
            } else {
                let nibble = |half: usize| paired[i / 4 * 4 + half * 2 + i % 4 / 2] >> (i % 2 * 4) & 15;
                nibble(0) | nibble(1) << 4
            };
        }
    }

    /// Parts of a block that stay together when blocks are laid side by side: where each begins, and its bytes.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> {
        let scales = (0..self.scale_bytes()).step_by(2).map(|at| (at, 2));
        scales.chain((self.scale_bytes()..self.block_bytes()).step_by(4).map(|at| (at, 4)))
    }
}

/// A matrix whose rows stand side by side in groups of 16: of each block first all scales, then all minima, and so on.
#[derive(Debug)]
pub(in crate::model::matrix) struct Packed {
    /// Place in [`LAYOUTS`].
    pub(super) layout: usize,
    bytes: Vec<u8>,
    n_out: usize,
    n_blocks: usize,
}

impl Packed {
    /// Reorders the rows of a file, `n_out` of `n_in` weights; `None` for a type that has no layout.
    pub(in crate::model::matrix) fn new(dtype: StorageType, rows: &[u8], [n_out, n_in]: [usize; 2]) -> Option<Self> {
        let layout = LAYOUTS.iter().position(|layout| layout.dtype == dtype)?;
        let block_bytes = LAYOUTS[layout].block_bytes();
        let n_blocks = n_in / LEN;
        let mut bytes = vec![0; n_out.div_ceil(GROUP) * GROUP * n_blocks * block_bytes];
        let mut block = vec![0; block_bytes];
        let groups = bytes.chunks_exact_mut((GROUP * n_blocks * block_bytes).max(1));
        for (rows, group) in rows.chunks((GROUP * n_blocks * block_bytes).max(1)).zip(groups) {
            for (column, row) in rows.chunks_exact(n_blocks * block_bytes).enumerate() {
                let records = group.chunks_exact_mut(GROUP * block_bytes);
                for (from, record) in row.chunks_exact(block_bytes).zip(records) {
                    block.copy_from_slice(from);
                    LAYOUTS[layout].pair_codes(&mut block);
                    for (at, n) in LAYOUTS[layout].parts() {
                        record[GROUP * at + column * n..][..n].copy_from_slice(&block[at..at + n]);
                    }
                }
            }
        }
        Some(Self { layout, bytes, n_out, n_blocks })
    }

    /// The blocks of one row as the file has them.
    pub(in crate::model::matrix) fn row(&self, row: usize) -> Vec<u8> {
        let layout = &LAYOUTS[self.layout];
        let (group, column) = (self.group(row / GROUP), row % GROUP);
        let mut blocks = vec![0; self.n_blocks * layout.block_bytes()];
        let records = group.chunks_exact(GROUP * layout.block_bytes());
        for (block, record) in blocks.chunks_exact_mut(layout.block_bytes()).zip(records) {
            for (at, n) in layout.parts() {
                block[at..at + n].copy_from_slice(&record[GROUP * at + column * n..][..n]);
            }
            layout.file_codes(block);
        }
        blocks
    }

    /// The bytes of 16 rows.
    pub(super) fn group(&self, group: usize) -> &[u8] {
        &self.bytes[group * self.group_bytes()..][..self.group_bytes()]
    }

    pub(super) fn group_bytes(&self) -> usize {
        GROUP * self.n_blocks * LAYOUTS[self.layout].block_bytes()
    }

    pub(super) fn n_groups(&self) -> usize {
        self.n_out.div_ceil(GROUP)
    }

    /// Rows of the matrix, columns of the output, that groups hold.
    pub(super) fn columns(&self, groups: &Range<usize>) -> Range<usize> {
        groups.start * GROUP..(groups.end * GROUP).min(self.n_out)
    }

    pub(super) fn n_out(&self) -> usize {
        self.n_out
    }

    pub(super) fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Bytes in memory.
    pub(in crate::model::matrix) fn bytes(&self) -> u64 {
        self.bytes.capacity() as u64
    }
}
