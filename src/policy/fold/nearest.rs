//! What does not stay is folded into the kept token whose key points most nearly the same way.

use serde::{Deserialize, Serialize};

use crate::math::{Rhs, Rows, dot, product, unit_factor};
use crate::merge::{HeadPlan, Kernel, MergeError, MergeRule, ValueRule, push_set};
use crate::policy::fold::Fold;
use crate::policy::fold::drop::Kept;
use crate::policy::part::joined;
use crate::policy::{HeadView, Needs, Part, SlotExtras};

pub(super) const PART: Part<dyn Fold> = Part {
    name: "nearest",
    summary: "the rest is folded into the kept tokens of most similar keys, those above eps= (kernel=, sigma=, variant=, recent=)",
    source: "Wan et al. 2024, arXiv 2406.13035. Differs: the threshold is fixed, and weights are those of the merge rules",
    build: |params| {
        let (kept, near) = (params.read::<Kept>()?, params.read::<Nearest>()?);
        kept.check(params)?;
        if !(-1.0..=1.0).contains(&near.eps) {
            return Err(params.bad(format!("eps is a cosine in [-1, 1], not {}", near.eps)));
        }
        Ok((Box::new(Folding { kept, near }), joined(near, kept)))
    },
};

/// Evicted keys whose similarities are held at a time.
const BLOCK: usize = 64;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Nearest {
    /// Similarity from which on a token is folded; others are dropped.
    eps: f64,
    #[serde(flatten)]
    rule: MergeRule,
}

impl Default for Nearest {
    /// Kept keys stay, values are weighed by attention mass.
    fn default() -> Self {
        Self { eps: 0.0, rule: MergeRule::new(Kernel::KeyFixed, ValueRule::Mass) }
    }
}

#[derive(Debug)]
struct Folding {
    kept: Kept,
    near: Nearest,
}

impl Fold for Folding {
    fn needs(&self) -> Needs {
        Needs::MASS
    }

    fn folds(&self) -> bool {
        self.near.rule.folds()
    }

    fn slot_extras(&self) -> SlotExtras {
        SlotExtras::of(&self.near.rule)
    }

    /// - Cost: O(T · slots · D)
    fn plan(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let marked = self.kept.marked(worth, budget_tokens);
        let (kept, gone): (Vec<u32>, Vec<u32>) = (0..marked.len() as u32).partition(|slot| marked[*slot as usize]);
        let mut sets: Vec<Vec<u32>> = kept.iter().map(|slot| vec![*slot]).collect();
        let mut lowest: Option<f32> = None;
        for (slot, (place, similarity)) in gone.iter().zip(nearest(view.keys, &gone, &kept)) {
            if f64::from(similarity) >= self.near.eps {
                sets[place].push(*slot);
                lowest = Some(lowest.map_or(similarity, |least| least.min(similarity)));
            }
        }
        let mut plan = HeadPlan { lowest_joined: lowest, ..HeadPlan::default() };
        for set in &sets {
            push_set(&mut plan, view.slots(), set, 0, &self.near.rule);
        }
        Ok(plan)
    }
}

/// Of each of `from` the place in `to` of the key with the largest cosine, the first of equals, and that cosine; minus
/// infinity for keys without direction.
pub(super) fn nearest(keys: Rows<'_>, from: &[u32], to: &[u32]) -> Vec<(usize, f32)> {
    let unit = |slots: &[u32]| -> Vec<f32> {
        let rows = slots.iter().map(|slot| keys.row(*slot as usize));
        rows.flat_map(|key| {
            let factor = unit_factor(dot(key, key)).unwrap_or(f32::NAN);
            key.iter().map(move |x| x * factor)
        })
        .collect()
    };
    let targets = unit(to);
    let mut found = Vec::with_capacity(from.len());
    for block in from.chunks(BLOCK) {
        let mut cosines = vec![0f32; block.len() * to.len()];
        product(&unit(block), &targets, &mut cosines, [block.len(), to.len(), keys.width()], Rhs::Transposed);
        found.extend(cosines.chunks_exact(to.len()).map(|row| {
            let start = (0, f32::NEG_INFINITY);
            row.iter().enumerate().fold(start, |best, (i, x)| if *x > best.1 { (i, x.min(1.0)) } else { best })
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_to_the_most_similar_kept_key_by_hand() {
        // Kept: 0 at 0° and 3 at 90°. 1 at 45° is as near to both: the first one's. 2 points away from 0 and across 3. 4 has no
        // direction.
        let keys = [2.0, 0.0, 1.0, 1.0, -1.0, 0.0, 0.0, 3.0, 0.0, 0.0];
        let mass = [4.0, 1.0, 0.5, 3.0, 0.1];
        let view = HeadView { mass: &mass, ..HeadView::new(Rows::new(&keys, 2)) };
        let fold = Folding { kept: Kept::default(), near: Nearest { eps: -1.0, ..Nearest::default() } };
        let plan = fold.plan(&view, &mass, 2).unwrap();
        let members = |slot: usize| plan.members_of(&plan.slots[slot]).iter().map(|m| m.source).collect::<Vec<_>>();
        assert_eq!((members(0), members(1)), (vec![0, 1], vec![3, 2]));
        assert_eq!(plan.check(5), Ok(()));
        let counters = plan.counters(5);
        assert_eq!((counters.kept, counters.merged, counters.evicted), (2, 2, 1));
        // Masses 4 + 1 and 3 + 0.5: logits rise by ln 5/4 and ln 7/6, values mix 4 : 1.
        assert!((plan.slots[0].logit_bias - 1.25f32.ln()).abs() < 1e-6);
        assert!((plan.slots[1].logit_bias - (3.5f32 / 3.0).ln()).abs() < 1e-6);
        assert!((plan.fold_values(Rows::new(&[1.0, 6.0, 0.0, 0.0, 0.0], 1))[0] - 2.0).abs() < 1e-6);
        // Above 0.5 only the first is alike.
        let strict = Folding { near: Nearest { eps: 0.5, ..fold.near }, ..fold };
        assert_eq!(strict.plan(&view, &mass, 2).unwrap().counters(5).evicted, 2);
    }
}
