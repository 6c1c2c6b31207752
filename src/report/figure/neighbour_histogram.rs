//! Distribution of the cosines of neighbouring tokens.

use crate::format::analysis::DatasetAnalysis;
use crate::format::dump::State;
use crate::report::axes::Axis;
use crate::report::curves::{Curve, Curves};
use crate::report::figure::Build;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "neighbour-histogram",
    title: "Distribution of the cosine of neighbouring tokens",
    question: "How many neighbouring tokens are alike enough to merge?",
    reading: "Share of all neighbouring pairs of all heads whose cosine is higher, by data set. Where a curve meets the \
              reference threshold, its height is the share of pairs that can be merged at that threshold.",
    needs: "keys or values in the analysis",
    build: Build::Analysis(build),
};

/// The cosine that curves begin at: pairs below it are of no use to merging.
const LOWEST: f64 = 0.0;

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let states = pool::states(analysis);
    let curve = |(i, dataset): (usize, &DatasetAnalysis), state: State| {
        let bins = bins(dataset, state);
        let total = total(bins);
        let edge = |bin: usize| -1.0 + 2.0 * bin as f64 / bins.len() as f64;
        let above = |bin: usize| bins[bin..].iter().map(|n| *n as f64).sum::<f64>();
        let edges = (0..=bins.len()).filter(|bin| total > 0.0 && edge(*bin) >= LOWEST - 1e-9);
        let points = edges.map(|bin| (edge(bin), Some(100.0 * above(bin) / total))).collect();
        Curve::new(&dataset.dataset, theme::look(i), points)
    };
    let panel = |state: &State| {
        let curves = analysis.datasets.iter().enumerate().map(|dataset| curve(dataset, *state)).collect();
        (theme::state_title(*state), curves)
    };
    let panels: Vec<(String, Vec<Curve>)> = states.iter().map(panel).collect();
    if panels.iter().flat_map(|panel| &panel.1).all(|curve| curve.points.is_empty()) {
        return Ok(Vec::new());
    }
    let x = Axis::linear((LOWEST, 1.0), 5, "Cosine");
    let threshold = pool::reference_eps(analysis).filter(|eps| (x.low..=x.high).contains(&f64::from(*eps)));
    let y = Axis::linear((0.0, 100.0), 6, "Pairs above the cosine, %");
    let figure = Curves { panels, x, y, threshold, ..Curves::default() };
    Ok(vec![figure.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}

fn bins(dataset: &DatasetAnalysis, state: State) -> &[u64] {
    pool::of_state(dataset, state).map_or(&[][..], |s| &s.histogram)
}

fn total(bins: &[u64]) -> f64 {
    bins.iter().map(|n| *n as f64).sum()
}
