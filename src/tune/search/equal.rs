//! All heads of one size with one setting: what every baseline does.

use crate::tune::curves::{Choice, Curves};
use crate::tune::search::{SearchEntry, Target};

pub(super) const ENTRY: SearchEntry =
    SearchEntry { name: "equal", summary: "one setting and one size for all heads", solve };

fn solve(curves: &Curves, target: Target) -> Option<Vec<Choice>> {
    let of = |setting: usize| vec![Choice { setting, units: target.units }; curves.n_heads()];
    let all = (0..curves.n_settings()).filter_map(|setting| Some((curves.total(&of(setting))?, setting)));
    all.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, setting)| of(setting))
}
