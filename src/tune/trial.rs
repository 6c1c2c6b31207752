//! Trials, each with a name: results are found by what was tried, never by its place.

use crate::merge::Refit;
use crate::policy::Policy;

/// What is tried on a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrialKey {
    /// A setting at a size, for the curves.
    Grid {
        /// Place of the size.
        size: usize,
        /// Place of the setting.
        setting: usize,
    },
    /// A budget's solution.
    Tuned {
        /// Place of the budget.
        budget: usize,
        /// Place of the solution among the budget's.
        solution: usize,
    },
    /// The same slots as a budget's solution, nothing folded into them.
    Control {
        /// Place of the budget.
        budget: usize,
        /// Place of the solution among the budget's.
        solution: usize,
    },
    /// A budget's chosen solution, refitted with a ridge.
    Ridge {
        /// Place of the budget.
        budget: usize,
        /// Place of the ridge.
        ridge: usize,
    },
    /// A setting at the budget's share in every head.
    Equal {
        /// Place of the budget.
        budget: usize,
        /// Place of the setting.
        setting: usize,
    },
}

/// A policy at a size, and what it is tried as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial<'a> {
    /// What it is tried as.
    pub key: TrialKey,
    pub policy: &'a dyn Policy,
    /// Share of the slots that it may keep.
    pub share: f64,
    /// Refit of what stays; all trials of a sample look at the same queries for it.
    pub refit: Option<Refit>,
}

/// One result of each trial.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ByTrial<T>(Vec<(TrialKey, T)>);

impl<T> Default for ByTrial<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> FromIterator<(TrialKey, T)> for ByTrial<T> {
    fn from_iter<I: IntoIterator<Item = (TrialKey, T)>>(results: I) -> Self {
        Self(results.into_iter().collect())
    }
}

impl<T> ByTrial<T> {
    /// The result of a trial; `None` where it was not tried.
    pub fn get(&self, key: TrialKey) -> Option<&T> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, result)| result)
    }

    /// All trials, in the order in which they were tried.
    pub fn iter(&self) -> impl Iterator<Item = (TrialKey, &T)> {
        self.0.iter().map(|(key, result)| (*key, result))
    }

    /// Merges another head's or sample's results in, those of new trials from the default.
    pub fn update<U>(&mut self, other: &ByTrial<U>, mut with: impl FnMut(&mut T, &U))
    where
        T: Default,
    {
        for (place, (key, result)) in other.iter().enumerate() {
            // The same trials come in the same order; that is for speed only.
            let at = match self.0.get(place) {
                Some((known, _)) if *known == key => place,
                _ => self.0.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                    self.0.push((key, T::default()));
                    self.0.len() - 1
                }),
            };
            with(&mut self.0[at].1, result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_by_name_in_any_order() {
        let (a, b) = (TrialKey::Equal { budget: 0, setting: 1 }, TrialKey::Tuned { budget: 0, solution: 1 });
        let mut sums: ByTrial<i32> = ByTrial::default();
        sums.update(&[(a, 1), (b, 10)].into_iter().collect(), |sum, x: &i32| *sum += x);
        sums.update(&[(b, 20), (a, 2)].into_iter().collect(), |sum, x: &i32| *sum += x);
        assert_eq!((sums.get(a), sums.get(b)), (Some(&3), Some(&30)));
        assert_eq!(sums.get(TrialKey::Control { budget: 0, solution: 1 }), None);
        assert_eq!(sums.iter().map(|(_, x)| x).sum::<i32>(), 33);
    }
}
