//! Half-way between equal sizes and those of the hulls: less is trusted to curves that few samples gave.

use crate::tune::curves::{Choice, Curves};
use crate::tune::search::hull::sizes;
use crate::tune::search::{SearchEntry, Target};

pub(super) const ENTRY: SearchEntry = SearchEntry {
    name: "half",
    summary: "sizes half-way between equal ones and hull's, a setting for each head",
    solve,
};

fn solve(curves: &Curves, target: Target) -> Option<Vec<Choice>> {
    let mut rounds_up = false;
    let halved: Vec<usize> = sizes(curves, target)?
        .into_iter()
        .map(|units| {
            let sum = units + target.units;
            // Every second odd sum rounds up: their number is even, as the sum of all is.
            rounds_up ^= sum % 2 == 1;
            sum / 2 + usize::from(sum % 2 == 1 && rounds_up)
        })
        .collect();
    halved.into_iter().enumerate().map(|(head, units)| curves.best(head, units)).collect()
}
