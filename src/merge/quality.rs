//! What a plan does to a head's attention output, on queries that were kept.

use std::ops::Range;

use crate::math::{HeadProjection, Rhs, Rope, Rows, axpy, exp_shifted_sum, max, product, scale};
use crate::merge::attention::{normalise, weighted_sums};
use crate::merge::{HeadPlan, Refitted, Sampling, Slot};

/// One KV head's states in one sample: those of its last T tokens.
#[derive(Clone, Copy, Debug)]
pub struct HeadStates<'a> {
    /// Keys after RoPE, `[T, D]`.
    pub keys: Rows<'a>,
    /// Values, `[T, D]`.
    pub values: Rows<'a>,
    /// Position of the first of these tokens.
    pub first_position: usize,
    /// A query at position p sees positions above p - window; `None` for all.
    pub window: Option<usize>,
    /// Queries of the query heads of the group, one head behind the other, `[group · n_q, D]`.
    pub queries: Rows<'a>,
    /// Positions of the queries of a query head, `[n_q]`.
    pub query_positions: &'a [usize],
}

impl<'a> HeadStates<'a> {
    /// Queries of the first `end` tokens, of a drawn sample of those that are there, at positions behind these tokens.
    ///
    /// - Shape: `[tokens · group, D]`, the group's queries of a token side by side
    pub fn turned_queries(self, rope: &Rope, end: usize, sampling: Sampling) -> Vec<f32> {
        let n_kept = self.query_positions.len();
        let group = self.queries.len() / n_kept.max(1);
        let n_early = self.query_positions.partition_point(|position| *position < end);
        let n_skipped = self.query_positions[..n_early].partition_point(|position| *position < sampling.skip);
        let n_skipped = if n_skipped < n_early { n_skipped } else { 0 };
        let mut turned = Vec::new();
        for (place, ahead) in sampling.draw(group.max(1), n_early - n_skipped, 0) {
            let place = n_skipped + place;
            let first = turned.len();
            for head in 0..group {
                turned.extend_from_slice(self.queries.row(head * n_kept + place));
            }
            sampling.turn(rope, &mut turned[first..], end - self.query_positions[place], ahead);
        }
        turned
    }

    /// Every query that stands at one of the tokens, with its token's place, in their order.
    pub fn placed_queries(self) -> impl Iterator<Item = (usize, &'a [f32])> {
        let all = self.query_positions.iter().copied().cycle().zip(self.queries.iter());
        all.filter_map(move |(position, query)| Some((position.checked_sub(self.first_position)?, query)))
    }

    /// Places of the tokens that a query at a place sees.
    pub fn seen_from(self, place: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| (place + 1).saturating_sub(window));
        first..(place + 1).min(self.keys.len())
    }
}

/// A head's late queries, and their attention output over the whole head: what every plan is held against.
#[derive(Clone, Debug)]
pub struct OutputProbe<'a> {
    keys: Rows<'a>,
    values: Rows<'a>,
    /// Queries over √D, `[n, D]`.
    queries: Vec<f32>,
    /// Tokens that each query sees, `[n]`.
    seen: Vec<Range<usize>>,
    /// Largest logit of each query, `[n]`.
    shifts: Vec<f32>,
    /// exp(logit - shift) of every token, 0 of those that the query does not see, `[n, T]`.
    weights: Vec<f32>,
    /// Outputs over the whole head, `[n, D]`.
    full: Vec<f32>,
    /// ‖full‖², after the output projection where that is known.
    energy: f64,
    projection: Option<HeadProjection<'a>>,
}

