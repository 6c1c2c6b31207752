//! The decoder's building blocks on the CPU: linear maps, RMS norm, gated activation.

use std::sync::Arc;

use rayon::prelude::*;

use crate::math::{axpy, dot, scale_each, silu_product};
use crate::model::matrix::{Matrix, Scratch, multiply};

/// y = W x + b.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    weight: Arc<Matrix>,
    /// `[out]`.
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub(crate) fn new(weight: Arc<Matrix>, bias: Option<Vec<f32>>) -> Self {
        Self { weight, bias }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.weight.bytes() + 4 * self.bias.as_ref().map_or(0, Vec::len) as u64
    }

    /// The weight `[out, in]`.
    pub(crate) fn weight(&self) -> &Matrix {
        &self.weight
    }

    /// What is added to the product.
    pub(crate) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// `x` `[T, in]` → `[T, out]`.
    pub(crate) fn forward(&self, x: &[f32], scratch: &mut Scratch) -> Vec<f32> {
        let [y] = Self::forward_all([self], x, scratch);
        y
    }

    /// Several maps of the same `x`; with one row in one parallel region.
    pub(crate) fn forward_all<const N: usize>(maps: [&Self; N], x: &[f32], scratch: &mut Scratch) -> [Vec<f32>; N] {
        let n_rows = x.len() / maps[0].weight.n_in();
        let mut y = maps.map(|map| vec![0f32; n_rows * map.weight.n_out()]);
        let mut out = y.iter_mut();
        let products = maps.map(|map| (&*map.weight, out.next().map_or(&mut [][..], |y| y)));
        multiply(x, products, scratch);
        for (map, y) in maps.iter().zip(&mut y) {
            if let Some(bias) = &map.bias {
                y.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
            }
        }
        y
    }
}

/// x / √(mean(x²) + eps) · weight, over the last dimension of `weight.len()`.
///
/// Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
pub(crate) fn rms_norm(x: &mut [f32], weight: &[f32], eps: f64) {
    x.par_chunks_mut(weight.len()).with_min_len(16).for_each(|row| {
        let mean_square = f64::from(dot(row, row)) / weight.len() as f64;
        // Squares beyond f32 would give a row of zeros, which nothing could tell from a result.
        let factor = if mean_square.is_finite() { (1.0 / (mean_square + eps).sqrt()) as f32 } else { f32::NAN };
        scale_each(row, weight, factor);
    });
}

/// `gate = silu(gate) · up`, elementwise.
pub(crate) fn gate_with(gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(4096).zip(up.par_chunks(4096)).for_each(|(gate, up)| silu_product(gate, up));
}

/// `x += y`.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    x.par_chunks_mut(4096).zip(y.par_chunks(4096)).for_each(|(x, y)| axpy(1.0, y, x));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norm_and_gate_by_hand() {
        // Mean square of (3, 4) is 12.5; with eps 3.5 the root is 4.
        let mut x = [3.0, 4.0];
        rms_norm(&mut x, &[2.0, 0.5], 3.5);
        assert_eq!(x, [1.5, 0.5]);
        let mut gate = [0.0f32, 2.0];
        gate_with(&mut gate, &[5.0, 3.0]);
        assert_eq!(gate[0], 0.0);
        assert!((gate[1] - 6.0 / (1.0 + (-2f32).exp())).abs() < 1e-6);
    }
}
