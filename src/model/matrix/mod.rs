//! Weight matrices in the storage type of their file, and their products with activations in f32.
//!
//! A weight is unpacked when it is used and never otherwise, so a model takes the memory of its file and one decoded token
//! reads no more than that. Products are computed in f32, which gives the results of the unpacked weights up to rounding;
//! or, where asked for, with block-quantised weights and activations of 16 bits ([`fixed`]).

mod blocks;
mod fixed;
mod format;
mod halves;
mod superblocks;
mod x86;

#[cfg(test)]
mod tests;

pub(in crate::model) use fixed::Kernel;
pub(crate) use halves::{bf16_rows, f16_rows};

use rayon::prelude::*;

use crate::math::{Rhs, axpy, first_not_below, product, product_columns};
use crate::model::StorageType;
use crate::model::matrix::fixed::{Activations, Packed};
use crate::model::matrix::format::{Format, format_of};
use crate::model::storage::Bytes;

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
/// Rows of gradients of one task of a product.
const BACKWARD_ROWS: usize = 64;

/// A matrix of weights, `[n_out, n_in]`.
#[derive(Debug)]
pub(crate) struct Matrix {
    format: &'static Format,
    storage: Storage,
    n_out: usize,
    n_in: usize,
}

#[derive(Debug)]
enum Storage {
    /// As in the file, multiplied in f32.
    Rows(Bytes),
    /// Multiplied in fixed point.
    Packed(Packed, Kernel),
}

/// The format of so many bytes in that shape; `None` when the type is unknown or the bytes are not those of the shape.
fn fitting(dtype: StorageType, n_bytes: usize, [n_out, n_in]: [usize; 2]) -> Option<&'static Format> {
    let fits = |format: &&Format| n_in.is_multiple_of(format.block_len) && n_bytes == n_out * format.row_bytes(n_in);
    format_of(dtype).filter(fits)
}

impl Matrix {
    /// Takes the bytes of a file; `None` when the type is unknown or the bytes are not those of the shape.
    ///
    /// With a kernel, types that it knows are multiplied in fixed point.
    pub(crate) fn new(
        dtype: StorageType,
        bytes: Vec<u8>,
        [n_out, n_in]: [usize; 2],
        kernel: Option<Kernel>,
    ) -> Option<Self> {
        let format = fitting(dtype, bytes.len(), [n_out, n_in])?;
        let packed = |kernel| Some(Storage::Packed(Packed::new(dtype, &bytes, [n_out, n_in])?, kernel));
        let packed = kernel.and_then(packed);
        Some(Self { format, storage: packed.unwrap_or(Storage::Rows(Bytes::Owned(bytes))), n_out, n_in })
    }

    /// As [`Matrix::new`], from bytes that stay where they are; multiplied in f32.
    pub(crate) fn in_place(dtype: StorageType, bytes: Bytes, [n_out, n_in]: [usize; 2]) -> Option<Self> {
        let format = fitting(dtype, bytes.len(), [n_out, n_in])?;
        Some(Self { format, storage: Storage::Rows(bytes), n_out, n_in })
    }

    /// Bytes in memory, once it was multiplied.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.storage {
            Storage::Rows(bytes) => bytes.len() as u64,
            Storage::Packed(packed, _) => packed.bytes(),
        }
    }

    /// Lets go of the pages of weights that lie in a mapped file.
    pub(crate) fn release(&self) {
        if let Storage::Rows(bytes) = &self.storage {
            bytes.release();
        }
    }

    /// Rows.
    pub(crate) fn n_out(&self) -> usize {
        self.n_out
    }

    /// Unpacks rows `first..` into `out`, `[rows, n_in]`, as many as it holds.
    pub(crate) fn widen_rows(&self, first: usize, out: &mut [f32]) {
        let row_bytes = self.format.row_bytes(self.n_in);
        match &self.storage {
            Storage::Rows(bytes) => {
                (self.format.widen)(&bytes[first * row_bytes..][..out.len() / self.n_in * row_bytes], out);
            }
            Storage::Packed(packed, _) => {
                for (row, out) in out.chunks_exact_mut(self.n_in).enumerate() {
                    (self.format.widen)(&packed.row(first + row), out);
                }
            }
        }
    }

    /// As [`Matrix::widen_rows`], on all threads.
    pub(crate) fn widen_rows_in_parallel(&self, first: usize, out: &mut [f32]) {
        let rows = (TASK_WEIGHTS / self.n_in).max(1);
        let tasks = out.par_chunks_mut(rows * self.n_in).enumerate();
        tasks.for_each(|(task, out)| self.widen_rows(first + task * rows, out));
    }

    /// Place, in row-major order, and value of the first weight that is NaN or infinite.
    pub(crate) fn first_not_finite(&self) -> Option<(usize, f32)> {
        let mut row = vec![0f32; self.n_in];
        (0..self.n_out).find_map(|index| {
            self.widen_rows(index, &mut row);
            let column = first_not_below(&row, f32::INFINITY)?;
            Some((index * self.n_in + column, row[column]))
        })
    }

    /// Columns.
    pub(crate) fn n_in(&self) -> usize {
        self.n_in
    }
}

