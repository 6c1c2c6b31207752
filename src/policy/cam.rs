//! CaM: what is evicted adds its value to the next tokens kept, at random in proportion to its attention.

use std::collections::VecDeque;

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde::Serialize;

use crate::merge::Flow;
use crate::merge::HeadPlan;
use crate::merge::MergeError;
use crate::policy::Control;
use crate::policy::HeadView;
use crate::policy::Needs;
use crate::policy::Policy;
use crate::policy::PolicyEntry;
use crate::policy::SlotExtras;

pub(super) const ENTRY: PolicyEntry = PolicyEntry {
    name: "cam",
    summary: "evicts one token at a time (base=streaming or h2o) and adds its value to the next ones (merge=, seed=)",
    source: "Zhang et al. 2024, CaM: Cache Merging for Memory-efficient LLMs Inference, ICML 2024",
    build: |params| {
        let cam: Cam = params.read()?;
        if cam.merge == 0 {
            return Err(params.bad("merge is the number of tokens that share a value, at least 1"));
        }
        Ok(Box::new(cam))
    },
};

/// Who is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Base {
    /// The oldest token that is no sink.
    Streaming,
    /// The older half's token of least attention mass.
    H2o,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Cam {
    base: Base,
    /// First tokens that the streaming base keeps.
    sinks: usize,
    /// Next tokens that share an evicted value.
    merge: usize,
    seed: u64,
}

impl Default for Cam {
    fn default() -> Self {
        Self { base: Base::Streaming, sinks: 4, merge: 32, seed: 0 }
    }
}

impl Cam {
    /// Place in `kept` of the token that goes when one too many is there.
    fn victim(&self, kept: &VecDeque<u32>, mass: &[f32]) -> usize {
        match self.base {
            Base::Streaming => self.sinks.min(kept.len().saturating_sub(2)),
            Base::H2o => {
                let n_older = kept.len() - (kept.len() - 1) / 2;
                let of = |place: usize| mass[kept[place] as usize];
                // Of equals the later one goes, as H2O keeps the earlier one.
                (0..n_older).fold(0, |least, place| if of(place) <= of(least) { place } else { least })
            }
        }
    }
}

impl Policy for Cam {
    fn needs(&self) -> Needs {
        Needs { mass: true, mass_window: None }
    }

    fn control(&self) -> Option<Control> {
        Some(match self.base {
            Base::Streaming => Control { policy: "streaming", without: &["base", "merge", "seed"] },
            Base::H2o => Control { policy: "h2o", without: &["base", "merge", "seed", "sinks"] },
        })
    }

    fn slot_extras(&self) -> SlotExtras {
        SlotExtras { count: true, logit_bias: false }
    }

    /// Tokens enter one by one behind the first `budget_tokens`; the masses are those at the time of planning.
    fn plan(&self, view: &HeadView<'_>, budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let n = view.n_slots();
        if budget_tokens >= n {
            return Ok(HeadPlan::identity(n));
        }
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(view.random_stream());
        let mut kept: VecDeque<u32> = (0..budget_tokens as u32).collect();
        let mut flows = Vec::new();
        for newest in budget_tokens as u32..n as u32 {
            kept.push_back(newest);
            let place = self.victim(&kept, view.mass);
            let Some(evicted) = kept.remove(place) else { continue };
            let next = || kept.iter().skip(place).take(self.merge);
            let mass = view.mass[evicted as usize];
            let n_next = next().count() as f32;
            let mean = next().map(|token| view.mass[*token as usize]).sum::<f32>() / n_next;
            let probability = if mean > 0.0 { (mass / mean).clamp(0.0, 1.0) } else { f32::from(mass > 0.0) };
            // Drawn for every eviction, so that one head's masses do not shift its later draws.
            if random.random::<f32>() < probability {
                flows.extend(next().map(|token| Flow { from: evicted, to: *token, weight: 1.0 / n_next }));
            }
        }
        let mut plan = HeadPlan::keep(kept.into());
        plan.flows = flows;
        Ok(plan)
    }

    fn params(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cam: &Cam, mass: &[f32], budget_tokens: usize) -> HeadPlan {
        let n = mass.len();
        let keys = vec![0.0; n];
        let view = HeadView {
            layer: 0,
            kv_head: 0,
            n_kv_heads: 1,
            head_dim: 1,
            n_seen: n,
            keys: &keys,
            mass,
            mass_window: &[],
            counts: None,
            logit_bias: None,
        };
        cam.plan(&view, budget_tokens).unwrap()
    }

    fn pivots(plan: &HeadPlan) -> Vec<u32> {
        plan.slots.iter().map(|slot| slot.pivot).collect()
    }

    #[test]
    fn evicted_values_flow_to_the_next_kept_tokens_by_hand() {
        // One sink, budget 3. Token 3 enters, 1 goes; then 4 enters, 2 goes. Both outweigh what follows: certain flows.
        let cam = Cam { sinks: 1, merge: 2, ..Cam::default() };
        let found = plan(&cam, &[9.0, 4.0, 3.0, 1.0, 1.0], 3);
        assert_eq!(pivots(&found), [0, 3, 4]);
        let flow = |from, to| Flow { from, to, weight: 0.5 };
        assert_eq!(found.flows, [flow(1, 2), flow(1, 3), flow(2, 3), flow(2, 4)]);
        // Values 0 1 2 3 4: 2 becomes 2.5, 3 becomes 3.5, then 3 takes 1.25 more and 4 takes 1.25.
        assert_eq!(found.fold_values(&[0.0, 1.0, 2.0, 3.0, 4.0], 1), [0.0, 4.75, 5.25]);
        // Without mass nothing flows: that is streaming.
        let found = plan(&cam, &[9.0, 0.0, 0.0, 1.0, 1.0], 3);
        assert_eq!((pivots(&found), found.flows.len()), (vec![0, 3, 4], 0));
    }

    #[test]
    fn the_h2o_base_evicts_the_lightest_of_the_older_tokens() {
        // Budget 4: with 5 there, 2 are recent. 4 enters: of 0, 1, 2 the lightest is 1. 5 enters: of 0, 2, 3 it is 3.
        let cam = Cam { base: Base::H2o, ..Cam::default() };
        assert_eq!(pivots(&plan(&cam, &[5.0, 1.0, 3.0, 2.0, 0.1, 0.1], 4)), [0, 2, 4, 5]);
        // Of equals the earlier one stays.
        assert_eq!(pivots(&plan(&cam, &[5.0, 1.0, 1.0, 2.0, 0.1], 4)), [0, 1, 3, 4]);
    }

    #[test]
    fn a_flow_comes_as_often_as_its_probability() {
        // Masses 1 and 4 take turns: the light ones go, each before a heavy one, so that a quarter of them flows.
        let mass: Vec<f32> = (0..2003).map(|i| if i % 2 == 0 { 1.0 } else { 4.0 }).collect();
        let cam = Cam { sinks: 0, merge: 1, base: Base::H2o, ..Cam::default() };
        let found = plan(&cam, &mass, 1001);
        let flows = found.flows.iter().filter(|flow| mass[flow.from as usize] == 1.0).count() as f64;
        let gone = (0..2003u32).filter(|i| mass[*i as usize] == 1.0 && !pivots(&found).contains(i)).count() as f64;
        assert!(gone > 400.0, "{gone}");
        assert!((flows / gone - 0.25).abs() < 0.08, "{flows} of {gone}");
    }
}
