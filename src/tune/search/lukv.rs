//! Sizes by what the queries to come would lose with the tokens that go: LU-KV's, for the first setting.

use crate::tune::curves::{Choice, Curves};
use crate::tune::search::{SearchEntry, Target};
use crate::tune::utility::whole;

/// The search of LU-KV's sizes.
pub const LUKV: &str = "lukv";

pub(super) const ENTRY: SearchEntry = SearchEntry {
    name: LUKV,
    summary: "LU-KV's sizes (arXiv 2602.08585) for the first setting, at least 1 % of the tokens each",
    solve,
};

fn solve(curves: &Curves, target: Target) -> Option<Vec<Choice>> {
    let choices: Vec<Choice> = sizes(curves, target)?.into_iter().map(|units| Choice { setting: 0, units }).collect();
    curves.total(&choices).map(|_| choices)
}

/// Sizes of all heads.
pub(in crate::tune) fn sizes(curves: &Curves, target: Target) -> Option<Vec<usize>> {
    Some(whole(&curves.utility_units(target.units)?, target.units * curves.n_heads()))
}
