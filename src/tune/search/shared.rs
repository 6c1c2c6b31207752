//! One threshold for all heads, as the paper has it: similar heads shrink more.

use crate::tune::search::SearchEntry;
use crate::tune::search::threshold;

pub(super) const ENTRY: SearchEntry = SearchEntry {
    name: "shared",
    summary: "one eps for all heads, so that the model keeps the budget on average",
    solve: |heads, kept_fraction| {
        let eps = threshold(heads.iter().flatten(), kept_fraction);
        vec![eps; heads.len()]
    },
};
