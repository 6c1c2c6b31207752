//! Refit: values and masses of stored slots solved for, so that attention over them gives what the full cache gave.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::math::{Rhs, Rows, axpy, dot, product, product_columns, scale, solve_positive_definite};
use crate::merge::attention::{Attending, Attention, Given, attention_over};
use crate::merge::{Origin, Sampling};

/// Most that a refit multiplies or divides a slot's mass by: e³, as Attention Matching does.
const MOST_MASS: f32 = 20.085_537;
/// The recent slots that stay are at most this part of all.
const MOST_FIXED: usize = 4;
/// One in so many queries is not solved on: it says whether a refit is of use.
const CHECKED: usize = 16;
/// Share of the slots up to which all other queries are solved on. More slots come nearer to the whole head with fewer queries.
const FULLY_SOLVED: f64 = 0.2;
/// Least part of them.
const LEAST_SOLVED: f64 = 1.0 / 3.0;
/// Sweeps over the masses, at most.
const MOST_SWEEPS: usize = 20;
/// Change of a mass at which it counts as found.
const SMALL_CHANGE: f32 = 5e-3;
/// Rows of a strip of the system.
const TILE: usize = 64;

/// How values are refitted after slots were chosen.
///
/// The prompt's own queries, turned to positions behind it, stand for the queries to come. Measured on SmolLM2 (seven texts of
/// 1,536 tokens, tuned sizes and scores), mean KL in nats at 35, 10 and 5 %: 0.00073, 0.0199 and 0.069 with 384 rows,
/// 0.00069, 0.0186 and 0.063 with 768, 0.00061, 0.0174 and 0.055 with 1,536. A lambda of 0.1 instead of 0.03 gave 0.034 instead
/// of 0.032 at 10 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Refit {
    /// Where the queries come from.
    pub from: Origin,
    /// Query rows per KV head, all query heads of the group together.
    pub queries: usize,
    /// Positions behind the prompt that they are spread over.
    pub span: usize,
    /// Weight of the ridge.
    pub lambda: f32,
    /// Most recent slots of each head that stay as they are, a quarter of them at most.
    pub recent: usize,
    /// Whether masses are refitted with the values, so that the slots weigh against new tokens what the full head does.
    pub mass: bool,
    /// Seed of the sample.
    pub seed: u64,
}

impl Default for Refit {
    fn default() -> Self {
        Self { from: Origin::Prompt, queries: 768, span: 512, lambda: 0.03, recent: 32, mass: true, seed: 0 }
    }
}

impl Refit {
    /// The queries that it looks at.
    pub fn sampling(&self) -> Sampling {
        Sampling { from: self.from, queries: self.queries, span: self.span, seed: self.seed, skip: 0 }
    }

    /// Whether its numbers can be: at least one query, and a ridge that is a number above 0.
    pub fn is_sound(&self) -> bool {
        self.queries > 0 && self.lambda.is_finite() && self.lambda > 0.0
    }
}

/// Keys, values and biases of a head: `[n, D]` twice and `[n]`.
#[derive(Clone, Copy, Debug)]
pub struct RefitHead<'a> {
    /// Keys.
    pub keys: Rows<'a>,
    /// Values.
    pub values: Rows<'a>,
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

