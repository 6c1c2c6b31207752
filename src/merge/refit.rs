//! Refit: the values of stored slots solved for, so that attention over them gives what the full cache gave.

use rayon::prelude::*;
use serde::Deserialize;
use serde::Serialize;

use crate::math::Rhs;
use crate::math::axpy;
use crate::math::exp_shifted_sum;
use crate::math::max;
use crate::math::product;
use crate::math::product_columns;
use crate::math::scale;
use crate::math::solve_positive_definite;

/// Query rows whose attention over a full head is held at a time.
const BLOCK_ROWS: usize = 64;
/// Rows of a strip of the system.
const TILE: usize = 64;

/// How values are refitted after slots were chosen.
///
/// The prompt's own queries, turned to positions behind it, stand for the queries to come. On SmolLM2 (six texts of 1,536
/// tokens, half of the slots kept by `evict`) a lambda of 0.03 or less made the next-token distributions worse than no
/// refit did; 0.1 was the best of those tried. On four texts twice the queries
/// gained 0.001 nats at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Refit {
    /// Query rows per KV head, all query heads of the group together.
    pub queries: usize,
    /// Positions behind the prompt that they are spread over.
    pub span: usize,
    /// Weight of the ridge.
    pub lambda: f32,
    /// Most recent slots of each head whose values stay as they are.
    pub recent: usize,
    /// Seed of the sample.
    pub seed: u64,
}

impl Default for Refit {
    fn default() -> Self {
        Self { queries: 384, span: 512, lambda: 0.1, recent: 32, seed: 0 }
    }
}

/// Keys, values and biases of a head: `[n, D]` twice and `[n]`.
#[derive(Clone, Copy, Debug)]
pub struct RefitHead<'a> {
    /// Numbers in a key.
    pub head_dim: usize,
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
    /// Logit biases; `None` when all are zero.
    pub logit_bias: Option<&'a [f32]>,
}

/// New values for the stored slots, all but the last `n_fixed`.
///
/// With O the full head's outputs for the queries and A the weights over the stored slots (columns a of those that may
/// change), V_a becomes V_a + (AᵀA + Λ)⁻¹ Aᵀ (O - A V), Λ = lambda (diag(AᵀA) + mean diag(AᵀA)). It is computed in its
/// dual form, Λ⁻¹ Aᵀ (A Λ⁻¹ Aᵀ + 1)⁻¹ (O - A V), whose system is as large as the queries are many and no worse
/// conditioned than 1 + n / lambda; what it solves for is the residual that remains, so that never grows.
///
/// - Shape: queries `[rows, D]`, rotated → values `[n, D]`
/// - Cost:  O(rows · (T + n) · D + rows² · n + rows³ / 3)
/// - Returns: `None` when the system cannot be solved, as with states that are not finite
/// - Source: ours; related: Attention Matching (arXiv 2602.16284), GRKV (arXiv 2605.31105)
pub fn refit_values(
    queries: &[f32],
    full: RefitHead<'_>,
    stored: RefitHead<'_>,
    n_fixed: usize,
    lambda: f32,
) -> Option<Vec<f32>> {
    let d = stored.head_dim;
    let (n_rows, n) = (queries.len() / d, stored.keys.len() / d);
    let n_free = n.saturating_sub(n_fixed);
    if n_free == 0 || n_rows == 0 {
        return Some(stored.values.to_vec());
    }
    // Blocks of queries and strips of the system are computed side by side, so that few heads keep all cores busy; each
    // is what one thread would make of it.
    let blocks: Vec<(Vec<f32>, Vec<f32>)> = queries
        .par_chunks(BLOCK_ROWS * d)
        .map(|queries| {
            let (_, mut outputs) = attention(queries, full);
            let (weights, found) = attention(queries, stored);
            axpy(-1.0, &found, &mut outputs);
            (weights, outputs)
        })
        .collect();
    let mut residual = Vec::with_capacity(n_rows * d);
    let mut root_weighted = Vec::with_capacity(n_rows * n_free);
    let mut squares = vec![0f32; n_free];
    for (weights, off) in blocks {
        residual.extend(off);
        for row in weights.chunks_exact(n) {
            root_weighted.extend_from_slice(&row[..n_free]);
            squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
        }
    }
    let mean = squares.iter().sum::<f32>() / n_free as f32;
    if mean == 0.0 {
        // No query sees these slots: nothing speaks for another value.
        return Some(stored.values.to_vec());
    }
    let inverse_root: Vec<f32> = squares.iter().map(|square| 1.0 / (lambda * (square + mean)).sqrt()).collect();
    for row in root_weighted.chunks_exact_mut(n_free) {
        row.iter_mut().zip(&inverse_root).for_each(|(x, root)| *x *= root);
    }
    let mut system = lower_gram(&root_weighted, n_rows, n_free);
    (0..n_rows).for_each(|i| system[i * n_rows + i] += 1.0);
    if !solve_positive_definite(&mut system, &mut residual, n_rows) {
        return None;
    }
    // Transposed, as [D, rows] · [rows, free], so that the product reads its large side as it lies.
    let transposed: Vec<f32> = (0..d).flat_map(|c| residual[c..].iter().step_by(d)).copied().collect();
    let mut change = vec![0f32; d * n_free];
    product(&transposed, &root_weighted, &mut change, [d, n_free, n_rows], Rhs::Plain);
    let mut values = stored.values.to_vec();
    for (slot, value) in values.chunks_exact_mut(d).take(n_free).enumerate() {
        value.iter_mut().enumerate().for_each(|(c, x)| *x += inverse_root[slot] * change[c * n_free + slot]);
    }
    Some(values)
}

