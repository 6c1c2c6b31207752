//! Attention of queries that see every slot of a head.

use std::borrow::Cow;
use std::sync::OnceLock;

use rayon::prelude::*;

use crate::math::{Rhs, Rows, axpy, exp_shifted_sum, max, product, scale};

/// Queries whose weights are held at a time, on each thread.
const BLOCK: usize = 256;

/// What a head gives queries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// Logarithms of the masses, the sums of exponentials, `[n]`.
    pub log_masses: Vec<f32>,
    /// Outputs, `[n, D]`.
    pub outputs: Vec<f32>,
}

/// Queries that see every slot of a head.
#[derive(Clone, Copy, Debug)]
pub struct Attending<'a> {
    /// Rotated, `[n, D]`.
    pub queries: Rows<'a>,
    /// Keys after RoPE, `[T, D]`.
    pub keys: Rows<'a>,
    /// Values, `[T, D]`.
    pub values: Rows<'a>,
    /// Of each slot in nats, `[T]`; `None` when all are zero.
    pub logit_bias: Option<&'a [f32]>,
    /// Where what the head gives is left for whoever asks next.
    pub given: Option<&'a OnceLock<Given>>,
}

impl<'a> Attending<'a> {
    /// Calls `f` with the weights of some queries at a time, `[block, T]`.
    ///
    /// - Cost: O(n · T · D)
    pub fn weights<R: Send>(&self, f: impl Fn(&Attention) -> R + Sync) -> Vec<R> {
        let d = self.keys.width();
        let of_block = |(block, queries): (usize, &[f32])| {
            let attention = attention(Rows::new(queries, d), self.keys, self.logit_bias);
            f(&Attention { first: block * BLOCK, ..attention })
        };
        self.queries.flat().par_chunks(BLOCK * d).enumerate().map(of_block).collect()
    }

    /// As [`Attending::weights`], with the outputs of the block, `[block, D]`.
    pub fn weights_and_outputs<R: Send>(&self, f: impl Fn(&Attention, &[f32]) -> R + Sync) -> Vec<R> {
        let (found, blocks): (Vec<R>, Vec<Given>) = self
            .weights(|weights| {
                let outputs = weights.outputs(self.values);
                (f(weights, &outputs), Given { log_masses: weights.log_masses.clone(), outputs })
            })
            .into_iter()
            .unzip();
        if let Some(given) = self.given {
            given.get_or_init(|| Given {
                log_masses: blocks.iter().flat_map(|block| &block.log_masses).copied().collect(),
                outputs: blocks.iter().flat_map(|block| &block.outputs).copied().collect(),
            });
        }
        found
    }

    /// What the head gives, computed unless somebody has.
    pub fn given(&self) -> Cow<'a, Given> {
        match self.given {
            Some(given) => {
                if given.get().is_none() {
                    self.weights_and_outputs(|_, _| ());
                }
                Cow::Borrowed(given.get_or_init(Given::default))
            }
            None => {
                let given = OnceLock::new();
                Attending { given: Some(&given), ..*self }.given();
                Cow::Owned(given.into_inner().unwrap_or_default())
            }
        }
    }
}

/// How queries attend.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Weights, `[n, T]`.
    weights: Vec<f32>,
    n_slots: usize,
    /// Place of the first query among all that were asked.
    pub first: usize,
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
    Attention { weights, n_slots, first: 0, log_masses }
}
