//! Attention of queries that see every slot of a head.

use crate::math::{Rhs, Rows, axpy, exp_shifted_sum, max, product, scale};

/// How queries attend.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Weights, `[n, T]`.
    weights: Vec<f32>,
    n_slots: usize,
    /// Logarithms of the masses that each query's weights were divided by, `[n]`.
    pub log_masses: Vec<f32>,
}

impl Attention {
    /// The weights of every query, `[T]` each.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.weights.chunks_exact(self.n_slots.max(1))
    }

    /// Multiplies the weights of the first slots by a factor each.
    pub(super) fn scale_slots(&mut self, factors: &[f32]) {
        for row in self.weights.chunks_exact_mut(self.n_slots.max(1)) {
            row.iter_mut().zip(factors).for_each(|(weight, factor)| *weight *= factor);
        }
    }

    /// Makes every query's weights sum to 1; those of a query that sees nothing stay 0.
    pub(super) fn normalise(&mut self) {
        normalise(&mut self.weights, self.n_slots);
    }

    /// Weighted sums of values.
    ///
    /// - Shape: values `[T, D]` → `[n, D]`
    pub fn outputs(&self, values: Rows<'_>) -> Vec<f32> {
        weighted_sums(&self.weights, values, self.log_masses.len())
    }
}

/// Makes rows of weights `[n, n_slots]` sum to 1; a row of zeros stays.
pub(super) fn normalise(weights: &mut [f32], n_slots: usize) {
    for row in weights.chunks_exact_mut(n_slots.max(1)) {
        let sum: f32 = row.iter().sum();
        if sum != 0.0 {
            scale(row, 1.0 / sum);
        }
    }
}

/// Sums of values by rows of weights.
///
/// - Shape: weights `[n, slots]`, values `[slots, D]` → `[n, D]`
pub(super) fn weighted_sums(weights: &[f32], values: Rows<'_>, n: usize) -> Vec<f32> {
    let d = values.width();
    let mut sums = vec![0f32; n * d];
    product(weights, values.flat(), &mut sums, [n, d, values.len()], Rhs::Plain);
    sums
}

/// Softmax weights of queries over slots with keys and logit biases.
///
/// - Shape: queries `[n, D]`, keys `[T, D]`, logit_bias `[T]` → `[n, T]`
/// - Cost:  O(n · T · D)
pub fn attention(queries: Rows<'_>, keys: Rows<'_>, logit_bias: Option<&[f32]>) -> Attention {
    attention_over(queries, keys, logit_bias, None)
}

/// As [`attention`], with weights divided by given masses instead of their own sums.
pub(super) fn attention_over(
    queries: Rows<'_>,
    keys: Rows<'_>,
    logit_bias: Option<&[f32]>,
    log_masses: Option<&[f32]>,
) -> Attention {
    let (n, n_slots, d) = (queries.len(), keys.len(), keys.width());
    let mut scaled = queries.flat().to_vec();
    scale(&mut scaled, 1.0 / (d as f32).sqrt());
    let mut weights = vec![0f32; n * n_slots];
    product(&scaled, keys.flat(), &mut weights, [n, n_slots, d], Rhs::Transposed);
    let weigh = |(i, row): (usize, &mut [f32])| {
        if let Some(bias) = logit_bias {
            axpy(1.0, bias, row);
        }
        let shift = log_masses.map_or_else(|| max(row), |given| given[i]);
        let sum = exp_shifted_sum(row, shift);
        if log_masses.is_some() {
            return shift;
        }
        scale(row, 1.0 / sum);
        shift + sum.ln()
    };
    let log_masses = weights.chunks_exact_mut(n_slots.max(1)).enumerate().map(weigh).collect();
    Attention { weights, n_slots, log_masses }
}
