//! What a way of compressing does to a head's attention output, on the queries that the dump kept.

use crate::math::add_weighted_rows;
use crate::math::axpy;
use crate::math::dot_rows;
use crate::math::exp_shifted_sum;
use crate::math::max;
use crate::math::scale;
use crate::merge::HeadPlan;

/// One head's states in one sample.
#[derive(Clone, Copy)]
pub(super) struct HeadStates<'a> {
    /// Numbers in a key.
    pub head_dim: usize,
    /// Keys after RoPE, `[T, D]`.
    pub keys: &'a [f32],
    /// Values, `[T, D]`.
    pub values: &'a [f32],
    /// Queries of each query head of the group, `[group][n_q, D]`.
    pub queries: &'a [Vec<f32>],
    /// Position of each query.
    pub query_positions: &'a [usize],
}

/// Slots that a query attends to: `[n, D]` twice, a bias and a position each.
struct Slots {
    keys: Vec<f32>,
    values: Vec<f32>,
    bias: Vec<f32>,
    positions: Vec<usize>,
}

/// ‖O_full - O_plan‖ / ‖O_full‖ over all queries of the group at `first_query` and later; `None` without such a query.
///
/// Queries are taken from the protected recent tokens, so that every merged slot lies wholly in their past.
///
/// - Unit: relative error, 0 when nothing changed
/// - Cost: O(group · n_q · T · D)
pub(super) fn output_error(
    states: HeadStates<'_>,
    full: &[Vec<f32>],
    plan: &HeadPlan,
    first_query: usize,
) -> Option<f64> {
    let slots = Slots {
        keys: plan.fold_keys(states.keys, states.head_dim),
        values: plan.fold_values(states.values, states.head_dim),
        bias: plan.slots.iter().map(|slot| slot.logit_bias).collect(),
        positions: plan.slots.iter().map(|slot| slot.pivot as usize).collect(),
    };
    let compressed = outputs(states, &slots, first_query);
    let (mut difference, mut total) = (0f64, 0f64);
    for (a, b) in full.iter().flatten().zip(compressed.iter().flatten()) {
        difference += f64::from(a - b).powi(2);
        total += f64::from(*a).powi(2);
    }
    (total > 0.0).then(|| (difference / total).sqrt())
}

/// Outputs over the uncompressed head, `[group][queries · D]`.
pub(super) fn full_outputs(states: HeadStates<'_>, first_query: usize) -> Vec<Vec<f32>> {
    let n = states.keys.len() / states.head_dim;
    let slots = Slots {
        keys: states.keys.to_vec(),
        values: states.values.to_vec(),
        bias: vec![0.0; n],
        positions: (0..n).collect(),
    };
    outputs(states, &slots, first_query)
}

fn outputs(states: HeadStates<'_>, slots: &Slots, first_query: usize) -> Vec<Vec<f32>> {
    let head_dim = states.head_dim;
    let factor = 1.0 / (head_dim as f32).sqrt();
    states
        .queries
        .iter()
        .map(|queries| {
            let mut all = Vec::new();
            for (query, position) in queries.chunks_exact(head_dim).zip(states.query_positions) {
                if *position < first_query {
                    continue;
                }
                let n_visible = slots.positions.partition_point(|p| p <= position);
                let mut scores = vec![0f32; n_visible];
                dot_rows(&slots.keys, query, &mut scores);
                scale(&mut scores, factor);
                axpy(1.0, &slots.bias[..n_visible], &mut scores);
                let shift = max(&scores);
                let sum = exp_shifted_sum(&mut scores, shift);
                let mut output = vec![0f32; head_dim];
                add_weighted_rows(&slots.values, &scores, &mut output);
                scale(&mut output, 1.0 / sum);
                all.extend(output);
            }
            all
        })
        .collect()
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
        let full = full_outputs(states, 2);
        assert_eq!(full, [[3.0]]);
        let error = output_error(states, &full, &HeadPlan::keep(vec![0, 2]), 2).unwrap();
        assert!((error - 0.5 / 3.0).abs() < 1e-6, "{error}");
        assert_eq!(output_error(states, &full, &HeadPlan::identity(3), 2), Some(0.0));
        assert_eq!(output_error(states, &full_outputs(states, 3), &HeadPlan::identity(3), 3), None);
    }
}
