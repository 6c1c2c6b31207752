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

/// What every search makes of the curves, those that meet the target, for each kind of heads by itself.
///
/// With two halves of the samples, each search is solved on one and paid for on the other.
pub(super) fn solutions(
    searches: &[&'static SearchEntry],
    whole: &Curves,
    folds: Option<&[Curves; 2]>,
    target: Target,
    (weights, kinds): (&Weights, &[Vec<usize>]),
) -> Vec<Solution> {
    let solve = |entry: &SearchEntry, curves: &Curves| -> Option<Vec<Choice>> {
        let mut choices = vec![Choice { setting: 0, units: 0 }; curves.n_heads()];
        for heads in kinds {
            let own = within(entry, &curves.of(heads), target, weights)?;
            heads.iter().zip(own).for_each(|(head, choice)| choices[*head] = choice);
        }
        Some(choices)
    };
    let crossed = |entry: &SearchEntry| -> Option<f64> {
        let [a, b] = folds?;
        Some(b.total(&solve(entry, a)?)? + a.total(&solve(entry, b)?)?)
    };
    let plainest = SEARCHES.first().and_then(&crossed).filter(|cost| *cost > 0.0);
    searches
        .iter()
        .filter_map(|entry| {
            let choices = solve(entry, whole)?;
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
    use crate::files::ModelIdentity;

    #[test]
    fn each_kind_of_layer_keeps_to_the_target() {
        // Layers 0 and 2 have a window; two heads each. Heads 2 and 3 of layer 1 cost most, and yet get no slots of the others.
        let model = ModelIdentity { windows: vec![Some(8), None, Some(8)], ..ModelIdentity::toy(3, 2, 2, 4) };
        let kinds = model.kinds();
        assert_eq!(kinds, [vec![0, 1, 4, 5], vec![2, 3]]);
        let head = |factor: f64| vec![vec![Some(9.0 * factor)], vec![Some(4.0 * factor)], vec![Some(factor)]];
        let costs = [1.0, 2.0, 90.0, 100.0, 3.0, 4.0].map(head).to_vec();
        let curves = Curves { sizes: vec![1000, 3000, 5000], costs, utility: vec![None; 3] };
        let target = Target { units: 3000, min_units: 1000 };
        let weights = Weights { full: 1, slots: vec![1] };
        let hull = SEARCHES.iter().filter(|entry| entry.name == "hull").collect::<Vec<_>>();
        let sum = |kinds: &[Vec<usize>], heads: &[usize]| -> usize {
            let solved = solutions(&hull, &curves, None, target, (&weights, kinds));
            heads.iter().map(|head| solved[0].choices[*head].units).sum()
        };
        assert_eq!((sum(&kinds, &kinds[0]), sum(&kinds, &kinds[1])), (12_000, 6000));
        assert!(sum(&[(0..6).collect()], &kinds[1]) > 6000);
    }

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