/// New masses if `refit.mass`, and new values under them, for the stored slots, all but the most recent.
///
/// Masses first: with a weight exp(logit) over the sum of the full head's exponentials, a row of A says which share of the full
/// head's mass each slot holds for a query. Factors w with A w near 1 make the slots weigh against new tokens what the full
/// head does: ‖A w - 1‖² + Σ λ (‖a‖² + mean ‖a‖²) (w - 1)² is least within the bounds 1/e³ and e³, found by coordinate
/// descent, and ln w is added to the slot's bias.
///
/// Then values: with O the full head's outputs and X the normalised weights of the slots under their new masses, V becomes
/// V + (XᵀX + Λ)⁻¹ Xᵀ (O - X V), Λ = λ (diag(XᵀX) + mean diag(XᵀX)); the rows of X are those of all slots, its columns those
/// that may change. The system is solved in the smaller of its two forms: as large as the slots are many, or in its dual
/// Λ⁻¹ Xᵀ (X Λ⁻¹ Xᵀ + 1)⁻¹ (O - X V), as large as the queries are.
///
/// One query in sixteen is kept out of both. Where the new values and masses do not bring the outputs nearer to the full head's
/// for these, the slots stay as they are. Where more than a fifth of the slots is stored, fewer queries are solved on, a third
/// of them at least. Measured as above, mean KL in nats at 50, 35 and 20 %: 0.00018, 0.00069 and 0.00365 with all of 768 rows,
/// 0.00020, 0.00073 and 0.00366 with 384.
///
/// - Shape: values `[n, D]` → `[n, D]`
/// - Cost:  O(rows · n · (D + min(rows, n)) + sweeps · n · min(rows, n))
/// - Returns: `None` when the system cannot be solved, as with states that are not finite
/// - Source: Attention Matching (arXiv 2602.16284), masses before values. Differs: both are anchored at what is stored
pub fn refit_slots(whole: &Attending<'_>, stored: RefitHead<'_>, refit: Refit) -> Option<Refitted> {
    let (n, d) = (stored.keys.len(), stored.values.width());
    let n_free = n - refit.recent.min(n / MOST_FIXED);
    if n_free == 0 || whole.queries.is_empty() {
        return Some(Refitted { values: stored.values.flat().to_vec(), logit_bias: None });
    }
    let given = whole.given();
    let (solved_on, checked) = split(whole, n, refit.seed);
    let mut solved_on = Asked::new(whole, &given, stored, &solved_on);
    let mut checked = Asked::new(whole, &given, stored, &checked);
    checked.shares.normalise();
    let unchanged = checked.squared_error(stored.values);
    let factors = refit.mass.then(|| {
        let factors = System::new(&solved_on.shares, n_free).masses(solved_on.missing(), refit.lambda);
        solved_on.shares.scale_slots(&factors);
        checked.shares.scale_slots(&factors);
        factors
    });
    // Weights that were normalised before their slots were scaled become the same by it.
    solved_on.shares.normalise();
    checked.shares.normalise();
    let mut values = stored.values.flat().to_vec();
    let system = System::new(&solved_on.shares, n_free);
    let change = system.values_change(solved_on.residual(stored.values), d, refit.lambda)?;
    axpy(1.0, &change, &mut values[..n_free * d]);
    let changed = checked.squared_error(Rows::new(&values, d));
    if changed.is_nan() {
        return None;
    }
    if !checked.outputs.is_empty() && changed >= unchanged {
        // With biases all the same, so that a head's bytes do not depend on what became of it.
        let logit_bias = factors.map(|_| stored.logit_bias.map_or_else(|| vec![0.0; n], <[f32]>::to_vec));
        return Some(Refitted { values: stored.values.flat().to_vec(), logit_bias });
    }
    let logit_bias = factors.map(|factors| {
        let before = stored.logit_bias.unwrap_or(&[]).iter().chain(std::iter::repeat(&0.0));
        let changes = factors.iter().map(|factor| factor.ln()).chain(std::iter::repeat(0.0));
        changes.zip(before).take(n).map(|(change, bias)| bias + change).collect()
    });
    Some(Refitted { values, logit_bias })
}

/// Rows of the queries to solve on and to check on, where so many slots are stored.
fn split(whole: &Attending<'_>, n_slots: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let (n_rows, share) = (whole.queries.len(), n_slots as f64 / whole.keys.len() as f64);
    let n_checked = n_rows / CHECKED;
    let part = (FULLY_SOLVED / share).clamp(LEAST_SOLVED, 1.0);
    let n_solved = ((n_rows - n_checked) as f64 * part).ceil() as usize;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = rand::seq::index::sample(&mut random, n_rows, n_checked + n_solved).into_vec();
    let checked = rows.split_off(n_solved);
    (rows, checked)
}

