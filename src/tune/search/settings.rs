//! All heads of one size, each with the setting that suits it.

use crate::tune::curves::{Choice, Curves};
use crate::tune::search::{SearchEntry, Target};

pub(super) const ENTRY: SearchEntry =
    SearchEntry { name: "settings", summary: "one size for all heads, a setting for each", solve };

fn solve(curves: &Curves, target: Target) -> Option<Vec<Choice>> {
    (0..curves.n_heads()).map(|head| curves.best(head, target.units)).collect()
}
