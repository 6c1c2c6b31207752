//! What does not stay raises the kept token of most similar key: its value enters by worth, its mass as a logit bias.

use serde::{Deserialize, Serialize};

use crate::merge::{HeadPlan, Member, MergeError};
use crate::policy::fold::Fold;
use crate::policy::fold::drop::Kept;
use crate::policy::fold::nearest::nearest;
use crate::policy::part::joined;
use crate::policy::{HeadView, Part, SlotExtras};

pub(super) const PART: Part<dyn Fold> = Part {
    name: "massfold",
    summary: "the rest is folded, by worth, into the kept tokens of most similar keys behind the first 4 (sinks=); what is worth 0 or less is dropped",
    source: "Gast 2026, MassFold (kvfold 0.1.1)",
    build: |params| {
        let (kept, own) = (params.read::<Kept>()?, params.read::<Own>()?);
        kept.check(params)?;
        Ok((Box::new(MassFold { kept, sinks: own.sinks }), joined(own, kept)))
    },
};

/// A token counts as this many times the one that it joins, at most: e to the 30th.
const MOST: f32 = 1.068_647_5e13;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Own {
    /// First tokens, which nothing is folded into.
    sinks: usize,
}

impl Default for Own {
    fn default() -> Self {
        Self { sinks: 4 }
    }
}

#[derive(Debug)]
struct MassFold {
    kept: Kept,
    sinks: usize,
}

impl Fold for MassFold {
    fn folds(&self) -> bool {
        true
    }

    fn slot_extras(&self) -> SlotExtras {
        SlotExtras { count: true, logit_bias: true, ..SlotExtras::default() }
    }

    /// A token of worth s that joins one of worth r counts as w = s / r of it: the value becomes (v + Σ w v') / (1 + Σ w), the
    /// logit rises by ln (1 + Σ w), the key stays. One that stays in any case is worth as much as the best other one.
    ///
    /// - Cost: O(T · slots · D)
    fn plan(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let marked = self.kept.marked(worth, budget_tokens);
        let (kept, gone): (Vec<u32>, Vec<u32>) = (0..marked.len() as u32).partition(|slot| marked[*slot as usize]);
        // Where only first tokens are kept, they take the rest.
        let n_sinks = kept.partition_point(|slot| (*slot as usize) < self.sinks);
        let n_sinks = if n_sinks < kept.len() { n_sinks } else { 0 };
        let best = worth.iter().copied().filter(|worth| worth.is_finite()).fold(0.0, f32::max);
        let mut sets: Vec<Vec<(u32, f32)>> = kept.iter().map(|slot| vec![(*slot, 1.0)]).collect();
        let mut lowest: Option<f32> = None;
        for (slot, (place, similarity)) in gone.iter().zip(nearest(view.keys, &gone, &kept[n_sinks..])) {
            let set = &mut sets[n_sinks + place];
            let weight = worth[*slot as usize] / worth[set[0].0 as usize].min(best);
            if weight > 0.0 && similarity.is_finite() {
                set.push((*slot, weight.min(MOST)));
                lowest = Some(lowest.map_or(similarity, |least| least.min(similarity)));
            }
        }
        let mut plan = HeadPlan { lowest_joined: lowest, ..HeadPlan::default() };
        for set in &sets {
            let total: f32 = set.iter().map(|(_, weight)| weight).sum();
            let pivot = set[0].0;
            let member = |(source, weight): &(u32, f32)| Member {
                source: *source,
                key_weight: f32::from(u8::from(*source == pivot)),
                value_weight: weight / total,
            };
            plan.push(pivot, set.iter().map(member), total.ln());
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn tokens_count_by_their_worth_by_hand() {
        // Kept: 0 (a sink, along x), 2 (along y), 4 (along x). 1 and 3 point along x, too: they join 4, not the sink.
        let keys = [1.0, 0.0, 2.0, 0.0, 0.0, 1.0, 3.0, 0.0, 1.0, 0.0];
        let worth = [f32::INFINITY, 0.5, 3.0, 1.0, 2.0];
        let view = HeadView::new(Rows::new(&keys, 2));
        let fold = MassFold { kept: Kept::default(), sinks: 1 };
        let plan = fold.plan(&view, &worth, 3).unwrap();
        assert_eq!(plan.check(5), Ok(()));
        // 1 counts a quarter of 4, 3 a half: 1.75 in all.
        assert_eq!(plan.slots.iter().map(|slot| slot.pivot).collect::<Vec<_>>(), [0, 2, 4]);
        let biases = [0.0, 0.0, 1.75f32.ln()];
        assert!(plan.slots.iter().zip(biases).all(|(slot, bias)| (slot.logit_bias - bias).abs() < 1e-6));
        let values = plan.fold_values(Rows::new(&[9.0, 4.0, 5.0, 2.0, 8.0], 1));
        for (found, wanted) in values.iter().zip([9.0, 5.0, (8.0 + 1.0 + 1.0) / 1.75]) {
            assert!((found - wanted).abs() < 1e-6, "{values:?}");
        }
        assert_eq!(plan.fold_keys(view.keys)[4..], [1.0, 0.0]);
        // What is worth nothing is dropped.
        let plan = fold.plan(&view, &[f32::INFINITY, 0.0, 3.0, -1.0, 2.0], 3).unwrap();
        assert_eq!((plan.counters(5).merged, plan.counters(5).evicted), (0, 2));
    }
}
