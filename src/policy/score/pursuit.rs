//! Keys whose exponentials add up to the attention mass of queries: orthogonal matching pursuit.

use serde::{Deserialize, Serialize};

use crate::math::{axpy, dot, max, scale};
use crate::merge::{Attention, Sampling, heaviest};
use crate::policy::part::joined;
use crate::policy::score::{Score, read_sampling};
use crate::policy::{HeadView, Needs, Part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "pursuit",
    summary: "orthogonal matching pursuit of the mass that sampled queries give (queries=, span=, from=), step=4 keys at a time; for small budgets",
    source: "Zweiger et al. 2026, arXiv 2602.16284, its second way to choose keys",
    build: |params| {
        let (sampling, step) = (read_sampling(params)?, params.read::<Step>()?);
        if step.step == 0 {
            return Err(params.bad("step is at least 1"));
        }
        Ok((Box::new(Pursuit { sampling, step: step.step }), joined(sampling, step)))
    },
};

/// Least factor of a chosen key.
const LEAST_FACTOR: f64 = 1e-12;
/// Part of a key's own square that is added to it, so that keys which say the same can be told apart.
const RIDGE: f64 = 1e-9;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Step {
    /// Keys that are chosen between two fits.
    step: usize,
}

impl Default for Step {
    fn default() -> Self {
        Self { step: 4 }
    }
}

#[derive(Debug)]
struct Pursuit {
    sampling: Sampling,
    step: usize,
}

impl Score for Pursuit {
    fn needs(&self) -> Needs {
        Needs::queries(self.sampling)
    }

    /// No more keys are chosen than may stay.
    fn depends_on_budget(&self) -> bool {
        true
    }

    /// By the order in which keys are chosen; others are worth nothing.
    fn worth(&self, view: &HeadView<'_>, budget_tokens: usize) -> Vec<f32> {
        let n = view.n_slots();
        // Exponentials over the largest of a query: its weights over the largest of them.
        let of_block = |attention: &Attention| {
            let mut exponentials: Vec<f32> = attention.rows().flatten().copied().collect();
            for row in exponentials.chunks_exact_mut(n) {
                let most = max(row);
                scale(row, 1.0 / most);
            }
            exponentials
        };
        let rows = view.attending().weights(of_block).concat();
        let columns: Vec<f32> = (0..n).flat_map(|slot| rows[slot..].iter().step_by(n)).copied().collect();
        let mut worth = vec![0f32; n];
        for (place, slot) in pursue(&columns, n, budget_tokens, self.step).into_iter().enumerate() {
            worth[slot] = (n - place) as f32;
        }
        worth
    }
}

