//! Searches, solved on curves within a target.

use crate::tune::SEARCHES;
use crate::tune::curves::{Choice, Curves, UNITS};
use crate::tune::search::{SearchEntry, Target};
use crate::tune::unit::Weights;

/// A search's solution.
#[derive(Clone, Debug)]
pub(super) struct Solution {
    pub entry: &'static SearchEntry,
    pub choices: Vec<Choice>,
    /// See [`crate::format::profile::Tried`].
    pub cross_validated: Option<f64>,
}

/// The target of a budget.
pub(super) fn target(budget: f64, min_share: f64) -> Target {
    let units = (budget * UNITS as f64).round() as usize;
    Target { units, min_units: ((units as f64 * min_share) as usize).max(1) }
}

/// What every search makes of the curves, those that meet the target.
///
/// With two halves of the samples, each search is solved on one and paid for on the other.
pub(super) fn solutions(
    searches: &[&'static SearchEntry],
    whole: &Curves,
    folds: Option<&[Curves; 2]>,
    target: Target,
    weights: &Weights,
) -> Vec<Solution> {
    let crossed = |entry: &SearchEntry| -> Option<f64> {
        let [a, b] = folds?;
        Some(b.total(&within(entry, a, target, weights)?)? + a.total(&within(entry, b, target, weights)?)?)
    };
    let plainest = SEARCHES.first().and_then(&crossed).filter(|cost| *cost > 0.0);
    searches
        .iter()
        .filter_map(|entry| {
            let choices = within(entry, whole, target, weights)?;
            let cross_validated = crossed(entry).zip(plainest).map(|(cost, plainest)| cost / plainest);
            Some(Solution { entry, choices, cross_validated })
        })
        .collect()
}

/// The search's solution at the target, or at the largest size below it that it finds whose slots weigh no more than the
/// target's share of a full cache.
fn within(entry: &SearchEntry, curves: &Curves, mut target: Target, weights: &Weights) -> Option<Vec<Choice>> {
    let most = target.units * curves.n_heads() * weights.full;
    let heaviest = weights.slots.iter().copied().max()?;
    while target.units > 0 {
        let choices = (entry.solve)(curves, target)?;
        let weight: usize = choices.iter().map(|choice| choice.units * weights.slots[choice.setting]).sum();
        if weight <= most {
            return Some(choices);
        }
        // Not less than what would do if all heads had the heaviest slots.
        target.units -= ((weight - most) / (curves.n_heads() * heaviest)).max(1).min(target.units);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavier_slots_leave_room_for_fewer_by_hand() {
        // Two heads; setting 1 costs less in both and its slots weigh 26 instead of 25.
        let head = vec![vec![Some(9.0), Some(8.0)], vec![Some(2.0), Some(1.0)]];
        let curves = Curves { sizes: vec![2000, 6000], costs: vec![head.clone(), head], utility: vec![None; 2] };
        let target = Target { units: 5000, min_units: 1000 };
        let units = |weights: Weights| -> Vec<(usize, usize)> {
            let choices = within(&SEARCHES[0], &curves, target, &weights).unwrap();
            choices.iter().map(|choice| (choice.setting, choice.units)).collect()
        };
        assert_eq!(units(Weights { full: 1, slots: vec![1, 1] }), [(1, 5000); 2]);
        // 2 · 5,000 · 25 = 250,000: 4,807 slots of 26 are 249,964, and 4,808 would be 250,016.
        assert_eq!(units(Weights { full: 25, slots: vec![25, 26] }), [(1, 4807); 2]);
        assert!(within(&SEARCHES[0], &curves, target, &Weights { full: 1, slots: vec![9, 9] }).is_none());
    }
}
