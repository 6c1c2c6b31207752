//! H2O: half of the budget for the most recent tokens, half for those with the largest accumulated attention.

use serde::Deserialize;
use serde::Serialize;

use crate::merge::HeadPlan;
use crate::merge::MergeError;
use crate::merge::protect;
use crate::policy::HeadView;
use crate::policy::Needs;
use crate::policy::Policy;
use crate::policy::PolicyEntry;

pub(super) const ENTRY: PolicyEntry = PolicyEntry {
    name: "h2o",
    summary: "keeps the last B/2 tokens and the B/2 of largest accumulated attention",
    source: "Zhang et al. 2023, arXiv 2306.14048",
    build: |params| {
        let h2o: H2o = params.read()?;
        if !(0.0..=1.0).contains(&h2o.recent) {
            return Err(params.bad(format!("recent is a share of the budget in [0, 1], not {}", h2o.recent)));
        }
        Ok(Box::new(h2o))
    },
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct H2o {
    /// Share of the budget that goes to the most recent tokens.
    recent: f64,
}

impl Default for H2o {
    fn default() -> Self {
        Self { recent: 0.5 }
    }
}

impl Policy for H2o {
    fn needs(&self) -> Needs {
        Needs { mass: true, mass_window: None }
    }

    fn plan(&self, view: &HeadView<'_>, budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let n = view.n_slots();
        if budget_tokens >= n {
            return Ok(HeadPlan::identity(n));
        }
        let recent = (budget_tokens as f64 * self.recent) as usize;
        let kept = protect(view.mass, recent, budget_tokens - recent);
        Ok(HeadPlan::keep_marked(&kept))
    }

    fn params(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_half_and_heavy_half_of_an_odd_budget() {
        let mass = [0.1, 3.0, 0.2, 0.9, 0.3, 9.0, 0.1];
        let keys = [0.0; 7];
        let view = HeadView {
            layer: 0,
            kv_head: 0,
            n_kv_heads: 1,
            head_dim: 1,
            n_seen: 7,
            keys: &keys,
            mass: &mass,
            mass_window: &[],
            counts: None,
            logit_bias: None,
        };
        let plan = H2o::default().plan(&view, 5).unwrap();
        // Recent 2: tokens 5 and 6. Heavy 3 of the rest: 1, 3, 4.
        assert_eq!(plan.slots.iter().map(|s| s.pivot).collect::<Vec<_>>(), [1, 3, 4, 5, 6]);
    }
}
