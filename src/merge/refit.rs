//! Refit: values and masses of stored slots solved for, so that attention over them gives what the full cache gave.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::math::{Rhs, axpy, exp_shifted_sum, max, product, product_columns, scale, solve_positive_definite};

/// Query rows whose attention over a full head is held at a time.
const BLOCK_ROWS: usize = 64;
/// Most that a refit multiplies or divides a slot's mass by.
const MOST_MASS: f32 = 10.0;
/// Rows of a strip of the system.
const TILE: usize = 64;

/// How values are refitted after slots were chosen.
///
/// The prompt's own queries, turned to positions behind it, stand for the queries to come. On SmolLM2 (six texts of 1,536
/// tokens, half of the slots kept by `evict`) a lambda of 0.03 or less made the next-token distributions worse than no
/// refit did; 0.1 was the best of those tried. On four texts twice the queries gained 0.001 nats at most. On seven texts with
/// 35 % kept by `h2o`, refitted masses took mean KL from 0.0179 to 0.0169 nats (no refit: 0.0237).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Refit {
    /// Query rows per KV head, all query heads of the group together.
    pub queries: usize,
    /// Positions behind the prompt that they are spread over.
    pub span: usize,
    /// Weight of the ridge.
    pub lambda: f32,
    /// Most recent slots of each head that stay as they are.
    pub recent: usize,
    /// Whether masses are refitted with the values, so that the slots weigh against new tokens what the full head does.
    pub mass: bool,
    /// Seed of the sample.
    pub seed: u64,
}

impl Default for Refit {
    fn default() -> Self {
        Self { queries: 384, span: 512, lambda: 0.1, recent: 32, mass: true, seed: 0 }
    }
}

