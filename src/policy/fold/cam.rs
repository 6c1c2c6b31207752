//! CaM: what is evicted adds its value to the next tokens kept, at random in proportion to its attention.

use std::collections::{BTreeSet, BinaryHeap};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::merge::{Flow, HeadPlan, MergeError, heaviest};
use crate::policy::fold::Fold;
use crate::policy::fold::drop::Kept;
use crate::policy::part::joined;
use crate::policy::{HeadView, Needs, Part};

pub(super) const PART: Part<dyn Fold> = Part {
    name: "cam",
    summary: "tokens go one by one, and the next 32 that stay may share the value of each (merge=, seed=, recent=)",
    source: "Zhang et al. 2024, CaM: Cache Merging for Memory-efficient LLMs Inference, ICML 2024",
    build: |params| {
        let (kept, flow) = (params.read::<Kept>()?, params.read::<Sharing>()?);
        kept.check(params)?;
        if flow.merge == 0 {
            return Err(params.bad("merge is the number of tokens that share a value, at least 1"));
        }
        Ok((Box::new(Cam { kept, flow }), joined(flow, kept)))
    },
};

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Sharing {
    /// Next tokens that share an evicted value.
    merge: usize,
    seed: u64,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { merge: 32, seed: 0 }
    }
}

#[derive(Debug)]
struct Cam {
    kept: Kept,
    flow: Sharing,
}

impl Fold for Cam {
    fn needs(&self) -> Needs {
        Needs::MASS
    }

    fn folds(&self) -> bool {
        true
    }

    /// Tokens enter one by one behind the first `budget_tokens`, and the older one that is worth least goes; worth and masses are
    /// those at the time of planning. So what stays is what dropping would leave.
    fn plan(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let n = view.n_slots();
        let mut random = ChaCha8Rng::seed_from_u64(self.flow.seed);
        random.set_stream(view.random_stream());
        let n_recent = self.kept.n_recent(budget_tokens) as u32;
        // Places in falling order of worth: of equals the later one goes, as dropping keeps the earlier one.
        let order = heaviest(worth, n);
        let mut rank = vec![0u32; n];
        order.iter().zip(0..).for_each(|(token, place)| rank[*token as usize] = place);
        let budget = budget_tokens as u32;
        let mut kept: BTreeSet<u32> = (0..budget).collect();
        let mut older: BinaryHeap<u32> = (0..budget - n_recent).map(|token| rank[token as usize]).collect();
        let mut flows = Vec::new();
        for newest in budget..n as u32 {
            kept.insert(newest);
            older.push(rank[(newest - n_recent) as usize]);
            let Some(evicted) = older.pop().map(|place| order[place as usize]) else { continue };
            kept.remove(&evicted);
            let next = || kept.range(evicted..).take(self.flow.merge);
            let mass = view.mass[evicted as usize];
            let n_next = next().count() as f32;
            let mean = next().map(|token| view.mass[*token as usize]).sum::<f32>() / n_next;
            let probability = if mean > 0.0 { (mass / mean).clamp(0.0, 1.0) } else { f32::from(mass > 0.0) };
            // Drawn for every eviction, so that one head's masses do not shift its later draws.
            if random.random::<f32>() < probability {
                flows.extend(next().map(|token| Flow { from: evicted, to: *token, weight: 1.0 / n_next }));
            }
        }
        let mut plan = HeadPlan::keep(kept.into_iter().collect());
        plan.flows = flows;
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    fn plan(recent: f64, merge: usize, mass: &[f32], worth: &[f32], budget_tokens: usize) -> HeadPlan {
        let keys = vec![0.0; mass.len()];
        let view = HeadView { mass, ..HeadView::new(Rows::new(&keys, 1)) };
        let kept: Kept = serde_json::from_value(serde_json::json!({ "recent": recent })).unwrap();
        Cam { kept, flow: Sharing { merge, seed: 0 } }.plan(&view, worth, budget_tokens).unwrap()
    }

    fn pivots(plan: &HeadPlan) -> Vec<u32> {
        plan.slots.iter().map(|slot| slot.pivot).collect()
    }

    #[test]
    fn evicted_values_flow_to_the_next_kept_tokens_by_hand() {
        // One sink, budget 3. Token 3 enters, 1 goes; then 4 enters, 2 goes. Both outweigh what follows: certain flows.
        let worth = [f32::INFINITY, 1.0, 2.0, 3.0, 4.0];
        let found = plan(0.0, 2, &[9.0, 4.0, 3.0, 1.0, 1.0], &worth, 3);
        assert_eq!(pivots(&found), [0, 3, 4]);
        let flow = |from, to| Flow { from, to, weight: 0.5 };
        assert_eq!(found.flows, [flow(1, 2), flow(1, 3), flow(2, 3), flow(2, 4)]);
        // Values 0 1 2 3 4: 2 becomes 2.5, 3 becomes 3.5, then 3 takes 1.25 more and 4 takes 1.25.
        assert_eq!(found.fold_values(Rows::new(&[0.0, 1.0, 2.0, 3.0, 4.0], 1)), [0.0, 4.75, 5.25]);
        // Without mass nothing flows: that is streaming.
        let found = plan(0.0, 2, &[9.0, 0.0, 0.0, 1.0, 1.0], &worth, 3);
        assert_eq!((pivots(&found), found.flows.len()), (vec![0, 3, 4], 0));
    }

    #[test]
    fn by_mass_the_lightest_of_the_older_tokens_goes() {
        // Budget 4: with 5 there, 2 are recent. 4 enters: of 0, 1, 2 the lightest is 1. 5 enters: of 0, 2, 3 it is 3.
        let by_mass = |mass: &[f32]| pivots(&plan(0.5, 32, mass, mass, 4));
        assert_eq!(by_mass(&[5.0, 1.0, 3.0, 2.0, 0.1, 0.1]), [0, 2, 4, 5]);
        // Of equals the earlier one stays.
        assert_eq!(by_mass(&[5.0, 1.0, 1.0, 2.0, 0.1]), [0, 1, 3, 4]);
    }

    #[test]
    fn a_flow_comes_as_often_as_its_probability() {
        // Masses 1 and 4 take turns: the light ones go, each before a heavy one, so that a quarter of them flows.
        let mass: Vec<f32> = (0..2003).map(|i| if i % 2 == 0 { 1.0 } else { 4.0 }).collect();
        let found = plan(0.5, 1, &mass, &mass, 1001);
        let flows = found.flows.iter().filter(|flow| mass[flow.from as usize] == 1.0).count() as f64;
        let gone = (0..2003u32).filter(|i| mass[*i as usize] == 1.0 && !pivots(&found).contains(i)).count() as f64;
        assert!(gone > 400.0, "{gone}");
        assert!((flows / gone - 0.25).abs() < 0.08, "{flows} of {gone}");
    }
}
