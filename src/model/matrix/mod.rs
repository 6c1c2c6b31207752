//! Weight matrices in the storage type of their file, and their products with activations in f32.
//!
//! A weight is turned into f32 when it is used and never otherwise, so a model takes the memory of its file and one decoded
//! token reads no more than that. Activations are never quantised: the results are those of the unpacked weights, up to the
//! rounding of f32.

mod blocks;
mod format;
mod halves;
mod superblocks;
mod x86;

#[cfg(test)]
mod tests;

pub(crate) use halves::bf16_rows;
pub(crate) use halves::f16_rows;

use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use crate::math::Rhs;
use crate::math::product_columns;
use crate::model::matrix::format::Format;
use crate::model::matrix::format::format_of;

/// Rows of activations up to which the matrix is read once for each; beyond it is unpacked once for all.
const FEW_ROWS: usize = 4;
/// Bytes of weights of one task of a product with one vector.
const TASK_BYTES: usize = 64 << 10;
/// Weights that are unpacked at a time for a product with many rows: 16 MB of f32.
const PANEL_WEIGHTS: usize = 4 << 20;
/// Weights of one task that unpacks.
const TASK_WEIGHTS: usize = 64 << 10;
/// Rows of activations of one task of a product.
const TASK_ROWS: usize = 256;

/// A matrix of weights, `[n_out, n_in]`.
#[derive(Debug)]
pub(crate) struct Matrix {
    format: &'static Format,
    bytes: Vec<u8>,
    n_out: usize,
    n_in: usize,
}

impl Matrix {
    /// Takes the bytes of a file; `None` when the type is unknown or the bytes are not those of the shape.
    pub(crate) fn new(dtype: GgmlDType, bytes: Vec<u8>, [n_out, n_in]: [usize; 2]) -> Option<Self> {
        let format = format_of(dtype)?;
        let fits = n_in.is_multiple_of(format.block_len) && bytes.len() == n_out * format.row_bytes(n_in);
        fits.then_some(Self { format, bytes, n_out, n_in })
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.capacity() as u64
    }

    /// Rows.
    pub(crate) fn n_out(&self) -> usize {
        self.n_out
    }

    /// Unpacks rows `first..` into `out`, `[rows, n_in]`, as many as it holds.
    pub(crate) fn widen_rows(&self, first: usize, out: &mut [f32]) {
        let row_bytes = self.format.row_bytes(self.n_in);
        (self.format.widen)(&self.bytes[first * row_bytes..][..out.len() / self.n_in * row_bytes], out);
    }

    /// Columns.
    pub(crate) fn n_in(&self) -> usize {
        self.n_in
    }
}

/// Where unpacked weights go; kept from product to product.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Vec<f32>);

/// `out[t] = W x[t]` for each of several matrices.
///
/// - Shape: x `[T, n_in]`, out `[T, n_out]`
/// - Cost: up to [`FEW_ROWS`] rows read every matrix once each, as it is stored; more rows unpack it once
pub(crate) fn multiply<const N: usize>(x: &[f32], mut products: [(&Matrix, &mut [f32]); N], scratch: &mut Scratch) {
    let n_in = products.first().map_or(1, |(matrix, _)| matrix.n_in);
    if x.len() / n_in > FEW_ROWS {
        products.iter_mut().for_each(|(matrix, out)| multiply_many(matrix, x, out, scratch));
        return;
    }
    for (row, x) in x.chunks_exact(n_in).enumerate() {
        let out = products.each_mut().map(|(matrix, out)| (*matrix, &mut out[row * matrix.n_out..][..matrix.n_out]));
        multiply_vector(x, out);
    }
}

/// Matrices times a vector, in one parallel region.
fn multiply_vector<const N: usize>(x: &[f32], products: [(&Matrix, &mut [f32]); N]) {
    let tasks: Vec<_> = products
        .into_iter()
        .flat_map(|(matrix, out)| {
            let row_bytes = matrix.format.row_bytes(matrix.n_in).max(1);
            let rows = (TASK_BYTES / row_bytes).max(1);
            matrix
                .bytes
                .chunks(rows * row_bytes)
                .zip(out.chunks_mut(rows))
                .map(move |(bytes, out)| (matrix, bytes, out))
        })
        .collect();
    tasks.into_par_iter().for_each(|(matrix, bytes, out)| (matrix.format.dot_rows)(bytes, x, out));
}

/// A matrix times many rows: unpacked panel by panel, each multiplied with all rows.
fn multiply_many(matrix: &Matrix, x: &[f32], out: &mut [f32], Scratch(scratch): &mut Scratch) {
    let Matrix { n_in, n_out, .. } = *matrix;
    let panel_rows = (PANEL_WEIGHTS / n_in).clamp(1, n_out);
    if scratch.len() < panel_rows * n_in {
        scratch.resize(panel_rows * n_in, 0.0);
    }
    let task_rows = TASK_ROWS.min((x.len() / n_in).div_ceil(rayon::current_num_threads()));
    let unpacked_rows = (TASK_WEIGHTS / n_in).max(1);
    for first in (0..n_out).step_by(panel_rows) {
        let n_columns = panel_rows.min(n_out - first);
        let panel = &mut scratch[..n_columns * n_in];
        panel
            .par_chunks_mut(unpacked_rows * n_in)
            .enumerate()
            .for_each(|(i, rows)| matrix.widen_rows(first + i * unpacked_rows, rows));
        let panel = &*panel;
        x.par_chunks(task_rows * n_in).zip(out.par_chunks_mut(task_rows * n_out)).for_each(|(x, out)| {
            let shape = [x.len() / n_in, n_columns, n_in];
            product_columns(x, panel, &mut out[first..], shape, Rhs::Transposed, n_out);
        });
    }
}
