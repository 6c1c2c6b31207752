//! Needles found by length and depth: the full cache, and what every policy loses against it.

use std::collections::BTreeSet;

use crate::format::evaluation::Evaluation;
use crate::format::evaluation::NeedleCell;
use crate::format::evaluation::NeedleMap;
use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::heat::Grid;
use crate::report::heat::panels;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry<Evaluation> = FigureEntry {
    name: "needle-grid",
    title: "Needles found, by length and depth",
    question: "Where in a long prompt does compression lose a fact?",
    reading: "First panel: score with the full cache. Others: that score less the policy's, so that 0 loses nothing, 1 loses \
              every needle that the full cache finds, and less than 0 finds more. Rows: depth of the needle, percent of the \
              text before it; columns: tokens of the prompt.",
    needs: "an evaluation with needle prompts",
    build,
};

/// Policies in one drawing, beside the full cache.
const PANELS: usize = 3;

fn build(evaluation: &Evaluation) -> Result<Vec<Drawing>, ReportError> {
    let maps: Vec<&NeedleMap> = evaluation.needle.iter().filter(|map| !map.cells.is_empty()).collect();
    let drawings = maps.chunks(PANELS).enumerate().map(|(i, maps)| {
        let cells = || maps.iter().flat_map(|map| &map.cells);
        let lengths: Vec<usize> = cells().map(|cell| cell.length_tokens).collect::<BTreeSet<_>>().into_iter().collect();
        let depths: Vec<usize> =
            cells().map(|cell| cell.depth_percent as usize).collect::<BTreeSet<_>>().into_iter().collect();
        let grid = |title: String, map: &NeedleMap, value: fn(&NeedleCell) -> f64| Grid {
            title,
            values: depths
                .iter()
                .flat_map(|depth| lengths.iter().map(move |length| (*length, *depth)))
                .map(|(length, depth)| {
                    let found =
                        map.cells.iter().find(|c| (c.length_tokens, c.depth_percent as usize) == (length, depth));
                    found.map(value).filter(|v| v.is_finite())
                })
                .collect(),
            layers: depths.clone(),
            heads: lengths.clone(),
            range: (-1.0, 1.0),
            decimals: 2,
            columns: "Tokens of the prompt",
            rows: "Depth of the needle, %",
        };
        let mut grids = vec![grid("full cache".into(), maps[0], |cell| cell.reference)];
        grids.extend(maps.iter().map(|map| grid(label(map), map, |cell| cell.reference - cell.candidate)));
        let n: usize = maps[0].cells.iter().map(|cell| cell.n).sum();
        let subtitle =
            format!("{} · {} · full cache, and full cache less policy", evaluation.model.name, theme::count(n, "text"));
        let alt = maps.iter().map(|map| in_words(map)).collect::<Vec<_>>().join(" ");
        let name = if i == 0 { ENTRY.name.to_string() } else { format!("{}-{}", ENTRY.name, i + 1) };
        panels(&name, ENTRY.title, subtitle, grids, "Score, or difference of scores").alt(alt)
    });
    Ok(drawings.collect())
}

/// A policy's name and budget.
fn label(map: &NeedleMap) -> String {
    let name = map.policy.strip_prefix("profile ").unwrap_or(&map.policy);
    let name = name.strip_suffix(".profile.json").unwrap_or(name);
    map.budget.map_or(name.into(), |budget| format!("{name}, {:.0} %", 100.0 * budget))
}

fn in_words(map: &NeedleMap) -> String {
    let mean = |value: fn(&NeedleCell) -> f64| map.cells.iter().map(value).sum::<f64>() / map.cells.len() as f64;
    format!("{}: {:.3}, full cache {:.3}.", label(map), mean(|cell| cell.candidate), mean(|cell| cell.reference))
}