/// Some queries, with what the whole head gives them and how they see the stored slots.
struct Asked {
    /// Outputs of the whole head, `[rows, D]`.
    outputs: Vec<f32>,
    /// Weights of the slots, as shares of the whole head's mass.
    shares: Attention,
}

impl Asked {
    fn new(whole: &Attending<'_>, given: &Given, stored: RefitHead<'_>, rows: &[usize]) -> Self {
        let queries: Vec<f32> = rows.iter().flat_map(|row| whole.queries.row(*row)).copied().collect();
        let outputs = Rows::new(&given.outputs, stored.values.width());
        let log_masses: Vec<f32> = rows.iter().map(|row| given.log_masses[*row]).collect();
        let queries = Rows::new(&queries, stored.keys.width());
        Self {
            outputs: rows.iter().flat_map(|row| outputs.row(*row)).copied().collect(),
            shares: attention_over(queries, stored.keys, stored.logit_bias, Some(&log_masses)),
        }
    }

    /// What the slots do not hold of every row's mass.
    fn missing(&self) -> Vec<f32> {
        self.shares.rows().map(|row| 1.0 - row.iter().sum::<f32>()).collect()
    }

    /// What the slots with these values lack of the outputs, by their weights as they are, `[rows, D]`.
    fn residual(&self, values: Rows<'_>) -> Vec<f32> {
        let mut residual = self.outputs.clone();
        axpy(-1.0, &self.shares.outputs(values), &mut residual);
        residual
    }

    /// Squared distance of the slots' outputs, by their weights as they are and these values, from the whole head's.
    fn squared_error(&self, values: Rows<'_>) -> f64 {
        self.residual(values).iter().map(|x| f64::from(*x).powi(2)).sum()
    }
}

/// The slots that may change, as columns of least squares over queries.
struct System {
    n_rows: usize,
    /// Of each slot its weight for every query, `[n, rows]`.
    columns: Vec<f32>,
    /// Their products `[n, n]`, where that is no larger than the columns.
    gram: Option<Vec<f32>>,
    /// ‖column‖², `[n]`.
    squares: Vec<f32>,
}

impl System {
    /// Of the first `n` slots.
    fn new(shares: &Attention, n: usize) -> Self {
        let n_rows = shares.rows().len();
        let rows: Vec<f32> = shares.rows().flat_map(|row| &row[..n]).copied().collect();
        let columns = transposed(&rows, n_rows, n);
        let squares = columns.chunks_exact(n_rows).map(|column| dot(column, column)).collect();
        let gram = (n <= n_rows).then(|| {
            let mut gram = lower_gram(&columns, n, n_rows);
            (0..n).for_each(|i| (i + 1..n).for_each(|j| gram[i * n + j] = gram[j * n + i]));
            gram
        });
        Self { n_rows, columns, gram, squares }
    }

    /// Multiplies columns by a factor each.
    fn scale(&mut self, factors: &[f32]) {
        self.columns.chunks_exact_mut(self.n_rows).zip(factors).for_each(|(column, factor)| scale(column, *factor));
        self.squares.iter_mut().zip(factors).for_each(|(square, factor)| *square *= factor * factor);
        for (row, factor) in self.gram.iter_mut().flat_map(|gram| gram.chunks_exact_mut(factors.len())).zip(factors) {
            row.iter_mut().zip(factors).for_each(|(x, other)| *x *= factor * other);
        }
    }

    /// The ridge of every column.
    fn ridges(&self, lambda: f32) -> Vec<f32> {
        let mean = self.squares.iter().sum::<f32>() / self.squares.len() as f32;
        self.squares.iter().map(|square| lambda * (square + mean)).collect()
    }

