//! Needles found by length and depth: the full cache, and what every policy loses against it.

use crate::format::evaluation::{Evaluation, NeedleCell, NeedleMap};
use crate::report::figure::Build;
use crate::report::heat::{Grid, Panels};
use crate::report::scale::Scale;
use crate::report::theme;
use crate::report::{Drawing, FigureEntry, ReportError};
use std::collections::BTreeSet;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "needle-grid",
    title: "Needles found, by length and depth",
    question: "Where in a long prompt does compression lose a fact?",
    reading: "The score of every policy, with the full cache's first: 1 where all needles are found, 0 where none is. Rows: \
              depth of the needle, percent of the text before it; columns: tokens of the prompt.",
    needs: "an evaluation with needle prompts",
    build: Build::Evaluation(build),
};

/// Policies in one drawing, beside the full cache.
const PANELS: usize = 3;

fn build(evaluation: &Evaluation) -> Result<Vec<Drawing>, ReportError> {
    let maps: Vec<&NeedleMap> = evaluation.needle.iter().filter(|map| !map.cells.is_empty()).collect();
    maps.chunks(PANELS).enumerate().map(|(i, maps)| drawing(evaluation, maps, i)).collect()
}

fn drawing(evaluation: &Evaluation, maps: &[&NeedleMap], index: usize) -> Result<Drawing, ReportError> {
    let place = |cell: &NeedleCell| (cell.depth_percent as usize, cell.length_tokens);
    let places = || maps.iter().flat_map(|map| &map.cells).map(place);
    let depths: Vec<usize> = places().map(|place| place.0).collect::<BTreeSet<_>>().into_iter().collect();
    let lengths: Vec<usize> = places().map(|place| place.1).collect::<BTreeSet<_>>().into_iter().collect();
    let grid = |title: String, map: &NeedleMap, value: fn(&NeedleCell) -> f64| {
        let at = |at| map.cells.iter().find(|cell| place(cell) == at).map(value).filter(|v| v.is_finite());
        let values = depths.iter().flat_map(|depth| lengths.iter().map(move |length| (*depth, *length))).map(at);
        Grid::new(title, (&depths, &lengths), values.collect(), (Scale::linear(0.0, 1.0), "Score"), 2)
    };
    let mut grids = vec![grid("full cache".into(), maps[0], |cell| cell.reference)];
    grids.extend(maps.iter().map(|map| grid(label(map), map, |cell| cell.candidate)));
    let n: usize = maps[0].cells.iter().map(|cell| cell.n).sum();
    let texts = theme::count(n, "text");
    let tokens =
        theme::count(maps[0].cells.iter().map(|cell| cell.n.saturating_mul(cell.length_tokens)).sum(), "token");
    let subtitle = format!("{} · {texts} with a needle · about {tokens}", evaluation.model.name);
    let name = if index == 0 { ENTRY.name.to_string() } else { format!("{}-{}", ENTRY.name, index + 1) };
    let axes = ("Depth of the needle, %", "Tokens of the prompt");
    let panels = Panels { grids, axes };
    panels.drawing(&name, ENTRY.title, subtitle)
}

/// A policy's name and budget.
fn label(map: &NeedleMap) -> String {
    let name = map.policy.strip_prefix("profile ").unwrap_or(&map.policy);
    let name = name.strip_suffix(".profile.json").unwrap_or(name);
    map.budget.map_or(name.into(), |budget| format!("{name}, {:.0} %", 100.0 * budget))
}
