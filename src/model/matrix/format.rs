//! Storage types of weights: for each, how blocks become f32 and how rows of blocks are multiplied with a vector.

use multiversion::multiversion;

use crate::model::StorageType;
use crate::model::matrix::{blocks, superblocks, x86};

/// Values that are turned into f32 at a time in a product without a kernel of its own: 1 kB, which stays in L1.
const TILE: usize = 256;
/// Lanes of a partial sum.
const LANES: usize = 32;

/// A line of the table of storage types.
#[derive(Debug)]
pub(super) struct Format {
    pub(super) dtype: StorageType,
    /// Weights of a block.
    pub(super) block_len: usize,
    /// Bytes of a block.
    block_bytes: usize,
    /// Blocks → f32.
    pub(super) widen: fn(&[u8], &mut [f32]),
    /// `out[j] = ⟨rows[j], x⟩` in f32.
    pub(super) dot_rows: fn(&[u8], &[f32], &mut [f32]),
}

impl Format {
    /// Bytes of a row of `n_in` weights.
    pub(super) fn row_bytes(&self, n_in: usize) -> usize {
        n_in / self.block_len * self.block_bytes
    }
}

macro_rules! format {
    ($dtype:ident, $block:path, $bytes:literal, $len:expr) => {
        format!($dtype, $block, $bytes, $len, |_, _, _| false)
    };
    ($dtype:ident, $block:path, $bytes:literal, $len:expr, $fast:expr) => {{
        #[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
        fn widen(bytes: &[u8], out: &mut [f32]) {
            for (block, out) in bytes.as_chunks::<$bytes>().0.iter().zip(out.as_chunks_mut::<{ $len }>().0) {
                $block(block, out);
            }
        }
        #[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
        fn dot_rows(rows: &[u8], x: &[f32], out: &mut [f32]) {
            const BYTES_PER_TILE: usize = TILE / $len * $bytes;
            let row_bytes = x.len() / $len * $bytes;
            let mut tile = [0f32; TILE];
            for (row, out) in rows.chunks_exact(row_bytes.max(1)).zip(out) {
                let mut lanes = [0f32; LANES];
                let mut tail = 0f32;
                for (blocks, x) in row.chunks(BYTES_PER_TILE).zip(x.chunks(TILE)) {
                    for (block, out) in blocks.as_chunks::<$bytes>().0.iter().zip(tile.as_chunks_mut::<{ $len }>().0) {
                        $block(block, out);
                    }
                    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
                    let (w_chunks, _) = tile.as_chunks::<LANES>();
                    for (x, w) in x_chunks.iter().zip(w_chunks) {
                        for i in 0..LANES {
                            lanes[i] += x[i] * w[i];
                        }
                    }
                    for (x, w) in x_rest.iter().zip(&tile[x.len() - x_rest.len()..]) {
                        tail += x * w;
                    }
                }
                *out = crate::math::fold(&lanes) + tail;
            }
        }
        fn dot_rows_fast(rows: &[u8], x: &[f32], out: &mut [f32]) {
            let fast: fn(&[u8], &[f32], &mut [f32]) -> bool = $fast;
            if !fast(rows, x, out) {
                dot_rows(rows, x, out);
            }
        }
        Format { dtype: StorageType::$dtype, block_len: $len, block_bytes: $bytes, widen, dot_rows: dot_rows_fast }
    }};
}

/// Every storage type that is kept as it is in memory.
pub(super) static FORMATS: [Format; 18] = [
    format!(F32, blocks::f32, 4, 1),
    format!(F16, blocks::f16, 2, 1, x86::f16),
    format!(BF16, blocks::bf16, 2, 1, x86::bf16),
    format!(Q4_0, blocks::q4_0, 18, blocks::LEN, x86::q4_0),
    format!(Q4_1, blocks::q4_1, 20, blocks::LEN, x86::q4_1),
    format!(Q5_0, blocks::q5_0, 22, blocks::LEN),
    format!(Q5_1, blocks::q5_1, 24, blocks::LEN),
    format!(Q8_0, blocks::q8_0, 34, blocks::LEN, x86::q8_0),
    format!(Q2K, superblocks::q2_k, 84, superblocks::LEN),
    format!(Q3K, superblocks::q3_k, 110, superblocks::LEN),
    format!(Q4K, superblocks::q4_k, 144, superblocks::LEN),
    format!(Q5K, superblocks::q5_k, 176, superblocks::LEN),
    format!(Q6K, superblocks::q6_k, 210, superblocks::LEN),
    format!(Iq4Nl, blocks::iq4_nl, 18, blocks::LEN),
    format!(Iq4Xs, superblocks::iq4_xs, 136, superblocks::LEN),
    format!(Tq1_0, superblocks::tq1_0, 54, superblocks::LEN),
    format!(Tq2_0, superblocks::tq2_0, 66, superblocks::LEN),
    format!(Mxfp4, blocks::mxfp4, 17, blocks::LEN),
];

/// IEEE half precision.
pub(super) static F16: &Format = &FORMATS[1];
/// The upper half of single precision.
pub(super) static BF16: &Format = &FORMATS[2];

/// The line of a storage type.
pub(super) fn format_of(dtype: StorageType) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.dtype == dtype)
}
