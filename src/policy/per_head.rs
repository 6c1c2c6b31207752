//! What a profile says: a policy of its own for every KV head.

use std::sync::Arc;

use crate::format::profile::Profile;
use crate::format::scorer::Scorer;
use crate::merge::{HeadPlan, MergeError, Refit, Repetition, Sampling};
use crate::policy;
use crate::policy::{Claim, HeadView, Needs, Policy, PolicyError, SlotExtras};

/// One of several policies for each head.
#[derive(Debug)]
pub struct PerHead {
    /// As typed, with the policy; those that some head has.
    settings: Vec<(String, Box<dyn Policy>)>,
    /// By layer and KV head, a place in `settings`.
    of_head: Vec<usize>,
    refit: Option<Refit>,
}

impl PerHead {
    /// The policies of a checked profile's heads.
    ///
    /// - Errors: a setting that this version does not know, or that looks at another window, sample of queries, repetition or weights than the others
    pub fn from_profile(profile: &Profile) -> Result<Self, PolicyError> {
        Self::new(profile.heads.iter().map(|head| profile.policy_of(head)), profile.refit)
    }

    /// The same policy, as typed, for so many heads.
    pub(crate) fn uniform(spec: &str, n_heads: usize, refit: Option<Refit>) -> Result<Self, PolicyError> {
        Self::new(std::iter::repeat_n(spec.to_string(), n_heads), refit)
    }

    /// The policies of all heads, by layer and KV head, as they are typed.
    fn new(specs: impl Iterator<Item = String>, refit: Option<Refit>) -> Result<Self, PolicyError> {
        let mut settings: Vec<(String, Box<dyn Policy>)> = Vec::new();
        let mut of_head = Vec::new();
        for spec in specs {
            let known = settings.iter().position(|(known, _)| *known == spec);
            of_head.push(match known {
                Some(place) => place,
                None => {
                    let policy = policy::parse(&spec)?.1;
                    settings.push((spec, policy));
                    settings.len() - 1
                }
            });
        }
        let bad = |what| Err(PolicyError::BadParameter { policy: "profile", what });
        let windows: Vec<usize> = settings.iter().filter_map(|(_, policy)| policy.needs().mass_window).collect();
        if let Some(other) = windows.iter().find(|window| **window != windows[0]) {
            return bad(format!("heads look at windows of {} and of {other} queries", windows[0]));
        }
        let samples: Vec<Sampling> = settings.iter().filter_map(|(_, policy)| policy.needs().queries).collect();
        if samples.iter().any(|sample| *sample != samples[0]) {
            return bad("heads look at different samples of queries".into());
        }
        let repetitions: Vec<Repetition> =
            settings.iter().filter_map(|(_, policy)| policy.needs().repetition).collect();
        if repetitions.iter().any(|repetition| *repetition != repetitions[0]) {
            return bad("heads look at different repetitions of the prompt".into());
        }
        let learned: Vec<Arc<Scorer>> = settings.iter().filter_map(|(_, policy)| policy.needs().learned).collect();
        if learned.iter().any(|scorer| *scorer != learned[0]) {
            return bad("heads look at different weights".into());
        }
        Ok(Self { settings, of_head, refit })
    }

    /// The policy of a head.
    fn of(&self, view: &HeadView<'_>) -> Option<&dyn Policy> {
        let place = self.of_head.get(view.layer * view.n_kv_heads + view.kv_head)?;
        Some(self.settings[*place].1.as_ref())
    }

    /// Whether any head folds what it does not keep.
    pub fn merges(&self) -> bool {
        self.settings.iter().any(|(_, policy)| policy.control().is_some())
    }

    /// The same slots with nothing folded into them.
    pub fn evicting(&self) -> Result<Self, PolicyError> {
        let control = |(spec, policy): &(String, Box<dyn Policy>)| policy.control().unwrap_or(spec).to_string();
        let specs: Vec<String> = self.settings.iter().map(control).collect();
        Self::new(self.of_head.iter().map(|place| specs[*place].clone()), self.refit)
    }
}

impl Policy for PerHead {
    fn needs(&self) -> Needs {
        self.settings.iter().fold(Needs::default(), |needs, (_, policy)| needs.and(policy.needs()))
    }

    fn slot_extras(&self) -> SlotExtras {
        let of_heads = self.settings.iter().map(|(_, policy)| policy.slot_extras());
        of_heads.fold(SlotExtras::default(), SlotExtras::or).with(self.refit)
    }

    fn refit(&self) -> Option<Refit> {
        self.refit
    }

    /// A profile gives every head its size.
    fn claim(&self, view: &HeadView<'_>, given: usize) -> Claim {
        Claim { layer: view.layer, given, worth: Vec::new() }
    }

    fn sizes(&self, heads: &[Claim]) -> Vec<usize> {
        heads.iter().map(|head| head.given).collect()
    }

    fn worth(&self, view: &HeadView<'_>, budget_tokens: usize) -> Vec<f32> {
        self.of(view).map_or_else(|| vec![0.0; view.n_slots()], |policy| policy.worth(view, budget_tokens))
    }

    fn plan_by(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        // A profile covers every head of its model; one that it does not name stays whole.
        let whole = || Ok(HeadPlan::identity(view.n_slots()));
        self.of(view).map_or_else(whole, |policy| policy.plan_by(view, worth, budget_tokens))
    }

    fn protected(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Option<Vec<bool>> {
        self.of(view)?.protected(view, worth, budget_tokens)
    }

    fn params(&self) -> serde_json::Value {
        let specs: Vec<&str> = self.settings.iter().map(|(spec, _)| spec.as_str()).collect();
        serde_json::json!({ "settings": specs, "setting_of_head": self.of_head })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    fn of(specs: &[&str]) -> Result<PerHead, PolicyError> {
        PerHead::new(specs.iter().map(|spec| spec.to_string()), None)
    }

    #[test]
    fn each_head_plans_by_its_own_setting() {
        let policy = of(&["streaming:sinks=1", "h2o", "streaming:sinks=1"]).unwrap();
        assert_eq!((policy.settings.len(), policy.merges()), (2, false));
        let mass = [0.1, 3.0, 0.2, 0.9, 0.3];
        let kept = |kv_head| {
            let view = HeadView { kv_head, n_kv_heads: 3, mass: &mass, ..HeadView::new(Rows::new(&[0.0; 5], 1)) };
            let plan = policy.plan(&view, 2).unwrap();
            plan.slots.iter().map(|slot| slot.pivot).collect::<Vec<_>>()
        };
        assert_eq!([kept(0), kept(1), kept(2)], [[0, 4], [1, 4], [0, 4]]);
    }

    #[test]
    fn the_control_evicts_where_heads_merge() {
        let policy = of(&["kvmerger:variant=convex,recent=0.1", "h2o"]).unwrap();
        assert!(policy.merges());
        assert_eq!(policy.slot_extras(), SlotExtras { count: true, ..SlotExtras::default() });
        let control = policy.evicting().unwrap();
        assert_eq!(control.params()["settings"], serde_json::json!(["evict:recent=0.1", "h2o"]));
        assert!(!control.merges());
        assert!(of(&["snapkv:window=8", "snapkv:window=16"]).is_err());
        assert!(of(&["kvzip", "kvzip+"]).is_err() && of(&["kvzip", "massfold"]).is_ok());
        assert_eq!(of(&["snapkv:window=8", "h2o"]).unwrap().needs(), Needs { mass_window: Some(8), ..Needs::MASS });
    }
}
