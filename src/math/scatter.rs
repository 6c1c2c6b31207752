//! Squares and products of rows about their mean, summed over any number of them, and the ridge regression that they give.

use nalgebra::{Cholesky, DMatrix};
use rayon::prelude::*;

use crate::math::{Rhs, Rows, product};

/// Rows whose products are summed in f32.
const ROWS_AT_ONCE: usize = 512;
/// Rows of the sums that are computed at a time, on one thread.
const STRIP: usize = 64;

/// y = W x + b.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearMap {
    /// `[out, in]`.
    pub weights: Vec<f32>,
    /// `[out]`.
    pub bias: Vec<f32>,
}

impl LinearMap {
    /// Whether all its numbers are finite.
    pub fn is_finite(&self) -> bool {
        self.weights.iter().chain(&self.bias).all(|x| x.is_finite())
    }

    /// Of every row, the outputs.
    ///
    /// - Shape: rows `[n, in]` → `[n, out]`
    pub fn apply(&self, rows: Rows<'_>) -> Vec<f32> {
        let n_out = self.bias.len();
        let mut y = vec![0f32; rows.len() * n_out];
        product(rows.flat(), &self.weights, &mut y, [rows.len(), n_out, rows.width()], Rhs::Transposed);
        y.chunks_exact_mut(n_out).for_each(|y| y.iter_mut().zip(&self.bias).for_each(|(y, bias)| *y += bias));
        y
    }
}

/// Σ (z - z̄)(z - z̄)ᵀ of rows z, of which none is kept.
///
/// - Memory: 8 W² bytes for rows of W numbers
#[derive(Clone, Debug)]
pub struct Scatter {
    n: usize,
    /// `[W]`.
    mean: Vec<f64>,
    /// `[W, W]`, of which the lower triangle counts.
    sums: Vec<f64>,
}

impl Scatter {
    /// Of no row yet, of `width` numbers.
    pub fn new(width: usize) -> Self {
        Self { n: 0, mean: vec![0.0; width], sums: vec![0.0; width * width] }
    }

    /// Takes rows in. Each block of them is summed in f32 about its own mean, and blocks in f64, so that a mean far from zero
    /// costs no digits; the order of sums does not depend on the number of threads.
    ///
    /// - Shape: rows `[n, W]`
    /// - Cost:  O(n · W²)
    pub fn add(&mut self, rows: Rows<'_>) {
        for start in (0..rows.len()).step_by(ROWS_AT_ONCE) {
            self.add_block(rows.part(start..rows.len().min(start + ROWS_AT_ONCE)));
        }
    }

