//! Block-quantised weights times activations in 16-bit fixed point.
//!
//! A block of 32 weights is a grid of small integers: `weight = scale · code + minimum`. Activations are rounded to 16-bit
//! integers with one scale for the same 32 values, so that a block's product is an exact integer, at twice the speed of
//! f32: `Σ x·w = s_x · scale · Σ X·code + minimum · s_x · ΣX`. The only error beyond f32's own is the rounding of
//! activations, at most 2⁻¹⁶ of the largest of their block.
//!
//! Weights of 16 rows stand side by side, so that one register holds the same place of 16 outputs. Blocks are summed one
//! after the other for every output: the result does not depend on how many rows are multiplied, on threads, or on which
//! of the instruction sets computes it.

mod activations;
mod kernels;
mod packed;

#[cfg(test)]
mod tests;

pub(super) use activations::Activations;
pub(in crate::model) use kernels::Kernel;
pub(super) use packed::Packed;

use rayon::prelude::*;

/// Values of one block.
const LEN: usize = 32;
/// Rows of weights that stand side by side.
const GROUP: usize = 16;
/// Rows of activations up to which tasks are columns of the output, and beyond which they are rows of it.
const FEW_ROWS: usize = 32;
/// Bytes of weights of one task of columns.
const TASK_BYTES: usize = 64 << 10;
/// What rows of activations of one task are a multiple of: whole panels of both kernels.
const PANEL_ROWS: usize = 12;
/// Rows of activations of one task of rows at most.
const TASK_ROWS: usize = 4 * PANEL_ROWS;
/// Tasks of rows that each thread has at least, where there are enough rows.
const TASKS_OF_THREAD: usize = 8;

/// `out[t] = W x[t]` for each of several matrices.
///
/// - Shape: x `[T, n_in]`, out `[T, n_out]`
/// - Cost: one pass over each matrix for every 48 rows
pub(super) fn multiply(kernel: Kernel, x: &Activations, products: Vec<(&Packed, &mut [f32])>) {
    if x.n_rows() > FEW_ROWS {
        let fair = x.n_rows() / (TASKS_OF_THREAD * rayon::current_num_threads());
        let task_rows = fair.next_multiple_of(PANEL_ROWS).clamp(PANEL_ROWS, TASK_ROWS);
        for (packed, out) in products {
            let n_out = packed.n_out();
            // Single tasks, so that a thread that falls behind hands over all that it has not begun.
            let tasks = out.par_chunks_mut(task_rows * n_out).enumerate().with_max_len(1);
            tasks.for_each(|(i, out)| {
                let rows = i * task_rows..i * task_rows + out.len() / n_out;
                kernel.multiply(packed, 0..packed.n_groups(), x, rows, out, n_out);
            });
        }
        return;
    }
    // Each task writes columns of all rows, which do not lie together: into a place of its own first.
    let mut tasks = Vec::new();
    for (packed, out) in products {
        let step = (TASK_BYTES / packed.group_bytes()).max(1);
        let firsts = (0..packed.n_groups()).step_by(step);
        tasks.push((packed, out, step, firsts.map(|first| (first, Vec::new())).collect::<Vec<_>>()));
    }
    let parts = tasks.iter_mut().flat_map(|(packed, _, step, parts)| {
        let (packed, step) = (*packed, *step);
        parts.iter_mut().map(move |(first, part)| (packed, *first..(*first + step).min(packed.n_groups()), part))
    });
    parts.collect::<Vec<_>>().into_par_iter().for_each(|(packed, groups, part)| {
        let n_columns = packed.columns(&groups).len();
        part.resize(x.n_rows() * n_columns, 0.0);
        kernel.multiply(packed, groups, x, 0..x.n_rows(), part, n_columns);
    });
    for (packed, out, step, parts) in tasks {
        for (first, part) in parts {
            let columns = packed.columns(&(first..(first + step).min(packed.n_groups())));
            for (from, into) in part.chunks_exact(columns.len()).zip(out.chunks_exact_mut(packed.n_out())) {
                into[columns.clone()].copy_from_slice(from);
            }
        }
    }
}