impl<'a> OutputProbe<'a> {
    /// From the queries of the group at place `first_query` and later; `None` without one, or when their outputs are all zero.
    ///
    /// With `first_query` at the first token that a plan leaves alone, every merged slot lies wholly in the queries' past. With
    /// the output projection, all norms are those of what the outputs add to the residual stream.
    ///
    /// - Cost: O(group · n_q · T · D)
    pub fn new(states: HeadStates<'a>, first_query: usize, projection: Option<HeadProjection<'a>>) -> Option<Self> {
        let HeadStates { keys, values, .. } = states;
        let late = states.placed_queries().filter(|(place, _)| *place >= first_query);
        let (seen, queries): (Vec<Range<usize>>, Vec<&[f32]>) =
            late.map(|(place, query)| (states.seen_from(place), query)).unzip();
        let mut queries = queries.concat();
        scale(&mut queries, 1.0 / (keys.width() as f32).sqrt());
        let (n_rows, n_tokens) = (seen.len(), keys.len());
        let mut weights = vec![0f32; n_rows * n_tokens];
        product(&queries, keys.flat(), &mut weights, [n_rows, n_tokens, keys.width()], Rhs::Transposed);
        let mut shifts = Vec::with_capacity(n_rows);
        for (row, seen) in weights.chunks_exact_mut(n_tokens.max(1)).zip(&seen) {
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let row = &mut row[seen.clone()];
            let shift = max(row);
            exp_shifted_sum(row, shift);
            shifts.push(shift);
        }
        let full = outputs(weights.clone(), values, n_rows);
        let energy = squared_norm(&full, keys.width(), projection);
        let probe = Self { keys, values, queries, seen, shifts, weights, full, energy, projection };
        (energy > 0.0).then_some(probe)
    }

    /// ‖O_full‖² over all its queries.
    pub fn energy(&self) -> f64 {
        self.energy
    }

    /// Attention that every token receives from its queries, `[T]`: the sum of their softmax weights.
    pub fn attn_mass(&self) -> Vec<f32> {
        let mut mass = vec![0f32; self.keys.len()];
        for row in self.weights.chunks_exact(mass.len().max(1)) {
            axpy(1.0 / row.iter().sum::<f32>(), row, &mut mass);
        }
        mass
    }

    /// The most that any of its queries takes from a token: its softmax weight times the length of the token's value, `[T]` for as many
    /// tokens as there are lengths. The query heads of the group, in order, are shared out among the rows of `lengths`: one row for
    /// all, or one for each.
    ///
    /// - Cost: O(queries · T)
    pub fn largest_takes(&self, lengths: &[Vec<f32>]) -> Vec<f32> {
        let n_tokens = self.keys.len().max(1);
        let n_rows = self.seen.len() / lengths.len().max(1);
        let mut most = vec![0f32; lengths.first().map_or(0, Vec::len)];
        for (rows, lengths) in self.weights.chunks(n_rows.max(1) * n_tokens).zip(lengths) {
            for row in rows.chunks_exact(n_tokens) {
                let inverse = 1.0 / row.iter().sum::<f32>();
                for ((most, weight), length) in most.iter_mut().zip(row).zip(lengths) {
                    *most = most.max(weight * inverse * length);
                }
            }
        }
        most
    }

    /// ‖O_full - O_plan‖ / ‖O_full‖ over all its queries.
    ///
    /// - Unit: relative error, 0 when nothing changed
    /// - Cost: O(queries · slots · D)
    pub fn error(&self, plan: &HeadPlan) -> f64 {
        (self.squared_change(plan, None) / self.energy).sqrt()
    }