    /// Factors of the masses, where `missing` is what the slots leave of every row.
    fn masses(&self, missing: Vec<f32>, lambda: f32) -> Vec<f32> {
        let ridges = self.ridges(lambda);
        // With the columns' products the slopes themselves are kept up to date, without them the rows that they follow from.
        let (columns, width, mut state) = match &self.gram {
            Some(gram) => {
                (gram, self.squares.len(), self.columns.chunks_exact(self.n_rows).map(|c| dot(c, &missing)).collect())
            }
            None => (&self.columns, self.n_rows, missing),
        };
        let mut factors = vec![1f32; self.squares.len()];
        for _ in 0..MOST_SWEEPS {
            let mut most = 0f32;
            for (j, (factor, column)) in factors.iter_mut().zip(columns.chunks_exact(width)).enumerate() {
                // No query sees this slot: nothing speaks for another mass.
                if ridges[j] == 0.0 {
                    continue;
                }
                let slope = if self.gram.is_some() { state[j] } else { dot(column, &state) };
                let step = (slope - ridges[j] * (*factor - 1.0)) / (self.squares[j] + ridges[j]);
                let new = (*factor + step).clamp(1.0 / MOST_MASS, MOST_MASS);
                axpy(*factor - new, column, &mut state);
                most = most.max((new - *factor).abs());
                *factor = new;
            }
            if most < SMALL_CHANGE {
                break;
            }
        }
        factors
    }

    /// What is added to the values, `[n, D]`.
    fn values_change(mut self, residual: Vec<f32>, d: usize, lambda: f32) -> Option<Vec<f32>> {
        let ridges = self.ridges(lambda);
        let (n, n_rows) = (ridges.len(), self.n_rows);
        if ridges.iter().all(|ridge| *ridge == 0.0) {
            // No query sees these slots: nothing speaks for other values.
            return Some(vec![0.0; n * d]);
        }
        // Y = X Λ^-½, of which the systems are Yᵀ Y + 1 and Y Yᵀ + 1.
        let inverse_root: Vec<f32> = ridges.iter().map(|ridge| 1.0 / ridge.sqrt()).collect();
        self.scale(&inverse_root);
        let mut change = match self.gram {
            Some(gram) => {
                let mut right = vec![0f32; n * d];
                product(&self.columns, &residual, &mut right, [n, d, n_rows], Rhs::Plain);
                solved(gram, right, n)?
            }
            None => {
                let rows = transposed(&self.columns, n, n_rows);
                let solution = solved(lower_gram(&rows, n_rows, n), residual, n_rows)?;
                let mut across = vec![0f32; n * d];
                product(&self.columns, &solution, &mut across, [n, d, n_rows], Rhs::Plain);
                across
            }
        };
        change.chunks_exact_mut(d).zip(&inverse_root).for_each(|(change, root)| scale(change, *root));
        Some(change)
    }
}

/// Solves (G + 1) Z = R, of G the lower triangle.
///
/// - Shape: gram `[n, n]`, right `[n, D]` → `[n, D]`
fn solved(mut gram: Vec<f32>, mut right: Vec<f32>, n: usize) -> Option<Vec<f32>> {
    (0..n).for_each(|i| gram[i * n + i] += 1.0);
    solve_positive_definite(&mut gram, &mut right, n).then_some(right)
}

