//! What the queries to come would lose with the tokens that a head gives up, and the sizes at which all heads lose least: LU-KV's
//! curves.
//!
//! A token's utility is the most that any later query takes from it, attention times the length of its value. It says nothing of
//! what the other tokens gain when one goes, and nothing of a merge.

use crate::merge::HeadPlan;
use crate::tune::curves::UNITS;
use crate::tune::hull::{allocate, lower_hull};

/// Part of a head's tokens that stays at least.
const LEAST: f64 = 0.01;

/// What one head of one sample loses at every size.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct UtilityCurve {
    /// Lower hull of the utility that is lost, by slots that stay.
    hull: Vec<(usize, f64)>,
    /// Utility of all tokens.
    total: f64,
}

impl UtilityCurve {
    /// From every token's utility, and what a policy keeps of them: its plans at some sizes, the smallest first, `None` where it
    /// cannot be so small. Tokens go in the order in which the policy gives them up; between two sizes by what they are `worth`.
    /// What the smallest plan holds stays in any case if there is a smaller size that cannot be reached, and a hundredth of the
    /// tokens always.
    ///
    /// - Shape: utilities, worth `[T]`
    /// - Cost: O(T log T)
    /// - Source: arXiv 2602.08585
    pub fn new(utilities: &[f32], worth: &[f32], plans: &[Option<HeadPlan>]) -> Self {
        let n = utilities.len();
        let mut since = vec![plans.len(); n];
        for (place, plan) in plans.iter().enumerate().rev() {
            plan.iter().flat_map(|plan| &plan.slots).for_each(|slot| since[slot.pivot as usize] = place);
        }
        let smallest = plans.iter().flatten().next().map_or(n, |plan| plan.slots.len());
        let reached = if matches!(plans.first(), Some(Some(_))) { 0 } else { smallest };
        let n_sure = worth.iter().filter(|worth| **worth == f32::INFINITY).count();
        let least = ((n as f64 * LEAST).ceil() as usize).max(n_sure).max(reached).min(n);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| since[*a].cmp(&since[*b]).then(worth[*b].total_cmp(&worth[*a])));
        let mut lost = 0.0;
        let mut points = vec![(n, lost)];
        for (size, token) in order.iter().enumerate().skip(least).rev() {
            lost += f64::from(utilities[*token]);
            points.push((size, lost));
        }
        points.reverse();
        Self { hull: lower_hull(&points), total: utilities.iter().map(|x| f64::from(*x)).sum() }
    }
}

/// Slots per token of every head at each of some shares of all slots, `[share][head]`, where the least utility is lost, each layer's
/// sum of it counting the same; `None` where the heads' least sizes are more than that.
///
/// Slots are cut into [`UNITS`] here, so that every sum is exact.
pub(super) fn utility_shares(heads: &[UtilityCurve], n_kv_heads: usize, sizes: &[usize]) -> Vec<Option<Vec<f64>>> {
    let n_tokens = heads.first().and_then(|head| head.hull.last()).map_or(0, |point| point.0);
    let mut hulls = Vec::with_capacity(heads.len());
    for layer in heads.chunks(n_kv_heads) {
        let total: f64 = layer.iter().map(|head| head.total).sum();
        let scale = if total > 0.0 { 1.0 / total } else { 0.0 };
        hulls.extend(layer.iter().map(|head| -> Vec<(usize, f64)> {
            head.hull.iter().map(|(size, lost)| (size * UNITS, lost * scale)).collect()
        }));
    }
    let shares = |units: &usize| {
        let found = allocate(&hulls, units * n_tokens * heads.len())?;
        Some(found.into_iter().map(|size| size as f64 / (UNITS * n_tokens) as f64).collect())
    };
    sizes.iter().map(shares).collect()
}

