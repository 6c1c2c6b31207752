//! Sizes where they save most: convex hulls under a Lagrangian.

use crate::tune::curves::{Choice, Curves, UNITS};
use crate::tune::hull::{allocate, lower_hull};
use crate::tune::search::{SearchEntry, Target};

pub(super) const ENTRY: SearchEntry =
    SearchEntry { name: "hull", summary: "a size and a setting for each head, by the hulls of their curves", solve };

fn solve(curves: &Curves, target: Target) -> Option<Vec<Choice>> {
    let sizes = sizes(curves, target)?;
    sizes.into_iter().enumerate().map(|(head, units)| curves.best(head, units)).collect()
}

/// Sizes of all heads.
pub(super) fn sizes(curves: &Curves, target: Target) -> Option<Vec<usize>> {
    let hulls: Vec<Vec<(usize, f64)>> = (0..curves.n_heads())
        .map(|head| {
            let measured = curves.sizes.iter().filter(|size| **size >= target.min_units);
            let best = |size: &usize| Some((*size, curves.cost(head, curves.best(head, *size)?)?));
            let mut points: Vec<(usize, f64)> = measured.filter_map(best).collect();
            points.push((UNITS, 0.0));
            lower_hull(&points)
        })
        .collect();
    allocate(&hulls, target.units * curves.n_heads())
}
