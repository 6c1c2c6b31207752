//! Distribution of the cosines of neighbouring tokens.

use crate::format::analysis::DatasetAnalysis;
use crate::format::dump::State;
use crate::report::axes::{Axis, rounded};
use crate::report::curves::{Curve, Curves, Marks, ends};
use crate::report::figure::Build;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "neighbour-histogram",
    title: "Distribution of the cosine of neighbouring tokens",
    question: "How many neighbouring tokens are alike enough to merge?",
    reading: "Share of all neighbouring pairs of all heads in each bin, by data set. What lies at the right of the \
              reference threshold can be merged at that threshold.",
    needs: "keys or values in the analysis",
    build: Build::Analysis(build),
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let states = pool::states(analysis);
    let all = || states.iter().flat_map(|s| analysis.datasets.iter().map(|d| bins(d, *s)));
    let n_bins = all().map(<[u64]>::len).max().unwrap_or(0);
    // Bins that are empty in all panels are cut off at both ends.
    let used = |bin: &usize| all().any(|bins| bins.get(*bin).is_some_and(|n| *n as f64 > 2e-4 * total(bins)));
    let Some((first, last)) = (0..n_bins).find(used).zip((0..n_bins).rev().find(used)) else { return Ok(Vec::new()) };
    let edge = |bin: usize| -1.0 + 2.0 * bin as f64 / n_bins as f64;
    let curve = |(i, dataset): (usize, &DatasetAnalysis), state: State| {
        let bins = bins(dataset, state);
        let mut points = Vec::new();
        if total(bins) > 0.0 && bins.len() == n_bins {
            points.push((edge(first), Some(0.0)));
            for bin in first..=last {
                let percent = Some(100.0 * bins[bin] as f64 / total(bins));
                points.extend([(edge(bin), percent), (edge(bin + 1), percent)]);
            }
            points.push((edge(last + 1), Some(0.0)));
        }
        Curve { marks: Marks::Peak, ..Curve::new(&dataset.dataset, theme::look(i), points) }
    };
    let panel = |state: &State| {
        let curves = analysis.datasets.iter().enumerate().map(|dataset| curve(dataset, *state)).collect();
        (theme::state_title(*state), curves)
    };
    let panels: Vec<(String, Vec<Curve>)> = states.iter().map(panel).collect();
    let highest = ends(panels.iter().flat_map(|panel| &panel.1)).map_or(100.0, |ends| ends.1);
    let x = Axis::linear(rounded(Some((edge(first), edge(last + 1))), (-1.0, 1.0), 8), 5, "Cosine");
    let threshold = pool::reference_eps(analysis).filter(|eps| (x.low..=x.high).contains(&f64::from(*eps)));
    let y = Axis::from_zero(highest, 100.0, "Share of pairs, %");
    let figure = Curves { panels, x, y, threshold, ..Curves::default() };
    Ok(vec![figure.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}

fn bins(dataset: &DatasetAnalysis, state: State) -> &[u64] {
    pool::of_state(dataset, state).map_or(&[][..], |s| &s.histogram)
}

fn total(bins: &[u64]) -> f64 {
    bins.iter().map(|n| *n as f64).sum()
}
