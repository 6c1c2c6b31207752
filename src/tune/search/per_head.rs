//! Every head meets the budget by itself: equal sizes, different thresholds.

use crate::tune::search::SearchEntry;
use crate::tune::search::threshold;

pub(super) const ENTRY: SearchEntry = SearchEntry {
    name: "per-head",
    summary: "an eps for every head, so that each keeps the budget on average",
    solve: |heads, kept_fraction| heads.iter().map(|samples| threshold(samples.iter(), kept_fraction)).collect(),
};