/// Weights `[rows, n]` and outputs `[rows, D]` of queries that see every slot.
fn attention(queries: &[f32], head: RefitHead<'_>) -> (Vec<f32>, Vec<f32>) {
    let d = head.head_dim;
    let (n_rows, n) = (queries.len() / d, head.keys.len() / d);
    let mut scaled = queries.to_vec();
    scale(&mut scaled, 1.0 / (d as f32).sqrt());
    let mut weights = vec![0f32; n_rows * n];
    product(&scaled, head.keys, &mut weights, [n_rows, n, d], Rhs::Transposed);
    for row in weights.chunks_exact_mut(n) {
        if let Some(bias) = head.logit_bias {
            axpy(1.0, bias, row);
        }
        let shift = max(row);
        let sum = exp_shifted_sum(row, shift);
        scale(row, 1.0 / sum);
    }
    let mut outputs = vec![0f32; n_rows * d];
    product(&weights, head.values, &mut outputs, [n_rows, d, n], Rhs::Plain);
    (weights, outputs)
}

/// The lower triangle of X Xᵀ; above it there is nothing to rely on.
///
/// - Shape: x `[n, k]` → `[n, n]`
fn lower_gram(x: &[f32], n: usize, k: usize) -> Vec<f32> {
    let mut gram = vec![0f32; n * n];
    gram.par_chunks_mut(TILE * n.max(1)).enumerate().for_each(|(strip, out)| {
        let i = strip * TILE;
        let (rows, columns) = (TILE.min(n - i), (i + TILE).min(n));
        product_columns(&x[i * k..], x, out, [rows, columns, k], Rhs::Transposed, n);
    });
    gram
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| random.random_range(-1f32..1.0)).collect()
    }

    /// Residual O - A V in f64, squared and summed.
    fn residual(queries: &[f32], full: RefitHead<'_>, stored: RefitHead<'_>) -> f64 {
        let (_, wanted) = attention(queries, full);
        let (_, found) = attention(queries, stored);
        wanted.iter().zip(&found).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    #[test]
    fn one_slot_by_hand() {
        // D = 1, keys 0: the full head's output is the mean of 1, 2 and 6, 3; the one stored slot has the value 1.
        // Two queries: A = (1, 1)ᵀ, AᵀA = 2, Λ = 0.5 (2 + 2) = 2: V = 1 + 2 · (3 - 1) / (2 + 2) = 2.
        let full = RefitHead { head_dim: 1, keys: &[0.0; 3], values: &[1.0, 2.0, 6.0], logit_bias: None };
        let stored = RefitHead { head_dim: 1, keys: &[0.0], values: &[1.0], logit_bias: None };
        let values = refit_values(&[1.0, -1.0], full, stored, 0, 0.5).unwrap();
        assert!((values[0] - 2.0).abs() < 1e-6, "{values:?}");
        // Recent slots stay.
        assert_eq!(refit_values(&[1.0, -1.0], full, stored, 1, 0.5).unwrap(), [1.0]);
        assert_eq!(refit_values(&[], full, stored, 0, 0.5).unwrap(), [1.0]);
    }

    /// The primal form by Gaussian elimination in f64.
    fn reference(queries: &[f32], full: RefitHead<'_>, stored: RefitHead<'_>, n_fixed: usize, lambda: f64) -> Vec<f64> {
        let d = stored.head_dim;
        let weights = |head: RefitHead<'_>| -> Vec<Vec<f64>> {
            queries
                .chunks_exact(d)
                .map(|q| {
                    let logit = |j: usize| {
                        let dot: f64 = (0..d).map(|c| f64::from(q[c]) * f64::from(head.keys[j * d + c])).sum();
                        dot / (d as f64).sqrt() + head.logit_bias.map_or(0.0, |bias| f64::from(bias[j]))
                    };
                    let raw: Vec<f64> = (0..head.keys.len() / d).map(|j| logit(j).exp()).collect();
                    let total: f64 = raw.iter().sum();
                    raw.iter().map(|x| x / total).collect()
                })
                .collect()
        };
        let (all, a) = (weights(full), weights(stored));
        let output = |w: &[f64], head: RefitHead<'_>, c: usize| -> f64 {
            w.iter().enumerate().map(|(j, w)| w * f64::from(head.values[j * d + c])).sum()
        };
        let n = stored.keys.len() / d - n_fixed;
        let gram = |i: usize, j: usize| -> f64 { a.iter().map(|row| row[i] * row[j]).sum() };
        let mean = (0..n).map(|i| gram(i, i)).sum::<f64>() / n as f64;
        let mut rows: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                let mut row: Vec<f64> = (0..n).map(|j| gram(i, j)).collect();
                row[i] += lambda * (gram(i, i) + mean);
                row.extend((0..d).map(|c| -> f64 {
                    let off = |r: usize| output(&all[r], full, c) - output(&a[r], stored, c);
                    (0..a.len()).map(|r| a[r][i] * off(r)).sum()
                }));
                row
            })
            .collect();
        for i in 0..n {
            for j in (0..n).filter(|j| *j != i) {
                let factor = rows[j][i] / rows[i][i];
                let pivot = rows[i].clone();
                rows[j].iter_mut().zip(pivot).for_each(|(x, p)| *x -= factor * p);
            }
        }
        let mut values: Vec<f64> = stored.values.iter().map(|x| f64::from(*x)).collect();
        for i in 0..n {
            (0..d).for_each(|c| values[i * d + c] += rows[i][n + c] / rows[i][i]);
        }
        values
    }

    #[test]
    fn values_agree_with_elimination_in_double_precision_and_the_residual_falls() {
        for (seed, (n_rows, n_full, n, d)) in
            [(3, 9, 5, 2), (40, 30, 12, 4), (150, 80, 40, 8), (70, 200, 90, 8)].into_iter().enumerate()
        {
            let seed = 10 * seed as u64;
            let (keys, values) = (noise(n_full * d, seed), noise(n_full * d, seed + 1));
            let queries: Vec<f32> = noise(n_rows * d, seed + 2).iter().map(|x| 4.0 * x).collect();
            let bias: Vec<f32> = noise(n, seed + 3);
            let full = RefitHead { head_dim: d, keys: &keys, values: &values, logit_bias: None };
            let stored =
                RefitHead { head_dim: d, keys: &keys[..n * d], values: &values[..n * d], logit_bias: Some(&bias) };
            for lambda in [0.003, 0.03, 1.0] {
                for n_fixed in [0, 2] {
                    let found = refit_values(&queries, full, stored, n_fixed, lambda).unwrap();
                    let expected = reference(&queries, full, stored, n_fixed, f64::from(lambda));
                    for (x, y) in found.iter().zip(&expected) {
                        assert!((f64::from(*x) - y).abs() < 2e-3 * (1.0 + y.abs()), "{n_rows} {n} {lambda}: {x} {y}");
                    }
                    assert_eq!(found[(n - n_fixed) * d..], values[(n - n_fixed) * d..n * d]);
                    let (before, after) = (
                        residual(&queries, full, stored),
                        residual(&queries, full, RefitHead { values: &found, ..stored }),
                    );
                    assert!(after < before, "{n_rows} {n} {lambda}: {before} to {after}");
                }
            }
        }
    }

    #[test]
    fn a_whole_head_is_left_as_it_is() {
        let (keys, values, queries) = (noise(40 * 4, 1), noise(40 * 4, 2), noise(30 * 4, 3));
        let whole = RefitHead { head_dim: 4, keys: &keys, values: &values, logit_bias: None };
        let found = refit_values(&queries, whole, whole, 0, 0.03).unwrap();
        assert!(found.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-4));
        let bad = RefitHead { values: &[f32::NAN; 160], ..whole };
        assert!(refit_values(&queries, bad, RefitHead { keys: &[f32::NAN; 160], ..whole }, 0, 0.03).is_none());
    }
}
