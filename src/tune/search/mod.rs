//! Ways to choose a size and a setting for every head. Adding one is a file and a line in [`SEARCHES`].

mod equal;
mod half;
mod hull;
pub(super) mod lukv;
mod settings;

pub use lukv::LUKV;

use crate::tune::curves::{Choice, Curves};

/// What a search has to keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Size of a head when all are equal, of [`crate::tune::curves::UNITS`]; the sum over heads is this times their number.
    pub units: usize,
    /// Least size of a head.
    pub min_units: usize,
}

/// A line of the search table.
#[derive(Clone, Copy, Debug)]
pub struct SearchEntry {
    /// Name on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// One choice a head, or `None` when the target cannot be met.
    pub(super) solve: fn(&Curves, Target) -> Option<Vec<Choice>>,
}

/// Every search, the plainest first.
pub const SEARCHES: &[SearchEntry] = &[equal::ENTRY, settings::ENTRY, half::ENTRY, hull::ENTRY, lukv::ENTRY];

#[cfg(test)]
mod tests {
    use super::*;

    /// Three heads at sizes 1,000, 2,000 and 5,000: one that errs little, one much, one that only setting 1 suits.
    fn curves() -> Curves {
        let flat = vec![vec![Some(0.3), Some(0.4)], vec![Some(0.2), Some(0.3)], vec![Some(0.1), Some(0.2)]];
        let steep = vec![vec![Some(90.0), None], vec![Some(30.0), None], vec![Some(3.0), Some(2.0)]];
        let other = vec![vec![Some(9.0), Some(2.0)], vec![Some(8.0), Some(1.0)], vec![Some(7.0), Some(0.5)]];
        let utility = vec![None, Some(vec![0.1, 0.35, 0.15]), Some(vec![0.3, 0.9, 0.3])];
        Curves { sizes: vec![1000, 2000, 5000], costs: vec![flat, steep, other], utility }
    }

    #[test]
    fn every_search_meets_the_sum_and_the_richer_ones_cost_no_more() {
        let curves = curves();
        let target = Target { units: 2000, min_units: 1000 };
        let mut costs = Vec::new();
        for entry in SEARCHES {
            let choices = (entry.solve)(&curves, target).unwrap();
            assert_eq!(choices.iter().map(|choice| choice.units).sum::<usize>(), 6000, "{}", entry.name);
            assert!(choices.iter().all(|choice| choice.units >= 1000), "{}", entry.name);
            costs.push((entry.name, curves.total(&choices).unwrap()));
            let file = format!("{}/src/tune/search/{}.rs", env!("CARGO_MANIFEST_DIR"), entry.name);
            assert!(std::path::Path::new(&file).exists(), "{file}");
        }
        // Equal: setting 0 everywhere, as 1 does not reach 2,000 in the steep head: 0.2 + 30 + 8.
        // Settings: the other head takes setting 1: 0.2 + 30 + 1. Hull: sizes 1,000, 4,000, 1,000: the steep head's piece from
        // 2,000 to 5,000 is taken to two thirds: 0.3 + (30 - 2/3 · 28, read off setting 0's own line 30 - 2/3 · 27 = 12) + 2.
        assert_eq!(costs[0], ("equal", 38.2));
        assert_eq!(costs[1], ("settings", 31.2));
        assert!((costs[3].1 - (0.3 + 12.0 + 2.0)).abs() < 1e-9, "{costs:?}");
        assert!(costs[2].1 > costs[3].1 && costs[2].1 < costs[1].1, "{costs:?}");
    }

    #[test]
    fn what_no_setting_reaches_is_not_met() {
        let target = Target { units: 900, min_units: 500 };
        assert!(SEARCHES.iter().all(|entry| (entry.solve)(&curves(), target).is_none()));
    }
}
