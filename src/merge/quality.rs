//! What a plan does to a head's attention output, on queries that were kept.

use crate::math::Rhs;
use crate::math::axpy;
use crate::math::exp_shifted_sum;
use crate::math::max;
use crate::math::product;
use crate::math::scale;
use crate::merge::HeadPlan;

/// One KV head's states in one sample.
#[derive(Clone, Copy, Debug)]
pub struct HeadStates<'a> {
    /// Numbers in a key.
    pub head_dim: usize,
    /// Keys after RoPE, `[T, D]`.
    pub keys: &'a [f32],
    /// Values, `[T, D]`.
    pub values: &'a [f32],
    /// Queries of each query head of the group, `[group][n_q, D]`.
    pub queries: &'a [Vec<f32>],
    /// Position of each query, `[n_q]`.
    pub query_positions: &'a [usize],
}

/// A head's late queries, and their attention output over the whole head: what every plan is held against.
#[derive(Clone, Debug)]
pub struct OutputProbe {
    head_dim: usize,
    /// Queries over √D, `[n, D]`.
    queries: Vec<f32>,
    positions: Vec<usize>,
    /// Outputs over the whole head, `[n, D]`.
    full: Vec<f32>,
    /// ‖full‖².
    total: f64,
}

impl OutputProbe {
    /// From the queries of the group at `first_query` and later; `None` without one, or when their outputs are all zero.
    ///
    /// With `first_query` at the first protected recent token, every merged slot lies wholly in the queries' past.
    ///
    /// - Cost: O(group · n_q · T · D)
    pub fn new(states: HeadStates<'_>, first_query: usize) -> Option<Self> {
        let head_dim = states.head_dim;
        let (mut queries, mut positions) = (Vec::new(), Vec::new());
        for of_head in states.queries {
            for (query, position) in of_head.chunks_exact(head_dim).zip(states.query_positions) {
                if *position >= first_query {
                    queries.extend_from_slice(query);
                    positions.push(*position);
                }
            }
        }
        scale(&mut queries, 1.0 / (head_dim as f32).sqrt());
        let mut probe = Self { head_dim, queries, positions, full: Vec::new(), total: 0.0 };
        let slots: Vec<usize> = (0..states.keys.len() / head_dim).collect();
        probe.full = probe.outputs(states.keys, states.values, &vec![0.0; slots.len()], &slots);
        probe.total = probe.full.iter().map(|x| f64::from(*x).powi(2)).sum();
        (probe.total > 0.0).then_some(probe)
    }

    /// ‖O_full - O_plan‖ / ‖O_full‖ over all its queries, for a plan of the head whose keys and values `[T, D]` these are.
    ///
    /// - Unit: relative error, 0 when nothing changed
    /// - Cost: O(queries · slots · D)
    pub fn error(&self, keys: &[f32], values: &[f32], plan: &HeadPlan) -> f64 {
        let bias: Vec<f32> = plan.slots.iter().map(|slot| slot.logit_bias).collect();
        let positions: Vec<usize> = plan.slots.iter().map(|slot| slot.pivot as usize).collect();
        let (keys, values) = (plan.fold_keys(keys, self.head_dim), plan.fold_values(values, self.head_dim));
        let outputs = self.outputs(&keys, &values, &bias, &positions);
        let squares: f64 = self.full.iter().zip(&outputs).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (squares / self.total).sqrt()
    }

    /// Attention outputs `[n, D]` over slots of rising position, each query seeing those up to its own.
    fn outputs(&self, keys: &[f32], values: &[f32], bias: &[f32], positions: &[usize]) -> Vec<f32> {
        let (n_rows, n_slots) = (self.positions.len(), positions.len());
        let mut scores = vec![0f32; n_rows * n_slots];
        let mut outputs = vec![0f32; n_rows * self.head_dim];
        product(&self.queries, keys, &mut scores, [n_rows, n_slots, self.head_dim], Rhs::Transposed);
        for (row, position) in scores.chunks_exact_mut(n_slots.max(1)).zip(&self.positions) {
            let n_visible = positions.partition_point(|p| p <= position);
            let (seen, hidden) = row.split_at_mut(n_visible);
            hidden.fill(0.0);
            axpy(1.0, bias, seen);
            let shift = max(seen);
            let sum = exp_shifted_sum(seen, shift);
            // A query that sees no slot has no output.
            scale(seen, if n_visible > 0 { 1.0 / sum } else { 0.0 });
        }
        product(&scores, values, &mut outputs, [n_rows, self.head_dim, n_slots], Rhs::Plain);
        outputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_dropping_a_token_by_hand() {
        // D = 1, keys 0, values 1, 2, 6: a query at position 2 sees the mean, 3. Without token 1 it is 3.5.
        let (keys, values, queries) = ([0.0; 3], [1.0, 2.0, 6.0], [vec![5.0, 5.0]]);
        let states =
            HeadStates { head_dim: 1, keys: &keys, values: &values, queries: &queries, query_positions: &[0, 2] };
        let probe = OutputProbe::new(states, 2).unwrap();
        assert_eq!(probe.full, [3.0]);
        let error = probe.error(&keys, &values, &HeadPlan::keep(vec![0, 2]));
        assert!((error - 0.5 / 3.0).abs() < 1e-6, "{error}");
        assert_eq!(probe.error(&keys, &values, &HeadPlan::identity(3)), 0.0);
        assert!(OutputProbe::new(states, 3).is_none());
        // A bias of log 3 on token 0 makes its value count three times: (3·1 + 6) / 4.
        let mut plan = HeadPlan::keep(vec![0, 2]);
        plan.slots[0].logit_bias = 3f32.ln();
        assert!((probe.error(&keys, &values, &plan) - 0.75 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn an_early_query_sees_its_past_only() {
        let (keys, values, queries) = ([0.0; 3], [1.0, 2.0, 6.0], [vec![5.0, 5.0]]);
        let states =
            HeadStates { head_dim: 1, keys: &keys, values: &values, queries: &queries, query_positions: &[0, 2] };
        let probe = OutputProbe::new(states, 0).unwrap();
        assert_eq!(probe.full, [1.0, 3.0]);
        // Token 0 gone: the first query sees nothing, the second the mean of 2 and 6.
        let error = probe.error(&keys, &values, &HeadPlan::keep(vec![1, 2]));
        assert!((error - (2.0f64 / 10.0).sqrt()).abs() < 1e-6, "{error}");
    }
}
