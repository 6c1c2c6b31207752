//! Products with rows in half precision as they are stored: keys and values of a cache.

use half::{bf16, f16};
use multiversion::multiversion;

use crate::math::{bf16_to_f32, f16_to_f32};
use crate::model::matrix::format::{BF16, F16};
use crate::model::matrix::x86;

macro_rules! half_rows {
    ($module:ident, $element:ident, $format:expr, $fast:path, $widen:path) => {
        pub(crate) mod $module {
            use super::*;

            /// `out[j] = ⟨rows[j], x⟩`; rows `[n, D]`, x `[D]`, out `[n]`.
            pub(crate) fn dot(rows: &[$element], x: &[f32], out: &mut [f32]) {
                ($format.dot_rows)(bytemuck::cast_slice(rows), x, out);
            }

            /// `out += Σ_j weights[j] · rows[j]`; rows `[n, D]`, weights `[n]`, out `[D]`.
            pub(crate) fn add_weighted(rows: &[$element], weights: &[f32], out: &mut [f32]) {
                if !$fast(bytemuck::cast_slice(rows), weights, out) {
                    add_weighted_portable(rows, weights, out);
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
            fn add_weighted_portable(rows: &[$element], weights: &[f32], out: &mut [f32]) {
                for (row, weight) in rows.chunks_exact(out.len().max(1)).zip(weights) {
                    for (out, x) in out.iter_mut().zip(row) {
                        *out += weight * $widen(x.to_bits());
                    }
                }
            }
        }
    };
}

half_rows!(f16_rows, f16, F16, x86::add_weighted_f16, f16_to_f32);
half_rows!(bf16_rows, bf16, BF16, x86::add_weighted_bf16, bf16_to_f32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weighted_sums_agree_with_f64_loops_at_every_remainder() {
        for width in [1, 6, 32, 64, 80, 96, 128] {
            for n in [0, 1, 2, 3, 64, 65] {
                let number = |i: usize| (i as f32 * 0.37).sin();
                let rows: Vec<f16> = (0..n * width).map(|i| f16::from_f32(number(i))).collect();
                let weights: Vec<f32> = (0..n).map(|j| number(7 * j + 3)).collect();
                let mut out: Vec<f32> = (0..width).map(number).collect();
                let mut exact: Vec<f64> = out.iter().map(|x| f64::from(*x)).collect();
                for (row, weight) in rows.chunks_exact(width).zip(&weights) {
                    exact.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*weight) * x.to_f64());
                }
                f16_rows::add_weighted(&rows, &weights, &mut out);
                for (x, y) in out.iter().zip(&exact) {
                    assert!((f64::from(*x) - y).abs() < 1e-5, "{width}, {n}: {x} is not {y}");
                }
                let wide: Vec<bf16> = rows.iter().map(|x| bf16::from_f32(x.to_f32())).collect();
                let (mut found, mut exact) = (vec![0f32; width], vec![0f64; width]);
                for (row, weight) in wide.chunks_exact(width).zip(&weights) {
                    exact.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*weight) * x.to_f64());
                }
                bf16_rows::add_weighted(&wide, &weights, &mut found);
                for (x, y) in found.iter().zip(&exact) {
                    assert!((f64::from(*x) - y).abs() < 1e-5, "{width}, {n}: {x} is not {y}");
                }
            }
        }
    }
}