/// Weights of a file in f32; `None` when the bytes are not whole blocks.
pub(in crate::model) fn unpack(dtype: StorageType, bytes: &[u8]) -> Option<Vec<f32>> {
    let format = format_of(dtype)?;
    let block_bytes = format.row_bytes(format.block_len);
    bytes.len().is_multiple_of(block_bytes).then(|| {
        let mut weights = vec![0f32; bytes.len() / block_bytes * format.block_len];
        (format.widen)(bytes, &mut weights);
        weights
    })
}

/// Unpacked weights and rounded activations; kept from product to product.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    panel: Vec<f32>,
    activations: Activations,
}

/// `out[t] = W x[t]` for each of several matrices.
///
/// - Shape: x `[T, n_in]`, out `[T, n_out]`
/// - Cost: up to [`FEW_ROWS`] rows read every matrix once each, as it is stored; more rows unpack it once
pub(crate) fn multiply<const N: usize>(x: &[f32], products: [(&Matrix, &mut [f32]); N], scratch: &mut Scratch) {
    let n_in = products.first().map_or(1, |(matrix, _)| matrix.n_in);
    let (mut in_fixed_point, mut in_f32, mut kernel) = (Vec::new(), Vec::new(), None);
    for (matrix, out) in products {
        match &matrix.storage {
            Storage::Packed(packed, of_matrix) => {
                kernel = Some(*of_matrix);
                in_fixed_point.push((packed, out));
            }
            Storage::Rows(bytes) => in_f32.push((matrix, &**bytes, out)),
        }
    }
    if let Some(kernel) = kernel {
        scratch.activations.round(x, n_in, kernel.panel_rows(x.len() / n_in));
        fixed::multiply(kernel, &scratch.activations, in_fixed_point);
    }
    if x.len() / n_in > FEW_ROWS {
        in_f32.iter_mut().for_each(|(matrix, _, out)| multiply_many(matrix, x, out, &mut scratch.panel));
        return;
    }
    for (row, x) in x.chunks_exact(n_in).enumerate() {
        multiply_vector(x, row, &mut in_f32);
    }
}

/// Row `row` of each output: matrices times a vector, in one parallel region.
fn multiply_vector(x: &[f32], row: usize, products: &mut [(&Matrix, &[u8], &mut [f32])]) {
    let tasks: Vec<_> = products
        .iter_mut()
        .flat_map(|(matrix, bytes, out)| {
            let (matrix, bytes, out) = (*matrix, *bytes, &mut out[row * matrix.n_out..][..matrix.n_out]);
            let row_bytes = matrix.format.row_bytes(matrix.n_in).max(1);
            let rows = (TASK_BYTES / row_bytes).max(1);
            let parts = bytes.chunks(rows * row_bytes).zip(out.chunks_mut(rows));
            parts.map(move |(bytes, out)| (matrix, bytes, out))
        })
        .collect();
    tasks.into_par_iter().for_each(|(matrix, bytes, out)| (matrix.format.dot_rows)(bytes, x, out));
}

/// A matrix times many rows: unpacked panel by panel, each multiplied with all rows.
fn multiply_many(matrix: &Matrix, x: &[f32], out: &mut [f32], scratch: &mut Vec<f32>) {
    let Matrix { n_in, n_out, .. } = *matrix;
    let panel_rows = (PANEL_WEIGHTS / n_in).clamp(1, n_out);
    if scratch.len() < panel_rows * n_in {
        scratch.resize(panel_rows * n_in, 0.0);
    }
    let task_rows = TASK_ROWS.min((x.len() / n_in).div_ceil(rayon::current_num_threads()));
    for first in (0..n_out).step_by(panel_rows) {
        let n_columns = panel_rows.min(n_out - first);
        let panel = &mut scratch[..n_columns * n_in];
        matrix.widen_rows_in_parallel(first, panel);
        let panel = &*panel;
        x.par_chunks(task_rows * n_in).zip(out.par_chunks_mut(task_rows * n_out)).for_each(|(x, out)| {
            let shape = [x.len() / n_in, n_columns, n_in];
            product_columns(x, panel, &mut out[first..], shape, Rhs::Transposed, n_out);
        });
    }
}

/// `x[t] += y[t] W`: unpacked panel by panel, each multiplied with all rows.
///
/// - Shape: y `[T, n_out]`, x `[T, n_in]`
pub(crate) fn add_transposed(matrix: &Matrix, y: &[f32], x: &mut [f32], scratch: &mut Scratch) {
    let Matrix { n_in, n_out, .. } = *matrix;
    let panel_rows = (PANEL_WEIGHTS / n_in).clamp(1, n_out);
    let mut panel = std::mem::take(&mut scratch.panel);
    panel.resize(panel.len().max(panel_rows * n_in), 0.0);
    for first in (0..n_out).step_by(panel_rows) {
        let n_columns = panel_rows.min(n_out - first);
        let panel = &mut panel[..n_columns * n_in];
        matrix.widen_rows_in_parallel(first, panel);
        let panel = &*panel;
        let tasks = y.par_chunks(BACKWARD_ROWS * n_out).zip(x.par_chunks_mut(BACKWARD_ROWS * n_in));
        tasks.for_each(|(y, x)| {
            let columns: Vec<f32> = y.chunks_exact(n_out).flat_map(|row| &row[first..][..n_columns]).copied().collect();
            let mut sums = vec![0f32; x.len()];
            product(&columns, panel, &mut sums, [x.len() / n_in, n_in, n_columns], Rhs::Plain);
            axpy(1.0, &sums, x);
        });
    }
    scratch.panel = panel;
}