    /// ‖O_full - O_plan‖² over all its queries; what the plan does not name counts as dropped. The first slots have the values
    /// `[slots, D]` and biases of a refit where one is given.
    ///
    /// - Unit: squared norm of the attention output
    /// - Cost: O(queries · slots · D)
    pub fn squared_change(&self, plan: &HeadPlan, refitted: Option<&Refitted>) -> f64 {
        let (d, n_rows) = (self.keys.width(), self.seen.len());
        let (n_tokens, n_slots) = (self.keys.len(), plan.slots.len());
        let mut values = plan.fold_values(self.values);
        let mut biases: Vec<f32> = plan.slots.iter().map(|slot| slot.logit_bias).collect();
        if let Some(Refitted { values: new, logit_bias }) = refitted {
            values[..new.len()].copy_from_slice(new);
            logit_bias.iter().for_each(|new| biases[..new.len()].copy_from_slice(new));
        }
        let mut weights = vec![0f32; n_rows * n_slots];
        // A slot with a token's own key keeps the token's weight; what has a new key is scored anew.
        let is_own = |slot: &Slot| {
            let mut weighing = plan.members_of(slot).iter().filter(|member| member.key_weight != 0.0);
            let own = weighing.next().is_some_and(|m| m.source == slot.pivot && m.key_weight == 1.0);
            own && weighing.next().is_none()
        };
        let (own, new): (Vec<usize>, Vec<usize>) = (0..n_slots).partition(|slot| is_own(&plan.slots[*slot]));
        let places: Vec<(usize, usize, f32)> =
            own.iter().map(|slot| (*slot, plan.slots[*slot].pivot as usize, biases[*slot].exp())).collect();
        for (row, all) in weights.chunks_exact_mut(n_slots.max(1)).zip(self.weights.chunks_exact(n_tokens.max(1))) {
            for (slot, token, factor) in &places {
                row[*slot] = all[*token] * factor;
            }
        }
        if !new.is_empty() {
            let keys = plan.fold_keys(self.keys);
            let keys: Vec<f32> = new.iter().flat_map(|slot| &keys[slot * d..][..d]).copied().collect();
            let mut scores = vec![0f32; n_rows * new.len()];
            product(&self.queries, &keys, &mut scores, [n_rows, new.len(), d], Rhs::Transposed);
            let rows = weights.chunks_exact_mut(n_slots).zip(scores.chunks_exact(new.len()));
            for ((row, scores), (seen, shift)) in rows.zip(self.seen.iter().zip(&self.shifts)) {
                for (slot, score) in new.iter().zip(scores) {
                    if seen.contains(&(plan.slots[*slot].pivot as usize)) {
                        row[*slot] = (score + biases[*slot] - shift).exp();
                    }
                }
            }
        }
        let mut change = outputs(weights, Rows::new(&values, d), n_rows);
        change.iter_mut().zip(&self.full).for_each(|(found, full)| *found -= full);
        squared_norm(&change, d, self.projection)
    }
}

/// ‖x‖² of vectors `[n, D]`, one query head's behind the other's; after the output projection of each where that is given.
fn squared_norm(x: &[f32], d: usize, projection: Option<HeadProjection<'_>>) -> f64 {
    let Some(projection) = projection else {
        return x.iter().map(|x| f64::from(*x).powi(2)).sum();
    };
    let of_head = x.len() / projection.group();
    let norms = x
        .chunks_exact(of_head.max(1))
        .enumerate()
        .flat_map(|(head, x)| projection.squared_norms(Rows::new(x, d), head));
    norms.map(f64::from).sum()
}