/// `[n, m]` → `[m, n]`.
fn transposed(x: &[f32], n: usize, m: usize) -> Vec<f32> {
    let mut out = vec![0f32; n * m];
    for (i, row) in x.chunks_exact(m.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(j, x)| out[j * n + i] = *x);
    }
    out
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

    use super::*;
    use crate::merge::attention;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| random.random_range(-1f32..1.0)).collect()
    }

    fn refit(recent: usize, lambda: f32, mass: bool) -> Refit {
        Refit { recent, lambda, mass, ..Refit::default() }
    }

    fn head<'a>(keys: &'a [f32], values: &'a [f32], d: usize) -> RefitHead<'a> {
        RefitHead { keys: Rows::new(keys, d), values: Rows::new(values, d), logit_bias: None }
    }

    fn attending<'a>(queries: Rows<'a>, RefitHead { keys, values, logit_bias }: RefitHead<'a>) -> Attending<'a> {
        Attending { queries, keys, values, logit_bias, given: None }
    }

    #[test]
    fn one_slot_by_hand() {
        // D = 1, keys 0: the full head's output is the mean of 1, 2 and 6, 3; the one stored slot has the value 1.
        // Two queries: X = (1, 1)ᵀ, XᵀX = 2, Λ = 0.5 (2 + 2) = 2: V = 1 + 2 · (3 - 1) / (2 + 2) = 2.
        let (full, stored) = (head(&[0.0; 3], &[1.0, 2.0, 6.0], 1), head(&[0.0], &[1.0], 1));
        let queries = Rows::new(&[1.0, -1.0], 1);
        let found = refit_slots(&attending(queries, full), stored, refit(0, 0.5, false)).unwrap();
        assert!((found.values[0] - 2.0).abs() < 1e-6 && found.logit_bias.is_none(), "{found:?}");
        // With masses: A = (1/3, 1/3)ᵀ, AᵀA = 2/9, the ridge is 0.5 (2/9 + 2/9) = 2/9, so
        // w = 1 + 2/3 · (1 - 1/3) / (2/9 + 2/9) = 2: bias ln 2.
        let found = refit_slots(&attending(queries, full), stored, refit(0, 0.5, true)).unwrap();
        assert!((found.values[0] - 2.0).abs() < 1e-5, "{found:?}");
        assert!((found.logit_bias.unwrap()[0] - 2f32.ln()).abs() < 1e-5);
        // A slot that already stands for two, A = 2/3: AᵀA and the ridge are 8/9, w = 1 + 4/3 · (1 - 2/3) / (16/9) = 1.25.
        let two = RefitHead { logit_bias: Some(&[std::f32::consts::LN_2]), ..stored };
        let found = refit_slots(&attending(queries, full), two, refit(0, 0.5, true)).unwrap();
        assert!((found.logit_bias.unwrap()[0] - 2.5f32.ln()).abs() < 1e-5);
        // Without a query everything stays.
        let same = Refitted { values: vec![1.0], logit_bias: None };
        assert_eq!(refit_slots(&attending(Rows::new(&[], 1), full), stored, refit(0, 0.5, true)).unwrap(), same);
    }

    #[test]
    fn a_mass_stops_at_its_bound() {
        // Two tokens, keys 0 and ln 99: the stored one has 1 % of the mass and would need 100 times as much.
        let keys = [0.0, 99f32.ln()];
        let (full, stored) = (head(&keys, &[1.0, 2.0], 1), head(&[0.0], &[1.0], 1));
        let found = refit_slots(&attending(Rows::new(&[1.0], 1), full), stored, refit(0, 1e-6, true)).unwrap();
        assert!((found.logit_bias.unwrap()[0] - 3.0).abs() < 1e-5);
    }

    /// In f64, from factors of the masses that were found: what they leave of the objective over what projected gradient
    /// leaves, and the values under them by Gaussian elimination of the primal form.
    fn reference(
        queries: Rows<'_>,
        full: RefitHead<'_>,
        stored: RefitHead<'_>,
        refit: Refit,
        found: &[f64],
    ) -> (f64, Vec<f64>) {
        let (d, lambda) = (stored.values.width(), f64::from(refit.lambda));
        let exponentials = |head: RefitHead<'_>| -> Vec<Vec<f64>> {
            let of_query = |q: &[f32]| {
                let logit = |(j, key): (usize, &[f32])| {
                    let dot: f64 = q.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    (dot / (d as f64).sqrt() + head.logit_bias.map_or(0.0, |bias| f64::from(bias[j]))).exp()
                };
                head.keys.iter().enumerate().map(logit).collect()
            };
            queries.iter().map(of_query).collect()
        };
        let (mut all, mut a) = (exponentials(full), exponentials(stored));
        for (all, a) in all.iter_mut().zip(&mut a) {
            let total: f64 = all.iter().sum();
            all.iter_mut().for_each(|x| *x /= total);
            a.iter_mut().for_each(|x| *x /= total);
        }
        let n = stored.keys.len() - refit.recent.min(stored.keys.len() / MOST_FIXED);
        let gram = |a: &[Vec<f64>], i: usize, j: usize| -> f64 { a.iter().map(|row| row[i] * row[j]).sum() };
        let ridges = |a: &[Vec<f64>]| -> Vec<f64> {
            let mean = (0..n).map(|i| gram(a, i, i)).sum::<f64>() / n as f64;
            (0..n).map(|i| lambda * (gram(a, i, i) + mean)).collect()
        };
        let ridge = ridges(&a);
        let objective = |w: &[f64]| -> f64 {
            let missing = a.iter().map(|row| (1.0 - row.iter().zip(w).map(|(a, w)| a * w).sum::<f64>()).powi(2));
            missing.sum::<f64>() + ridge.iter().zip(w).map(|(ridge, w)| ridge * (w - 1.0).powi(2)).sum::<f64>()
        };
        let mut excess = 1.0;
        if refit.mass {
            let mut w = vec![1.0; stored.keys.len()];
            let trace: f64 = (0..n).map(|i| gram(&a, i, i) + ridge[i]).sum();
            for _ in 0..20_000 {
                let missing: Vec<f64> =
                    a.iter().map(|row| 1.0 - row.iter().zip(&w).map(|(a, w)| a * w).sum::<f64>()).collect();
                let step = |i: usize| {
                    let slope: f64 = a.iter().zip(&missing).map(|(row, missing)| row[i] * missing).sum();
                    (w[i] + (slope - ridge[i] * (w[i] - 1.0)) / trace).clamp((-3f64).exp(), 3f64.exp())
                };
                let new: Vec<f64> = (0..n).map(step).collect();
                w[..n].copy_from_slice(&new);
            }
            excess = objective(found) / objective(&w);
        }
        for row in &mut a {
            row.iter_mut().zip(found).for_each(|(x, w)| *x *= w);
            let total: f64 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= total);
        }
        let output = |w: &[f64], head: RefitHead<'_>, c: usize| -> f64 {
            w.iter().zip(head.values.iter()).map(|(w, value)| w * f64::from(value[c])).sum()
        };
        let ridge = ridges(&a);
        let mut rows: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                let mut row: Vec<f64> = (0..n).map(|j| gram(&a, i, j)).collect();
                row[i] += ridge[i];
                let off = |r: usize, c: usize| output(&all[r], full, c) - output(&a[r], stored, c);
                row.extend((0..d).map(|c| -> f64 { (0..a.len()).map(|r| a[r][i] * off(r, c)).sum() }));
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
        let mut values: Vec<f64> = stored.values.flat().iter().map(|x| f64::from(*x)).collect();
        for (i, row) in rows.iter().enumerate() {
            (0..d).for_each(|c| values[i * d + c] += row[n + c] / row[i]);
        }
        (excess, values)
    }

    /// Squared distance of normalised outputs.
    fn residual(queries: Rows<'_>, full: RefitHead<'_>, stored: RefitHead<'_>) -> f32 {
        let outputs = |head: RefitHead<'_>| attention(queries, head.keys, head.logit_bias).outputs(head.values);
        crate::math::squared_distance(&outputs(full), &outputs(stored))
    }

    #[test]
    fn slots_agree_with_double_precision_and_the_residual_falls() {
        let mut n_taken_back = 0;
        // Fewer slots than queries, and more.
        for (seed, (n_rows, n_full, n, d)) in
            [(3, 9, 5, 2), (40, 30, 12, 4), (60, 40, 20, 8), (20, 80, 40, 8)].into_iter().enumerate()
        {
            let seed = 10 * seed as u64;
            let (keys, values) = (noise(n_full * d, seed), noise(n_full * d, seed + 1));
            let queries: Vec<f32> = noise(n_rows * d, seed + 2).iter().map(|x| 4.0 * x).collect();
            let queries = Rows::new(&queries, d);
            let bias: Vec<f32> = noise(n, seed + 3);
            let full = head(&keys, &values, d);
            let stored = RefitHead { logit_bias: Some(&bias), ..head(&keys[..n * d], &values[..n * d], d) };
            for (lambda, recent, mass) in [(0.1, 0, false), (1.0, 2, false), (0.1, 0, true), (0.3, 2, true)] {
                let found = refit_slots(&attending(queries, full), stored, refit(recent, lambda, mass)).unwrap();
                if found.values == *stored.values.flat() {
                    n_taken_back += 1;
                    continue;
                }
                let fitted = found.logit_bias.as_deref().unwrap_or(&bias);
                let factors: Vec<f64> = fitted.iter().zip(&bias).map(|(x, b)| f64::from(x - b).exp()).collect();
                let (solved_on, checked) = split(&attending(queries, full), n, 0);
                assert_eq!(checked.len(), n_rows / CHECKED);
                let solved_on: Vec<f32> = solved_on.iter().flat_map(|row| queries.row(*row)).copied().collect();
                let solved_on = Rows::new(&solved_on, d);
                let (excess, wanted) = reference(solved_on, full, stored, refit(recent, lambda, mass), &factors);
                assert!(excess < 1.03, "{n_rows} {n} {lambda}: {excess}");
                for (x, y) in found.values.iter().zip(&wanted) {
                    assert!(
                        (f64::from(*x) - y).abs() < 4e-3 * (1.0 + y.abs()),
                        "{n_rows} {n} {lambda} {mass}: {x} {y}"
                    );
                }
                // A quarter of five is one.
                let first_recent = n - recent.min(n / 4);
                assert_eq!(found.values[first_recent * d..], values[first_recent * d..n * d]);
                let after = RefitHead { values: Rows::new(&found.values, d), logit_bias: Some(fitted), ..stored };
                let (before, after) = (residual(queries, full, stored), residual(queries, full, after));
                assert!(mass || after < before, "{n_rows} {n} {lambda} {mass}: {before} to {after}");
            }
        }
        assert!(n_taken_back <= 2, "{n_taken_back} of 16");
    }

    #[test]
    fn what_does_not_carry_over_is_taken_back() {
        // The queries that are solved on see one of two halves of the head, those that are checked the other one.
        let (n_rows, d) = (32, 2);
        let (solved_on, checked) = split(&attending(Rows::new(&[0.0; 64], d), head(&[0.0; 16], &[0.0; 16], d)), 1, 0);
        assert_eq!((solved_on.len() + checked.len(), checked.len()), (n_rows, 2));
        let keys = [9.0, 0.0, 9.0, 0.0, 0.0, 9.0, 0.0, 9.0].repeat(2);
        let values = [1.0, 0.0, 5.0, 0.0, 1.0, 0.0, -3.0, 0.0].repeat(2);
        let full = head(&keys, &values, d);
        let (stored_keys, stored_values) = ([4.5, 4.5], [1.0, 0.0]);
        let stored = head(&stored_keys, &stored_values, d);
        let fitted = |seen_by_checked: [f32; 2]| {
            let mut queries = vec![0f32; n_rows * d];
            solved_on.iter().for_each(|row| queries[row * d..][..d].copy_from_slice(&[3.0, 0.0]));
            checked.iter().for_each(|row| queries[row * d..][..d].copy_from_slice(&seen_by_checked));
            refit_slots(&attending(Rows::new(&queries, d), full), stored, refit(0, 0.03, false)).unwrap().values
        };
        // The first half gives 3, which the slot becomes, up to the ridge; the second half gives -1, which 3 is farther from than 1.
        assert!((fitted([3.0, 0.0])[0] - 3.0).abs() < 0.2);
        assert_eq!(fitted([0.0, 3.0]), stored_values);
    }

    #[test]
    fn a_whole_head_is_left_as_it_is() {
        let (keys, values, queries) = (noise(40 * 4, 1), noise(40 * 4, 2), noise(30 * 4, 3));
        let queries = Rows::new(&queries, 4);
        let whole = head(&keys, &values, 4);
        let found = refit_slots(&attending(queries, whole), whole, refit(0, 0.03, true)).unwrap();
        assert!(found.values.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-4));
        assert!(found.logit_bias.is_none_or(|biases| biases.iter().all(|bias| bias.abs() < 1e-4)));
        let broken = head(&[f32::NAN; 160], &values, 4);
        assert!(refit_slots(&attending(queries, whole), broken, refit(0, 0.03, false)).is_none());
    }
}
