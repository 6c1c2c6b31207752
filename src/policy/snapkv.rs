//! SnapKV: the last window of tokens, and those that the window's queries attend to most, after pooling over neighbours.

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
    name: "snapkv",
    summary: "keeps the last 32 tokens (window=) and those they attend to most, averaged over 5 neighbours (pool=)",
    source: "Li et al. 2024, arXiv 2404.14469",
    build: |params| {
        let snapkv: SnapKv = params.read()?;
        if snapkv.window == 0 || snapkv.pool.is_multiple_of(2) {
            return Err(params.bad("window must be at least 1 and pool odd"));
        }
        Ok(Box::new(snapkv))
    },
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SnapKv {
    window: usize,
    pool: usize,
}

impl Default for SnapKv {
    fn default() -> Self {
        Self { window: 32, pool: 5 }
    }
}

impl Policy for SnapKv {
    fn needs(&self) -> Needs {
        Needs { mass: false, mass_window: Some(self.window) }
    }

    fn plan(&self, view: &HeadView<'_>, budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let n = view.n_slots();
        if budget_tokens >= n {
            return Ok(HeadPlan::identity(n));
        }
        let window = self.window.min(budget_tokens);
        let mut scores = pooled(&view.mass_window[..n - window], self.pool);
        scores.resize(n, 0.0);
        let kept = protect(&scores, window, budget_tokens - window);
        Ok(HeadPlan::keep_marked(&kept))
    }

    fn params(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}

/// Average over `width` neighbours, with zeros beyond the ends, as `avg_pool1d` with padding counts them.
fn pooled(x: &[f32], width: usize) -> Vec<f32> {
    let half = width / 2;
    (0..x.len())
        .map(|i| x[i.saturating_sub(half)..(i + half + 1).min(x.len())].iter().sum::<f32>() / width as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_lets_neighbours_of_a_peak_in() {
        assert_eq!(pooled(&[3.0, 0.0, 6.0, 0.0], 3), [1.0, 3.0, 2.0, 2.0]);
        let mass = [0.0, 0.0, 9.0, 0.0, 0.0, 5.0, 0.0, 0.0];
        let keys = [0.0; 8];
        let view = HeadView {
            layer: 0,
            kv_head: 0,
            n_kv_heads: 1,
            head_dim: 1,
            n_seen: 8,
            keys: &keys,
            mass: &[],
            mass_window: &mass,
            counts: None,
            logit_bias: None,
        };
        let policy = SnapKv { window: 2, pool: 3 };
        // Pooled scores 0 3 3 3 1.67 1.67 for the six older tokens: 1, 2, 3 are in, then 4 before 5.
        let plan = policy.plan(&view, 6).unwrap();
        assert_eq!(plan.slots.iter().map(|s| s.pivot).collect::<Vec<_>>(), [1, 2, 3, 4, 6, 7]);
    }
}
