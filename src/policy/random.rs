//! Tokens at random beside the recent ones: the control that any selection must beat.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde::Serialize;

use crate::merge::HeadPlan;
use crate::merge::MergeError;
use crate::merge::Shares;
use crate::policy::HeadView;
use crate::policy::Needs;
use crate::policy::Policy;
use crate::policy::PolicyEntry;

pub(super) const ENTRY: PolicyEntry = PolicyEntry {
    name: "random",
    summary: "keeps the recent tokens and others at random (seed=)",
    source: "a control, not a published method",
    build: |params| Ok(Box::new(params.read::<Random>()?)),
};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Random {
    seed: u64,
}

impl Policy for Random {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn plan(&self, view: &HeadView<'_>, budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let n = view.n_slots();
        if budget_tokens >= n {
            return Ok(HeadPlan::identity(n));
        }
        let (recent, _) = Shares::of_paper(budget_tokens as f64 / view.n_seen as f64).counts(view.n_seen);
        let recent = recent.clamp(1, budget_tokens);
        let mut older: Vec<u32> = (0..(n - recent) as u32).collect();
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(view.random_stream());
        older.shuffle(&mut random);
        older.truncate(budget_tokens - recent);
        older.extend((n - recent) as u32..n as u32);
        Ok(HeadPlan::keep(older))
    }

    fn params(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}
