//! KVMerger's own protected tokens and pivots, with everything else dropped instead of merged.
//!
//! The control that tells what merging adds to the selection it comes with.

use crate::merge::{HeadPlan, MergeError, MergeRule};
use crate::policy::fold::Fold;
use crate::policy::fold::sets::Division;
use crate::policy::{HeadView, Needs, Part};

pub(super) const PART: Part<dyn Fold> = Part {
    name: "pivots",
    summary: "of every run of similar neighbours the pivot stays (eps=, bridge=, recent=, heavy=)",
    source: "a control for Wang et al. 2024, arXiv 2407.08454",
    build: |params| {
        let (division, fields) = Division::read(params)?;
        Ok((Box::new(Pivots(division)), fields))
    },
};

#[derive(Debug)]
struct Pivots(Division);

impl Fold for Pivots {
    fn needs(&self) -> Needs {
        Needs::MASS
    }

    fn sets_own_size(&self) -> bool {
        self.0.sets_own_size()
    }

    fn plan(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        self.0.plan(view, worth, budget_tokens, &MergeRule::EVICT)
    }

    fn protected(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Option<Vec<bool>> {
        self.0.merging(view, worth, budget_tokens).ok().map(|merging| merging.protected)
    }
}
