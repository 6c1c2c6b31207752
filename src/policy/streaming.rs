//! StreamingLLM: the first few tokens, which act as attention sinks, and the most recent ones.

use serde::Deserialize;
use serde::Serialize;

use crate::merge::HeadPlan;
use crate::merge::MergeError;
use crate::policy::HeadView;
use crate::policy::Needs;
use crate::policy::Policy;
use crate::policy::PolicyEntry;

pub(super) const ENTRY: PolicyEntry = PolicyEntry {
    name: "streaming",
    summary: "keeps the first 4 tokens (sinks=) and the last ones",
    source: "Xiao et al. 2023, arXiv 2309.17453",
    build: |params| Ok(Box::new(params.read::<Streaming>()?)),
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Streaming {
    sinks: usize,
}

impl Default for Streaming {
    fn default() -> Self {
        Self { sinks: 4 }
    }
}

impl Policy for Streaming {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn plan(&self, view: &HeadView<'_>, budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let n = view.n_slots();
        if budget_tokens >= n {
            return Ok(HeadPlan::identity(n));
        }
        // A budget smaller than the sinks still keeps the newest token, which the next query needs.
        let sinks = self.sinks.min(budget_tokens.saturating_sub(1));
        let first_recent = n - (budget_tokens - sinks);
        Ok(HeadPlan::keep((0..sinks).chain(first_recent..n).map(|i| i as u32).collect()))
    }

    fn params(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(n: usize, budget: usize) -> Vec<u32> {
        let keys = vec![0.0; n];
        let view = HeadView {
            layer: 0,
            kv_head: 0,
            n_kv_heads: 1,
            head_dim: 1,
            n_seen: n,
            keys: &keys,
            mass: &[],
            mass_window: &[],
            counts: None,
            logit_bias: None,
        };
        Streaming::default().plan(&view, budget).unwrap().slots.iter().map(|s| s.pivot).collect()
    }

    #[test]
    fn sinks_and_recent_fill_the_budget() {
        assert_eq!(kept(10, 7), [0, 1, 2, 3, 7, 8, 9]);
        assert_eq!(kept(10, 3), [0, 1, 9]);
        assert_eq!(kept(10, 1), [9]);
        assert_eq!(kept(3, 3), [0, 1, 2]);
    }
}
