//! Everything stays: the reference that all others are measured against.

use crate::merge::{HeadPlan, MergeError};
use crate::policy::fold::Fold;
use crate::policy::{HeadView, Part};

pub(super) const PART: Part<dyn Fold> = Part {
    name: "keep",
    summary: "everything stays",
    source: "Vaswani et al. 2017, arXiv 1706.03762",
    build: |_| Ok((Box::new(Keep), serde_json::json!({}))),
};

#[derive(Debug)]
struct Keep;

impl Fold for Keep {
    fn sets_own_size(&self) -> bool {
        true
    }

    fn compresses(&self) -> bool {
        false
    }

    fn plan(&self, view: &HeadView<'_>, _: &[f32], _: usize) -> Result<HeadPlan, MergeError> {
        Ok(HeadPlan::identity(view.n_slots()))
    }
}