/// Outputs `[n, D]` of weights `[n, slots]` that do not sum to 1 yet. A query that sees no slot has none.
fn outputs(mut weights: Vec<f32>, values: Rows<'_>, n_rows: usize) -> Vec<f32> {
    normalise(&mut weights, values.len());
    weighted_sums(&weights, values, n_rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Projections;
    use crate::merge::Member;

    /// Three tokens of D = 1, and one query head.
    fn states<'a>(keys: &'a [f32; 3], queries: &'a [f32], query_positions: &'a [usize]) -> HeadStates<'a> {
        let [keys, values, queries] = [keys, &[1.0, 2.0, 6.0], queries].map(|x| Rows::new(x, 1));
        HeadStates { keys, values, first_position: 0, window: None, queries, query_positions }
    }

    #[test]
    fn error_of_dropping_a_token_by_hand() {
        // D = 1, keys 0, values 1, 2, 6: a query at position 2 sees the mean, 3. Without token 1 it is 3.5.
        let states = states(&[0.0; 3], &[5.0, 5.0], &[0, 2]);
        let probe = OutputProbe::new(states, 2, None).unwrap();
        assert_eq!(probe.full, [3.0]);
        let error = probe.error(&HeadPlan::keep(vec![0, 2]));
        assert!((error - 0.5 / 3.0).abs() < 1e-6, "{error}");
        assert_eq!(probe.error(&HeadPlan::identity(3)), 0.0);
        assert!(OutputProbe::new(states, 3, None).is_none());
        // A bias of log 3 on token 0 makes its value count three times: (3·1 + 6) / 4.
        let mut plan = HeadPlan::keep(vec![0, 2]);
        plan.slots[0].logit_bias = 3f32.ln();
        assert!((probe.error(&plan) - 0.75 / 3.0).abs() < 1e-6);
        assert!((probe.squared_change(&plan, None) - 0.75f64.powi(2)).abs() < 1e-6 && probe.energy() == 9.0);
    }

    #[test]
    fn errors_count_by_what_the_projection_makes_of_them() {
        // Two query heads of D = 1 with projections of squared length 4 and 9. Without token 1 both outputs go from 3 to 3.5.
        let states = states(&[0.0; 3], &[5.0, 5.0], &[2]);
        let projections = Projections::new(vec![4.0, 9.0], 1);
        let probe = OutputProbe::new(states, 2, Some(projections.of_kv_head(0, 2))).unwrap();
        assert_eq!(probe.energy(), 4.0 * 9.0 + 9.0 * 9.0);
        let change = probe.squared_change(&HeadPlan::keep(vec![0, 2]), None);
        assert!((change - 13.0 * 0.25).abs() < 1e-5, "{change}");
    }

    #[test]
    fn a_merged_key_is_scored_anew() {
        // Keys 0, 1, 3, query 2 (D = 1): tokens 1 and 2 merged on 2 with equal weights have key 2 and value 4.
        let probe = OutputProbe::new(states(&[0.0, 1.0, 3.0], &[2.0], &[2]), 0, None).unwrap();
        let half = |source| Member { source, key_weight: 0.5, value_weight: 0.5 };
        let mut plan = HeadPlan::keep(vec![0]);
        plan.push(2, [half(1), half(2)], 0.0);
        let (a, b, c) = (1.0, 2f64.exp(), 6f64.exp());
        let full = (a + 2.0 * b + 6.0 * c) / (a + b + c);
        let found = (a + 4.0 * 4f64.exp()) / (a + 4f64.exp());
        assert!((probe.squared_change(&plan, None) - (full - found).powi(2)).abs() < 1e-5);
    }

    #[test]
    fn an_early_query_sees_its_past_only() {
        let states = states(&[0.0; 3], &[5.0, 5.0], &[0, 2]);
        let probe = OutputProbe::new(states, 0, None).unwrap();
        assert_eq!(probe.full, [1.0, 3.0]);
        let mass = probe.attn_mass();
        assert!(mass.iter().zip([4.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6));
        // Token 0 gone: the first query sees nothing, the second the mean of 2 and 6.
        let error = probe.error(&HeadPlan::keep(vec![1, 2]));
        assert!((error - (2.0f64 / 10.0).sqrt()).abs() < 1e-6, "{error}");
    }

    #[test]
    fn a_window_hides_what_lies_before_it() {
        // Tokens 5, 6 and 7 of a longer sample: with a window of 2 the query at 7 sees the values 2 and 6.
        let states = HeadStates { first_position: 5, window: Some(2), ..states(&[0.0; 3], &[5.0, 5.0], &[2, 7]) };
        let probe = OutputProbe::new(states, 2, None).unwrap();
        assert_eq!(probe.full, [4.0]);
        assert_eq!(probe.error(&HeadPlan::keep(vec![1, 2])), 0.0);
        // A merge on a token that the query does not see gives it nothing.
        let mut plan = HeadPlan::keep(vec![2]);
        plan.push(0, [0, 1].map(|source| Member { source, key_weight: 0.5, value_weight: 0.5 }), 0.0);
        plan.sort();
        assert!((probe.error(&plan) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn what_any_query_takes_at_most_by_hand() {
        // Two query heads at positions 0 and 2: the first query sees token 0 alone, the second a third of each.
        let probe = OutputProbe::new(states(&[0.0; 3], &[5.0; 4], &[0, 2]), 0, None).unwrap();
        let takes = |lengths: &[Vec<f32>], expected: [f32; 2]| {
            let found = probe.largest_takes(lengths);
            assert!(found.len() == 2 && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        };
        takes(&[vec![1.0, 2.0]], [1.0, 2.0 / 3.0]);
        takes(&[vec![1.0, 2.0], vec![6.0, 1.0]], [6.0, 2.0 / 3.0]);
    }
}