/// Whole numbers nearest to `parts` whose sum is `total`: what rounding down leaves goes to the largest remainders, the first of
/// equals.
pub(super) fn whole(parts: &[f64], total: usize) -> Vec<usize> {
    // A part that is whole but for an error of its sum is whole.
    let mut wholes: Vec<usize> = parts.iter().map(|part| (part + 1e-6) as usize).collect();
    let mut by_rest: Vec<usize> = (0..parts.len()).collect();
    let rest = |i: usize| parts[i] - wholes[i] as f64;
    by_rest.sort_by(|a, b| rest(*b).total_cmp(&rest(*a)));
    let n_left = total.saturating_sub(wholes.iter().sum());
    by_rest.into_iter().take(n_left).for_each(|i| wholes[i] += 1);
    wholes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::heaviest;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn keeps(marks: &[u32], n: usize) -> Option<HeadPlan> {
        Some(HeadPlan::keep_marked(&(0..n as u32).map(|token| marks.contains(&token)).collect::<Vec<_>>()))
    }

    #[test]
    fn an_uneven_case_by_hand() {
        let of = |worth: &[f32], plans: &[_]| UtilityCurve::new(&[4.0, 1.0, 3.0, 8.0], worth, plans);
        // The policy keeps token 3 at any size and 0 beside it at 2; of the others 1 is worth less than 2. Lost at 4, 3, 2 and 1
        // slots: 0, 1, 1 + 3, 4 + 4.
        let head = of(&[0.5, 2.0, 3.0, 0.1], &[keeps(&[3], 4), keeps(&[0, 3], 4)]);
        assert_eq!(head, UtilityCurve { hull: vec![(1, 8.0), (2, 4.0), (3, 1.0), (4, 0.0)], total: 16.0 });
        // No smaller than the policy can be, and what is worth infinitely much stays.
        assert_eq!(of(&[0.5, 2.0, 3.0, 0.1], &[None, keeps(&[0, 3], 4)]).hull, head.hull[1..]);
        let sure = [f32::INFINITY, 1.0, f32::INFINITY, f32::INFINITY];
        assert_eq!(of(&sure, &[keeps(&[3], 4)]).hull, [(3, 1.0), (4, 0.0)]);
        // Another head of the layer loses 1, 2 and 13 in this order. Of eight slots three go: slopes from above are 1, 3, 4 and
        // 1, 2, 13, so 1, 1 and 2.
        let other = UtilityCurve::new(&[1.0, 2.0, 13.0, 0.0], &[1.0, 2.0, 3.0, 4.0], &[keeps(&[3], 4)]);
        assert_eq!(other.hull, [(1, 16.0), (2, 3.0), (3, 1.0), (4, 0.0)]);
        let shares = utility_shares(&[head, other], 2, &[6250, 1000]);
        assert_eq!(shares, [Some(vec![0.75, 0.5]), None]);
    }

    /// What a head loses with its worst tokens, by number of them, and the segments of its lower hull from there: at each corner the
    /// one of least slope, the longest of equals.
    fn segments(utilities: &[f32], worth: &[f32], most: usize) -> Vec<(f64, usize)> {
        let mut order: Vec<usize> = (0..worth.len()).collect();
        order.sort_by(|a, b| worth[*a].total_cmp(&worth[*b]));
        let lost = |m: usize| order[..m].iter().map(|token| f64::from(utilities[*token])).sum::<f64>();
        let (mut at, mut found) = (0, Vec::new());
        while at < most {
            let slope = |to: usize| (lost(to) - lost(at)) / (to - at) as f64;
            let to = (at + 1..=most).min_by(|a, b| slope(*a).total_cmp(&slope(*b)).then(b.cmp(a))).unwrap();
            found.push((slope(to), to - at));
            at = to;
        }
        found
    }

    #[test]
    fn sizes_are_those_of_segments_sorted_by_slope() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..40 {
            let (n_layers, n_kv_heads, n_tokens) =
                (random.random_range(1..4), random.random_range(1..4), random.random_range(2..60));
            let n_heads = n_layers * n_kv_heads;
            let mut draw =
                || -> Vec<f32> { (0..n_tokens).map(|_| random.random_range(0.0..1f32).powi(4)).collect::<Vec<_>>() };
            let heads: Vec<(Vec<f32>, Vec<f32>)> = (0..n_heads).map(|_| (draw(), draw())).collect();
            // No smaller than a tenth: that is reached, and what is below it not.
            let least = 1 + n_tokens / 10;
            let plans = |worth: &[f32]| [None, keeps(&heaviest(worth, least), n_tokens)];
            let curves: Vec<UtilityCurve> =
                heads.iter().map(|(u, worth)| UtilityCurve::new(u, worth, &plans(worth))).collect();
            let total = |head: usize| -> f64 {
                let first = head / n_kv_heads * n_kv_heads;
                heads[first..first + n_kv_heads].iter().flat_map(|(u, _)| u).map(|u| f64::from(*u)).sum()
            };
            let mut all: Vec<(f64, usize, usize)> = Vec::new();
            for (head, (utilities, worth)) in heads.iter().enumerate() {
                let of_head = segments(utilities, worth, n_tokens - least);
                all.extend(of_head.into_iter().map(|(slope, length)| (slope / total(head), head, length)));
            }
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            for units in [3000, 6500, 9000] {
                let share = units as f64 / UNITS as f64;
                let mut left = (1.0 - share) * (n_tokens * n_heads) as f64;
                let mut expected = vec![n_tokens as f64; n_heads];
                for (_, head, length) in &all {
                    let taken = left.min(*length as f64);
                    expected[*head] -= taken;
                    left -= taken;
                }
                let found = utility_shares(&curves, n_kv_heads, &[units]).remove(0);
                assert_eq!(found.is_none(), left > 1e-9, "{units} of {n_tokens} tokens, at least {least}");
                let Some(found) = found else { continue };
                let agree = found.iter().zip(&expected).all(|(a, b)| (a * n_tokens as f64 - b).abs() < 1e-3);
                assert!(agree, "{found:?} {expected:?}");
                assert!((found.iter().sum::<f64>() - share * n_heads as f64).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn wholes_take_the_largest_remainders() {
        assert_eq!(whole(&[1.5, 2.75, 0.75], 5), [1, 3, 1]);
        assert_eq!(whole(&[1.5, 2.75, 0.75], 4), [1, 3, 0]);
        assert_eq!(whole(&[2.0 - 1e-12, 3.0], 5), [2, 3]);
    }
}
