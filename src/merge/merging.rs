//! KVMerger's division of a head: what stays as it is, and which runs of neighbours become one slot.

use crate::math::Rows;
use crate::merge::{
    HeadPlan, Member, MergeError, MergeRule, MergingSets, Protection, Shares, SlotStates, heavy_within, links, pivot,
    protect, set_weights, sets_above, sets_for_budget,
};

/// A head's slots, divided: the protected ones, and the sets of all others.
#[derive(Clone, Debug, PartialEq)]
pub struct Merging {
    /// Whether a slot stays as it is, `[T]`.
    pub protected: Vec<bool>,
    /// What the others join to.
    pub sets: MergingSets,
}

impl Merging {
    /// The most similar neighbours join until the budget is met.
    ///
    /// What `protection` leaves open is the paper's share at the budget, as far as it lets the budget be met: at least the
    /// newest token, and no more heavy tokens than leave the budget within reach.
    ///
    /// - Shape: keys `[T, D]`, worth `[T]` (attention mass as published); `n_seen` tokens, more than T where slots were merged
    /// - Cost:  O(T·(D + log T))
    /// - Errors: shares that were asked for and do not fit the budget
    pub fn at_budget(
        keys: Rows<'_>,
        worth: &[f32],
        n_seen: usize,
        budget_tokens: usize,
        protection: Protection,
    ) -> Result<Self, MergeError> {
        let paper = Shares::of_paper(budget_tokens as f64 / n_seen as f64);
        let (mut n_recent, mut n_heavy) = protection.or(paper).counts(n_seen);
        if protection.recent.is_none() {
            // At least the newest token: 8 % of six are none.
            n_recent = n_recent.max(1).min(budget_tokens.saturating_sub(1));
        }
        if protection.heavy.is_none() {
            let older = &worth[..worth.len().saturating_sub(n_recent)];
            n_heavy = heavy_within(older, n_heavy, budget_tokens.saturating_sub(n_recent), protection.bridge);
        }
        let n_protected = n_recent + n_heavy;
        let n_sets = budget_tokens
            .checked_sub(n_protected)
            .ok_or(MergeError::ProtectedExceedBudget { protected: n_protected, budget_tokens })?;
        let protected = protect(worth, n_recent, n_heavy);
        let (tokens, found) = links(keys, &protected, protection.bridge);
        Ok(Self { sets: sets_for_budget(tokens, &found, n_sets, n_protected)?, protected })
    }

    /// All neighbours above a similarity join, as published; what `protection` leaves open is the paper's share at one half.
    ///
    /// - Shape: as [`Merging::at_budget`]
    /// - Cost:  O(T·D)
    pub fn above(keys: Rows<'_>, worth: &[f32], n_seen: usize, eps: f32, protection: Protection) -> Self {
        let (n_recent, n_heavy) = protection.or(Shares::of_paper(0.5)).counts(n_seen);
        let protected = protect(worth, n_recent, n_heavy);
        let (tokens, found) = links(keys, &protected, protection.bridge);
        Self { sets: sets_above(tokens, &found, eps), protected }
    }

    /// The plan that keeps the protected slots and folds every set onto its pivot, the member of largest worth.
    ///
    /// - Shape: worth `[T]`
    /// - Cost:  O(T·D)
    /// - Source: arXiv 2407.08454 algorithm 2
    pub fn plan(&self, slots: SlotStates<'_>, worth: &[f32], rule: &MergeRule) -> HeadPlan {
        let mut plan = HeadPlan::keep_marked(&self.protected);
        for set in self.sets.iter() {
            push_set(&mut plan, slots, set, pivot(set, worth), rule);
        }
        plan.sort();
        plan.lowest_joined = self.sets.lowest_joined;
        plan
    }
}

/// Adds a slot that a set folds to; `p` is the pivot's place in the set.
pub fn push_set(plan: &mut HeadPlan, slots: SlotStates<'_>, set: &[u32], p: usize, rule: &MergeRule) {
    let weights = set_weights(slots, set, p, rule);
    let members = set.iter().zip(weights.key.iter().zip(&weights.value));
    plan.push(
        set[p],
        members.map(|(source, (key, value))| Member { source: *source, key_weight: *key, value_weight: *value }),
        weights.logit_bias,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::{Kernel, ValueRule};

    /// Seven keys: 0 and 1 alike, 2 and 3 nearly, the rest apart.
    const KEYS: [f32; 14] = [1.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.1, 1.0, -1.0, 0.2, 0.3, -1.0, 1.0, 1.0];
    const MASS: [f32; 7] = [0.5, 0.4, 0.1, 0.3, 0.2, 0.1, 0.1];

    #[test]
    fn a_budget_joins_the_most_similar_neighbours_by_hand() {
        let keys = Rows::new(&KEYS, 2);
        // 5 of 7: the paper's 17 % and 12 % are one recent and one heavy token: 6, and 0, which leaves 1 without its twin.
        // Five tokens stay for three sets: the two best of the links 1-2 (cos 0), 2-3 (0.995), 3-4 (0.098), 4-5 (-0.47).
        let found = Merging::at_budget(keys, &MASS, 7, 5, Protection::default()).unwrap();
        assert_eq!(found.protected, [true, false, false, false, false, false, true]);
        assert_eq!(found.sets.iter().collect::<Vec<_>>(), [&[1][..], &[2, 3, 4], &[5]]);
        let slots = SlotStates::new(keys, &MASS);
        let plan = found.plan(slots, &MASS, &MergeRule::new(Kernel::Uniform, ValueRule::LogCount));
        assert_eq!(plan.slots.iter().map(|slot| slot.pivot).collect::<Vec<_>>(), [0, 1, 3, 5, 6]);
        assert!((plan.slots[2].logit_bias - 3f32.ln()).abs() < 1e-6);
        // The same slots, nothing folded.
        let evicted = found.plan(slots, &MASS, &MergeRule::EVICT);
        assert_eq!((evicted.slots.len(), evicted.counters(7).merged, evicted.counters(7).evicted), (5, 0, 2));
    }

    #[test]
    fn shares_that_were_asked_for_are_kept_to_or_refused() {
        let keys = Rows::new(&KEYS, 2);
        let half = Protection { recent: Some(0.5), heavy: Some(0.3), bridge: false };
        let error = Merging::at_budget(keys, &MASS, 7, 5, half).unwrap_err();
        assert_eq!(error, MergeError::ProtectedExceedBudget { protected: 6, budget_tokens: 5 });
        let none = Protection { recent: Some(0.0), heavy: Some(0.0), bridge: false };
        let one = Merging::at_budget(keys, &MASS, 7, 1, none).unwrap();
        assert_eq!(one.sets.iter().collect::<Vec<_>>(), [&[0, 1, 2, 3, 4, 5, 6]]);
        let above = Merging::above(keys, &MASS, 7, 0.75, none);
        assert_eq!(above.sets.iter().collect::<Vec<_>>(), [&[0, 1][..], &[2, 3], &[4], &[5], &[6]]);
    }
}