    fn add_block(&mut self, rows: Rows<'_>) {
        let (n, width) = (rows.len(), self.mean.len());
        let mut mean = vec![0f64; width];
        for row in rows.iter() {
            mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x) / n as f64);
        }
        let column = |c: usize| rows.iter().map(move |row| row[c]);
        let centred: Vec<f32> =
            (0..width).flat_map(|c| column(c).map(|x| (f64::from(x) - mean[c]) as f32).collect::<Vec<_>>()).collect();
        let all = self.n + n;
        let apart: Vec<f64> = mean.iter().zip(&self.mean).map(|(new, old)| new - old).collect();
        let weight = self.n as f64 * n as f64 / all as f64;
        self.sums.par_chunks_mut(STRIP * width).enumerate().for_each(|(strip, sums)| {
            let first = strip * STRIP;
            let n_rows = sums.len() / width;
            let reach = first + n_rows;
            let mut products = vec![0f32; n_rows * reach];
            product(&centred[first * n..], &centred, &mut products, [n_rows, reach, n], Rhs::Transposed);
            for (i, (sums, products)) in sums.chunks_exact_mut(width).zip(products.chunks_exact(reach)).enumerate() {
                for (j, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
                    *sum += f64::from(*product) + weight * apart[first + i] * apart[j];
                }
            }
        });
        self.mean.iter_mut().zip(apart).for_each(|(mean, apart)| *mean += apart * n as f64 / all as f64);
        self.n = all;
    }

    /// The map from the first `n_in` numbers of a row to the others that errs least, the sum of its squared weights times
    /// `lambda` added, each weight in units of its input's spread. The bias counts nothing.
    ///
    /// - Cost:    O(n_in³)
    /// - Returns: `None` where the inputs depend on one another and `lambda` is too small to choose among maps
    pub fn ridge(&self, n_in: usize, lambda: f64) -> Option<LinearMap> {
        let width = self.mean.len();
        let at = |row: usize, column: usize| self.sums[row * width + column];
        // An input that never changes has no say.
        let scales: Vec<f64> = (0..n_in).map(|i| if at(i, i) > 0.0 { 1.0 / at(i, i).sqrt() } else { 0.0 }).collect();
        let system = DMatrix::from_fn(n_in, n_in, |i, j| match (i > j, i == j) {
            (_, true) => 1.0 + lambda,
            (true, _) => at(i, j) * scales[i] * scales[j],
            // Only the lower triangle is read.
            _ => 0.0,
        });
        let outputs = DMatrix::from_fn(n_in, width - n_in, |i, out| at(n_in + out, i) * scales[i]);
        let solution = Cholesky::new(system)?.solve(&outputs);
        let (mut weights, mut bias) = (Vec::with_capacity(outputs.len()), Vec::new());
        for (out, column) in solution.column_iter().enumerate() {
            let of_out: Vec<f64> = column.iter().zip(&scales).map(|(x, scale)| x * scale).collect();
            let of_mean: f64 = of_out.iter().zip(&self.mean).map(|(weight, mean)| weight * mean).sum();
            bias.push((self.mean[n_in + out] - of_mean) as f32);
            weights.extend(of_out.iter().map(|weight| *weight as f32));
        }
        Some(LinearMap { weights, bias })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ridge_by_hand() {
        // Columns 0 1 5, 1 -1 0, a constant 7, and the output 1 3 8. About their means (2, 0, 7, 4): squares 14 and 2, products
        // -1 among inputs, 19 and -2 with the output. With lambda = 1: 28 a - b = 19, 4 b - a = -2: a = 2/3, b = -1/3, and the bias
        // is 4 - 2 · 2/3.
        let rows = [0.0, 1.0, 7.0, 1.0, 1.0, -1.0, 7.0, 3.0, 5.0, 0.0, 7.0, 8.0];
        let mut scatter = Scatter::new(4);
        scatter.add(Rows::new(&rows, 4));
        let map = scatter.ridge(3, 1.0).unwrap();
        let found = [map.weights.clone(), map.bias.clone()].concat();
        let wanted = [2.0 / 3.0, -1.0 / 3.0, 0.0, 8.0 / 3.0];
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        let y = map.apply(Rows::new(&[3.0, -3.0, 5.0], 3));
        assert!((y[0] - (2.0 + 1.0 + 8.0 / 3.0)).abs() < 1e-6, "{y:?}");
        // Of two equal inputs each counts half.
        let mut equal = Scatter::new(3);
        equal.add(Rows::new(&[0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 4.0, 4.0, 0.0], 3));
        let weights = equal.ridge(2, 0.1).unwrap().weights;
        assert!((weights[0] - weights[1]).abs() < 1e-6 && weights[0] < 0.0, "{weights:?}");
    }

    #[test]
    fn rows_may_come_in_any_parts_and_far_from_zero() {
        let width = 70;
        let x: Vec<f32> = (0..1300 * width).map(|i| 1e3 + ((i * 7919 + i / 37) % 1009) as f32 / 500.0).collect();
        let rows = Rows::new(&x, width);
        let (mut whole, mut parts) = (Scatter::new(width), Scatter::new(width));
        whole.add(rows);
        [0..1, 1..600, 600..1300].into_iter().for_each(|part| parts.add(rows.part(part)));
        let column = |c: usize| rows.iter().map(move |row| f64::from(row[c]));
        for (i, j) in [(0, 0), (63, 2), (64, 64), (69, 63)] {
            let [a, b] = [i, j].map(|c| column(c).sum::<f64>() / 1300.0);
            let exact: f64 = column(i).zip(column(j)).map(|(x, y)| (x - a) * (y - b)).sum();
            for scatter in [&whole, &parts] {
                let found = scatter.sums[i * width + j];
                assert!((found - exact).abs() < 1e-3, "{i}, {j}: {found} and {exact}");
            }
        }
    }
}
