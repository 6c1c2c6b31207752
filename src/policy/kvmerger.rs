//! KVMerger: protected tokens stay, runs of similar neighbours become one slot each.

use serde::Deserialize;

use crate::merge::HeadPlan;
use crate::merge::Kernel;
use crate::merge::MergeError;
use crate::merge::MergeRule;
use crate::merge::MergedSlots;
use crate::merge::Shares;
use crate::merge::Sigma;
use crate::merge::ValueRule;
use crate::merge::heavy_within;
use crate::merge::links;
use crate::merge::merge_sets;
use crate::merge::protect;
use crate::merge::sets_above;
use crate::merge::sets_for_budget;
use crate::policy::Control;
use crate::policy::HeadView;
use crate::policy::Needs;
use crate::policy::Params;
use crate::policy::Policy;
use crate::policy::PolicyEntry;
use crate::policy::PolicyError;
use crate::policy::SlotExtras;

pub(super) const ENTRY: PolicyEntry = PolicyEntry {
    name: "kvmerger",
    summary: "merges runs of similar neighbours (variant=, kernel=, sigma=, eps=, bridge=, recent=, heavy=)",
    source: "Wang, Jin, Yu, Zhang 2024, arXiv 2407.08454",
    build: |params| Ok(Box::new(KvMerger::from_params(params)?)),
};

/// What decides where chains are cut.
#[derive(Clone, Debug, PartialEq)]
enum Threshold {
    /// The budget: the most similar neighbours join until it is met.
    Budget,
    /// One eps for all heads.
    Fixed(f32),
}

/// The policy; see [`MergeRule`] for its choices.
#[derive(Clone, Debug)]
pub struct KvMerger {
    rule: MergeRule,
    /// Protected shares of the tokens seen; what is `None` is the paper's at the budget, as far as it lets the budget be met.
    recent: Option<f64>,
    heavy: Option<f64>,
    threshold: Threshold,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Typed {
    kernel: Kernel,
    sigma: Sigma,
    variant: ValueRule,
    bridge: bool,
    eps: Option<f32>,
    recent: Option<f64>,
    heavy: Option<f64>,
}

impl KvMerger {
    /// Reads and checks `key=value` parameters.
    pub fn from_params(params: &Params) -> Result<Self, PolicyError> {
        let typed: Typed = params.read()?;
        if let Some(eps) = typed.eps.filter(|eps| !(-1.0..=1.0).contains(eps)) {
            return Err(params.bad(format!("eps is a cosine in [-1, 1], not {eps}")));
        }
        let (recent, heavy) = (typed.recent.unwrap_or(0.0), typed.heavy.unwrap_or(0.0));
        if !(recent >= 0.0 && heavy >= 0.0 && recent + heavy <= 1.0) {
            return Err(params
                .bad(format!("recent = {recent} and heavy = {heavy} are shares of the tokens and sum to at most 1")));
        }
        Ok(Self {
            rule: MergeRule { kernel: typed.kernel, sigma: typed.sigma, variant: typed.variant, bridge: typed.bridge },
            recent: typed.recent,
            heavy: typed.heavy,
            threshold: typed.eps.map_or(Threshold::Budget, Threshold::Fixed),
        })
    }

    /// The same selection with everything but the pivots dropped.
    pub fn evicting(mut self) -> Self {
        self.rule.kernel = Kernel::Pivot;
        self
    }
}

impl Policy for KvMerger {
    fn needs(&self) -> Needs {
        Needs { mass: true, mass_window: None }
    }

    fn sets_own_size(&self) -> bool {
        self.threshold != Threshold::Budget
    }

    fn control(&self) -> Option<Control> {
        let without = &["kernel", "sigma", "variant"];
        (self.rule.kernel != Kernel::Pivot).then_some(Control { policy: "evict", without })
    }

    fn slot_extras(&self) -> SlotExtras {
        let folds = self.rule.kernel != Kernel::Pivot;
        let is_biased = matches!(self.rule.variant, ValueRule::LogCount | ValueRule::Mass);
        SlotExtras { count: folds, logit_bias: folds && is_biased }
    }

    fn plan(&self, view: &HeadView<'_>, budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let n = view.n_slots();
        let by_budget = self.threshold == Threshold::Budget;
        if by_budget && budget_tokens >= n {
            return Ok(HeadPlan::identity(n));
        }
        let kept_fraction = if by_budget { budget_tokens as f64 / view.n_seen as f64 } else { 0.5 };
        let paper = Shares::of_paper(kept_fraction);
        let shares = Shares { recent: self.recent.unwrap_or(paper.recent), heavy: self.heavy.unwrap_or(paper.heavy) };
        let (mut n_recent, mut n_heavy) = shares.counts(view.n_seen);
        if by_budget && self.recent.is_none() {
            // At least the newest token: 8 % of six are none.
            n_recent = n_recent.max(1).min(budget_tokens - 1);
        }
        if by_budget && self.heavy.is_none() {
            let (older, n_slots) = (&view.mass[..n.saturating_sub(n_recent)], budget_tokens.saturating_sub(n_recent));
            n_heavy = heavy_within(older, n_heavy, n_slots, self.rule.bridge);
        }
        let protected = protect(view.mass, n_recent, n_heavy);
        let (tokens, found) = links(view.keys, view.head_dim, &protected, self.rule.bridge);
        let sets = if let Threshold::Fixed(eps) = self.threshold {
            sets_above(tokens, &found, eps)
        } else {
            let n_protected = n_recent + n_heavy;
            let n_sets = budget_tokens
                .checked_sub(n_protected)
                .ok_or(MergeError::ProtectedExceedBudget { protected: n_protected, budget_tokens })?;
            sets_for_budget(tokens, &found, n_sets, n_protected)?
        };
        let merged = view.counts.map(|counts| MergedSlots { counts, logit_bias: view.logit_bias });
        let how = (self.rule.kernel, self.rule.sigma, self.rule.variant);
        Ok(merge_sets(view.keys, view.head_dim, (view.mass, merged), &protected, &sets, how))
    }

    fn params(&self) -> serde_json::Value {
        serde_json::json!({
            "rule": self.rule,
            "recent": self.recent,
            "heavy": self.heavy,
            "eps": match &self.threshold {
                Threshold::Budget => serde_json::Value::Null,
                // As typed: the shortest decimal that reads back as this f32.
                Threshold::Fixed(eps) => serde_json::json!(eps.to_string().parse::<f64>().ok()),
            },
        })
    }
}