impl Refit {
    /// Whether its numbers can be: at least one query, and a ridge that is a number above 0.
    pub fn is_sound(&self) -> bool {
        self.queries > 0 && self.lambda.is_finite() && self.lambda > 0.0
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

/// What a refit makes of stored slots.
#[derive(Clone, Debug, PartialEq)]
pub struct Refitted {
    /// Values, `[n, D]`.
    pub values: Vec<f32>,
    /// Logit biases in nats, `[n]`; `None` where they stay as they are.
    pub logit_bias: Option<Vec<f32>>,
}

impl Refitted {
    fn unchanged(stored: RefitHead<'_>) -> Self {
        Self { values: stored.values.to_vec(), logit_bias: None }
    }
}

/// New values, and masses if `refit.mass`, for the stored slots, all but the last `refit.recent`.
///
/// With O the full head's outputs for the queries and A the weights over the stored slots (columns a of those that may
/// change), V_a becomes V_a + (AᵀA + Λ)⁻¹ Aᵀ (O - A V), Λ = lambda (diag(AᵀA) + mean diag(AᵀA)). It is computed in its
/// dual form, Λ⁻¹ Aᵀ (A Λ⁻¹ Aᵀ + 1)⁻¹ (O - A V), whose system is as large as the queries are many and no worse
/// conditioned than 1 + n / lambda; what it solves for is the residual that remains, so that never grows.
///
/// With masses, A is not normalised: a weight is exp(logit) over the sum of the full head's exponentials, so that a row of A
/// says which share of the full head's mass is left, and what a head adds to an output before it is normalised is linear
/// in each slot's factor w and in w v. Both come from the same system, with targets (O, 1) from (v, 1); then v = (w v) / w
/// and ln w is added to the slot's bias. w stays within a factor of 10; w v is kept whatever becomes of w.
///
/// - Shape: queries `[rows, D]`, rotated → values `[n, D]`
/// - Cost:  O(rows · (T + n) · D + rows² · n + rows³ / 3)
/// - Returns: `None` when the system cannot be solved, as with states that are not finite
/// - Source: ours; related: Attention Matching (arXiv 2602.16284), GRKV (arXiv 2605.31105)
pub fn refit_slots(queries: &[f32], full: RefitHead<'_>, stored: RefitHead<'_>, refit: Refit) -> Option<Refitted> {
    let d = stored.head_dim;
    // Columns of what is solved for: a value, and a mass if asked for.
    let width = d + usize::from(refit.mass);
    let (n_rows, n) = (queries.len() / d, stored.keys.len() / d);
    let n_free = n.saturating_sub(refit.recent);
    if n_free == 0 || n_rows == 0 {
        return Some(Refitted::unchanged(stored));
    }
    // Blocks of queries and strips of the system are computed side by side, so that few heads keep all cores busy; each
    // is what one thread would make of it.
    let blocks: Vec<(Vec<f32>, Vec<f32>)> = queries
        .par_chunks(BLOCK_ROWS * d)
        .map(|queries| {
            let all = attention(queries, full, None);
            let left = attention(queries, stored, refit.mass.then_some(&all.log_masses));
            let mut off = Vec::with_capacity(queries.len() / d * width);
            for (row, (wanted, found)) in all.outputs.chunks_exact(d).zip(left.outputs.chunks_exact(d)).enumerate() {
                off.extend(wanted.iter().zip(found).map(|(a, b)| a - b));
                if refit.mass {
                    off.push(1.0 - left.weights[row * n..(row + 1) * n].iter().sum::<f32>());
                }
            }
            (left.weights, off)
        })
        .collect();
    let mut residual = Vec::with_capacity(n_rows * width);
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
        return Some(Refitted::unchanged(stored));
    }
    let inverse_root: Vec<f32> = squares.iter().map(|square| 1.0 / (refit.lambda * (square + mean)).sqrt()).collect();
    for row in root_weighted.chunks_exact_mut(n_free) {
        row.iter_mut().zip(&inverse_root).for_each(|(x, root)| *x *= root);
    }
    let mut system = lower_gram(&root_weighted, n_rows, n_free);
    (0..n_rows).for_each(|i| system[i * n_rows + i] += 1.0);
    if !solve_positive_definite(&mut system, &mut residual, n_rows) {
        return None;
    }
    // Transposed, as [width, rows] · [rows, free], so that the product reads its large side as it lies.
    let transposed: Vec<f32> = (0..width).flat_map(|c| residual[c..].iter().step_by(width)).copied().collect();
    let mut change = vec![0f32; width * n_free];
    product(&transposed, &root_weighted, &mut change, [width, n_free, n_rows], Rhs::Plain);
    let mut values = stored.values.to_vec();
    let mut factors = vec![1f32; n];
    for (slot, value) in values.chunks_exact_mut(d).take(n_free).enumerate() {
        let step = |c: usize| inverse_root[slot] * change[c * n_free + slot];
        if refit.mass {
            factors[slot] = (1.0 + step(d)).clamp(1.0 / MOST_MASS, MOST_MASS);
        }
        value.iter_mut().enumerate().for_each(|(c, x)| *x = (*x + step(c)) / factors[slot]);
    }
    let logit_bias = refit.mass.then(|| {
        let before = stored.logit_bias.unwrap_or(&[]).iter().chain(std::iter::repeat(&0.0));
        factors.iter().zip(before).map(|(factor, bias)| bias + factor.ln()).collect()
    });
    Some(Refitted { values, logit_bias })
}

/// How queries that see every slot attend.
struct Attention {
    /// `[rows, n]`.
    weights: Vec<f32>,
    /// `[rows, D]`.
    outputs: Vec<f32>,
    /// Logarithms of the masses that weights were divided by, `[rows]`.
    log_masses: Vec<f32>,
}

/// Weights are normalised, or divided by the masses that are given.
fn attention(queries: &[f32], head: RefitHead<'_>, log_masses: Option<&[f32]>) -> Attention {
    let d = head.head_dim;
    let (n_rows, n) = (queries.len() / d, head.keys.len() / d);
    let mut scaled = queries.to_vec();
    scale(&mut scaled, 1.0 / (d as f32).sqrt());
    let mut weights = vec![0f32; n_rows * n];
    product(&scaled, head.keys, &mut weights, [n_rows, n, d], Rhs::Transposed);
    let weigh = |(i, row): (usize, &mut [f32])| {
        if let Some(bias) = head.logit_bias {
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
    let log_masses = weights.chunks_exact_mut(n).enumerate().map(weigh).collect();
    let mut outputs = vec![0f32; n_rows * d];
    product(&weights, head.values, &mut outputs, [n_rows, d, n], Rhs::Plain);
    Attention { weights, outputs, log_masses }
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
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| random.random_range(-1f32..1.0)).collect()
    }

    fn refit(recent: usize, lambda: f32, mass: bool) -> Refit {
        Refit { recent, lambda, mass, ..Refit::default() }
    }

    /// Squared residual of values, and of masses if they are refitted.
    fn residual(queries: &[f32], full: RefitHead<'_>, stored: RefitHead<'_>, mass: bool) -> f64 {
        let wanted = attention(queries, full, None);
        let found = attention(queries, stored, mass.then_some(&wanted.log_masses));
        let square = |a: f32, b: f32| f64::from(a - b).powi(2);
        let values: f64 = wanted.outputs.iter().zip(&found.outputs).map(|(a, b)| square(*a, *b)).sum();
        let n = stored.keys.len() / stored.head_dim;
        values + found.weights.chunks_exact(n).map(|row| square(1.0, row.iter().sum())).sum::<f64>()
    }

    #[test]
    fn one_slot_by_hand() {
        // D = 1, keys 0: the full head's output is the mean of 1, 2 and 6, 3; the one stored slot has the value 1.
        // Two queries: A = (1, 1)ᵀ, AᵀA = 2, Λ = 0.5 (2 + 2) = 2: V = 1 + 2 · (3 - 1) / (2 + 2) = 2.
        let full = RefitHead { head_dim: 1, keys: &[0.0; 3], values: &[1.0, 2.0, 6.0], logit_bias: None };
        let stored = RefitHead { head_dim: 1, keys: &[0.0], values: &[1.0], logit_bias: None };
        let found = refit_slots(&[1.0, -1.0], full, stored, refit(0, 0.5, false)).unwrap();
        assert!((found.values[0] - 2.0).abs() < 1e-6 && found.logit_bias.is_none(), "{found:?}");
        // Recent slots stay.
        let same = Refitted { values: vec![1.0], logit_bias: None };
        assert_eq!(refit_slots(&[1.0, -1.0], full, stored, refit(1, 0.5, true)).unwrap(), same);
        assert_eq!(refit_slots(&[], full, stored, refit(0, 0.5, true)).unwrap(), same);
    }

    #[test]
    fn one_slot_and_its_mass_by_hand() {
        // As above with masses: A = (1/3, 1/3)ᵀ, AᵀA = 2/9, Λ = 0.5 (2/9 + 2/9) = 2/9, so a step is
        // 2/3 r / (4/9) = 1.5 r. w v = 1 + 1.5 (3 - 1/3) = 5 and w = 1 + 1.5 (1 - 1/3) = 2: v = 2.5, bias ln 2.
        let full = RefitHead { head_dim: 1, keys: &[0.0; 3], values: &[1.0, 2.0, 6.0], logit_bias: None };
        let stored = RefitHead { head_dim: 1, keys: &[0.0], values: &[1.0], logit_bias: None };
        let found = refit_slots(&[1.0, -1.0], full, stored, refit(0, 0.5, true)).unwrap();
        let bias = found.logit_bias.unwrap();
        assert!((found.values[0] - 2.5).abs() < 1e-5 && (bias[0] - 2f32.ln()).abs() < 1e-5, "{bias:?}");
        // A slot that already stands for two, A = 2/3: AᵀA = Λ = 8/9, a step is 4/3 r / (16/9) = 0.75 r;
        // w v = 1 + 0.75 (3 - 2/3) = 2.75, w = 1 + 0.75 (1 - 2/3) = 1.25: v = 2.2, bias ln 2 + ln 1.25.
        let stored = RefitHead { logit_bias: Some(&[std::f32::consts::LN_2]), ..stored };
        let found = refit_slots(&[1.0, -1.0], full, stored, refit(0, 0.5, true)).unwrap();
        assert!((found.values[0] - 2.2).abs() < 1e-5 && (found.logit_bias.unwrap()[0] - 2.5f32.ln()).abs() < 1e-5);
    }

    /// The primal form by Gaussian elimination in f64: values, and factors of the masses.
    fn reference(queries: &[f32], full: RefitHead<'_>, stored: RefitHead<'_>, refit: Refit) -> (Vec<f64>, Vec<f64>) {
        let d = stored.head_dim;
        let lambda = f64::from(refit.lambda);
        let exponentials = |head: RefitHead<'_>| -> Vec<Vec<f64>> {
            queries
                .chunks_exact(d)
                .map(|q| {
                    let logit = |j: usize| {
                        let dot: f64 = (0..d).map(|c| f64::from(q[c]) * f64::from(head.keys[j * d + c])).sum();
                        dot / (d as f64).sqrt() + head.logit_bias.map_or(0.0, |bias| f64::from(bias[j]))
                    };
                    (0..head.keys.len() / d).map(|j| logit(j).exp()).collect()
                })
                .collect()
        };
        let (mut all, mut a) = (exponentials(full), exponentials(stored));
        for (all, a) in all.iter_mut().zip(&mut a) {
            let total: f64 = all.iter().sum();
            let own = if refit.mass { total } else { a.iter().sum() };
            all.iter_mut().for_each(|x| *x /= total);
            a.iter_mut().for_each(|x| *x /= own);
        }
        // Column d is the mass, of which every slot has 1.
        let column =
            |head: RefitHead<'_>, j: usize, c: usize| if c == d { 1.0 } else { f64::from(head.values[j * d + c]) };
        let output = |w: &[f64], head: RefitHead<'_>, c: usize| -> f64 {
            w.iter().enumerate().map(|(j, w)| w * column(head, j, c)).sum()
        };
        let n = stored.keys.len() / d - refit.recent;
        let gram = |i: usize, j: usize| -> f64 { a.iter().map(|row| row[i] * row[j]).sum() };
        let mean = (0..n).map(|i| gram(i, i)).sum::<f64>() / n as f64;
        let mut rows: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                let mut row: Vec<f64> = (0..n).map(|j| gram(i, j)).collect();
                row[i] += lambda * (gram(i, i) + mean);
                row.extend((0..=d).map(|c| -> f64 {
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
        let mut factors = vec![1.0; n + refit.recent];
        for i in 0..n {
            if refit.mass {
                factors[i] = (1.0 + rows[i][n + d] / rows[i][i]).clamp(0.1, 10.0);
            }
            (0..d).for_each(|c| values[i * d + c] = (values[i * d + c] + rows[i][n + c] / rows[i][i]) / factors[i]);
        }
        (values, factors)
    }

    #[test]
    fn slots_agree_with_elimination_in_double_precision_and_the_residual_falls() {
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
            for (lambda, recent, mass) in
                [0.003, 0.03, 1.0].into_iter().flat_map(|x| [(x, 0, false), (x, 2, false), (x, 0, true), (x, 2, true)])
            {
                let found = refit_slots(&queries, full, stored, refit(recent, lambda, mass)).unwrap();
                let (wanted, factors) = reference(&queries, full, stored, refit(recent, lambda, mass));
                let close = |x: f32, y: f64| {
                    assert!((f64::from(x) - y).abs() < 4e-3 * (1.0 + y.abs()), "{n_rows} {n} {lambda} {mass}: {x} {y}");
                };
                found.values.iter().zip(&wanted).for_each(|(x, y)| close(*x, *y));
                let fitted = found.logit_bias.as_deref().unwrap_or(&bias);
                fitted.iter().zip(&bias).zip(&factors).for_each(|((x, b), w)| close(*x - b, w.ln()));
                assert_eq!(found.values[(n - recent) * d..], values[(n - recent) * d..n * d]);
                let after = RefitHead { values: &found.values, logit_bias: Some(fitted), ..stored };
                let (before, after) = (residual(&queries, full, stored, mass), residual(&queries, full, after, mass));
                // A factor that was held back leaves more of the masses' residual.
                if factors.iter().all(|w| *w > 0.1 && *w < 10.0) {
                    assert!(after < before, "{n_rows} {n} {lambda} {mass}: {before} to {after}");
                }
            }
        }
    }

    #[test]
    fn a_whole_head_is_left_as_it_is() {
        let (keys, values, queries) = (noise(40 * 4, 1), noise(40 * 4, 2), noise(30 * 4, 3));
        let whole = RefitHead { head_dim: 4, keys: &keys, values: &values, logit_bias: None };
        let found = refit_slots(&queries, whole, whole, refit(0, 0.03, true)).unwrap();
        assert!(found.values.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-4));
        assert!(found.logit_bias.unwrap().iter().all(|bias| bias.abs() < 1e-4));
        let bad = RefitHead { values: &[f32::NAN; 160], ..whole };
        let broken = RefitHead { keys: &[f32::NAN; 160], ..whole };
        assert!(refit_slots(&queries, bad, broken, refit(0, 0.03, false)).is_none());
    }
}