/// Columns, in the order of their choice, of which a sum with factors above 0 comes near to the sum of all.
///
/// - Shape: columns `[T, n]`, `n_columns` T → at most `most`
/// - Cost:  O(most · T · n / step + most² · n + most³)
fn pursue(columns: &[f32], n_columns: usize, most: usize, step: usize) -> Vec<usize> {
    let n = columns.len() / n_columns.max(1);
    let column = |i: usize| &columns[i * n..][..n];
    let mut target = vec![0f32; n];
    (0..n_columns).for_each(|i| axpy(1.0, column(i), &mut target));
    let mut residual = target.clone();
    let mut chosen: Vec<usize> = Vec::new();
    // Lower triangle of the chosen columns' products, row by row, and what makes them the target's.
    let (mut triangle, mut solved): (Vec<Vec<f64>>, Vec<f64>) = (Vec::new(), Vec::new());
    while chosen.len() < most.min(n_columns) {
        let mut alike: Vec<f32> = (0..n_columns).map(|i| dot(column(i), &residual)).collect();
        chosen.iter().for_each(|i| alike[*i] = f32::NEG_INFINITY);
        for i in heaviest(&alike, step.min(most.min(n_columns) - chosen.len())) {
            let i = i as usize;
            let product = |a: &[f32]| a.iter().zip(column(i)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let mut row: Vec<f64> = Vec::with_capacity(chosen.len() + 1);
            for (k, other) in chosen.iter().enumerate() {
                let known: f64 = row.iter().zip(&triangle[k]).map(|(a, b)| a * b).sum();
                row.push((product(column(*other)) - known) / triangle[k][k]);
            }
            let own = product(column(i));
            let left = own * (1.0 + RIDGE) - row.iter().map(|x| x * x).sum::<f64>();
            row.push(left.max(own * RIDGE).max(f64::MIN_POSITIVE).sqrt());
            let known: f64 = row.iter().zip(&solved).map(|(a, b)| a * b).sum();
            solved.push((product(&target) - known) / row[chosen.len()]);
            triangle.push(row);
            chosen.push(i);
        }
        let mut factors = solved.clone();
        for i in (0..factors.len()).rev() {
            factors[i] /= triangle[i][i];
            let (before, rest) = factors.split_at_mut(i);
            before.iter_mut().zip(&triangle[i]).for_each(|(x, row)| *x -= row * rest[0]);
        }
        residual.clone_from(&target);
        for (i, factor) in chosen.iter().zip(factors) {
            axpy(-factor.max(LEAST_FACTOR) as f32, column(*i), &mut residual);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_choice_is_what_the_first_one_leaves_by_hand() {
        // Columns (3, 1), (2, 2), (0, 2): the target is (5, 5), of which they give 20, 20, 10: the first of equals. With its
        // factor 20 / 10 = 2, (-1, 3) is left: of that 4 and 6.
        assert_eq!(pursue(&[3.0, 1.0, 2.0, 2.0, 0.0, 2.0], 3, 2, 1), [0, 2]);
        assert_eq!(pursue(&[3.0, 1.0, 2.0, 2.0, 0.0, 2.0], 3, 2, 2), [0, 1]);
    }

    /// Least squares by elimination on the normal equations, with the same ridge.
    fn factors(columns: &[Vec<f64>], chosen: &[usize], target: &[f64]) -> Vec<f64> {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut rows: Vec<Vec<f64>> = chosen
            .iter()
            .map(|i| {
                let mut row: Vec<f64> = chosen.iter().map(|j| product(&columns[*i], &columns[*j])).collect();
                row.push(product(&columns[*i], target));
                row
            })
            .collect();
        let n = chosen.len();
        (0..n).for_each(|i| rows[i][i] *= 1.0 + RIDGE);
        for i in 0..n {
            for other in 0..n {
                if other != i {
                    let factor = rows[other][i] / rows[i][i];
                    let row = rows[i].clone();
                    rows[other].iter_mut().zip(row).for_each(|(x, y)| *x -= factor * y);
                }
            }
        }
        (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
    }

    #[test]
    fn choices_are_those_of_a_plain_pursuit_in_f64() {
        let (t, n, most) = (23, 31, 11);
        let noise = |i: usize| ((i * 7919 + 104_729) % 1009) as f64 / 1009.0;
        let columns: Vec<Vec<f64>> =
            (0..t).map(|i| (0..n).map(|j| (3.0 * noise(i * n + j) * noise(i)).exp() - 0.9).collect()).collect();
        let flat: Vec<f32> = columns.iter().flatten().map(|x| *x as f32).collect();
        let target: Vec<f64> = (0..n).map(|j| columns.iter().map(|column| column[j]).sum()).collect();
        for step in [1, 4] {
            let (mut chosen, mut residual) = (Vec::new(), target.clone());
            while chosen.len() < most {
                let mut order: Vec<usize> = (0..t).filter(|i| !chosen.contains(i)).collect();
                let alike = |i: usize| columns[i].iter().zip(&residual).map(|(a, b)| a * b).sum::<f64>();
                order.sort_by(|a, b| alike(*b).total_cmp(&alike(*a)));
                let mut new = order[..step.min(most - chosen.len())].to_vec();
                new.sort_unstable();
                chosen.extend(new);
                residual.clone_from(&target);
                for (i, factor) in chosen.iter().zip(factors(&columns, &chosen, &target)) {
                    residual.iter_mut().zip(&columns[*i]).for_each(|(r, x)| *r -= factor.max(LEAST_FACTOR) * x);
                }
            }
            let mut found = pursue(&flat, t, most, step);
            // Within a step the order does not matter.
            found.chunks_mut(step).for_each(<[usize]>::sort_unstable);
            assert_eq!(found, chosen, "{step}");
        }
    }
}
