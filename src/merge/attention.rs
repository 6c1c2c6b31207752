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

/// The largest weight that each slot of a chunk gets from queries that repeat it. They see some first slots, the chunk, and of
/// their own keys those up to their own.
///
/// - Shape: queries `[n · group, D]`, of each token those of the group; sinks `[s, D]`, chunk `[T, D]`, own `[n, D]` → `[T]`
/// - Cost:  O(n · group · (T + n) · D)
pub(crate) fn largest_weights(queries: Rows<'_>, group: usize, [sinks, chunk, own]: [Rows<'_>; 3]) -> Vec<f32> {
    let (n_before, d) = (sinks.len() + chunk.len(), chunk.width());
    let keys = [sinks.flat(), chunk.flat(), own.flat()].concat();
    let of_block = |(block, queries): (usize, &[f32])| {
        let mut largest = vec![0f32; chunk.len()];
        let n_rows = queries.len() / d;
        let n_seen = n_before + (block * BLOCK + n_rows).div_ceil(group);
        let mut scaled = queries.to_vec();
        scale(&mut scaled, 1.0 / (d as f32).sqrt());
        let mut weights = vec![0f32; n_rows * n_seen];
        product(&scaled, &keys[..n_seen * d], &mut weights, [n_rows, n_seen, d], Rhs::Transposed);
        for (i, row) in weights.chunks_exact_mut(n_seen).enumerate() {
            let row = &mut row[..n_before + (block * BLOCK + i) / group + 1];
            let most = max(row);
            let sum = exp_shifted_sum(row, most);
            for (largest, weight) in largest.iter_mut().zip(&row[sinks.len()..]) {
                *largest = largest.max(weight / sum);
            }
        }
        largest
    };
    let blocks: Vec<Vec<f32>> = queries.flat().par_chunks(BLOCK * d).enumerate().map(of_block).collect();
    let mut largest = vec![0f32; chunk.len()];
    for block in blocks {
        largest.iter_mut().zip(block).for_each(|(most, other)| *most = most.max(other));
    }
    largest
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_sees_sinks_its_chunk_and_itself_by_hand() {
        // D = 1, two query heads, two tokens. Keys: a sink 0; the chunk ln 2, ln 3; own ln 4, ln 5.
        let own = [4f32.ln(), 5f32.ln()];
        let (sinks, chunk) = ([0.0], [2f32.ln(), 3f32.ln()]);
        // The first token's queries 1 and 0 see 1 + 2 + 3 + 4 = 10 and 4; the second's 0 and -1 see 5 and
        // 1 + 1/2 + 1/3 + 1/4 + 1/5 = 137/60.
        let queries = [1.0, 0.0, 0.0, -1.0];
        let keys = [&sinks[..], &chunk, &own].map(|x| Rows::new(x, 1));
        let found = largest_weights(Rows::new(&queries, 1), 2, keys);
        let wanted = [0.25, 0.3];
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {wanted:?}");
    }
}
