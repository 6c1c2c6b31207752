//! KVMerger's own protected tokens and pivots, with everything else dropped instead of merged.
//!
//! The control that tells what merging adds to the selection it comes with.

use crate::policy::KvMerger;
use crate::policy::PolicyEntry;

pub(super) const ENTRY: PolicyEntry = PolicyEntry {
    name: "evict",
    summary: "keeps KVMerger's protected tokens and pivots and drops the rest",
    source: "a control for Wang et al. 2024, arXiv 2407.08454",
    build: |params| Ok(Box::new(KvMerger::from_params(params)?.evicting())),
};
