//! Keeps everything: the reference that all others are measured against.

use serde::Deserialize;

use crate::merge::HeadPlan;
use crate::merge::MergeError;
use crate::policy::HeadView;
use crate::policy::Needs;
use crate::policy::Policy;
use crate::policy::PolicyEntry;

pub(super) const ENTRY: PolicyEntry = PolicyEntry {
    name: "full",
    summary: "keeps every token",
    source: "Vaswani et al. 2017, arXiv 1706.03762",
    build: |params| {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct None {}
        params.read::<None>()?;
        Ok(Box::new(Full))
    },
};

#[derive(Debug)]
struct Full;

impl Policy for Full {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn sets_own_size(&self) -> bool {
        true
    }

    fn compresses(&self) -> bool {
        false
    }

    fn plan(&self, view: &HeadView<'_>, _: usize) -> Result<HeadPlan, MergeError> {
        Ok(HeadPlan::identity(view.n_slots()))
    }

    fn params(&self) -> serde_json::Value {
        serde_json::json!({})
    }
}
