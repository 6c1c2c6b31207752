//! Share of slots kept against the threshold.

use crate::format::analysis::DatasetAnalysis;
use crate::report::axes::{Axis, covering, extent};
use crate::report::curves::{Band, Curve, Curves, ends, values};
use crate::report::figure::Build;
use crate::report::pool;
use crate::report::pool::Measure;
use crate::report::theme;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "sparsity-eps",
    title: "Slots kept against the merging threshold",
    question: "How small does the cache become at which threshold, and how far do the heads differ?",
    reading: "Lines are means over all heads of a data set; the band holds the middle 80 % of heads of all data sets. \
              Protected tokens count as kept, so that no curve falls below their share.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build: Build::Analysis(build),
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let grid: Vec<(usize, f64)> =
        analysis.eps_grid.iter().map(|e| f64::from(*e)).enumerate().filter(|(_, e)| e.is_finite()).collect();
    let curve = |(i, dataset): (usize, &DatasetAnalysis)| {
        let with_sets = grid.iter().filter(|_| !dataset.sparsity.is_empty());
        let points = with_sets.map(|(at, eps)| (*eps, pool::mean(percent(dataset, *at)))).collect();
        Curve::new(&dataset.dataset, theme::look(i), points)
    };
    let curves: Vec<Curve> = analysis.datasets.iter().enumerate().map(curve).collect();
    let Some((first, last)) = extent(curves.iter().flat_map(|curve| &curve.points).map(|p| p.0)) else {
        return Ok(Vec::new());
    };
    let heads = |at| analysis.datasets.iter().flat_map(move |dataset| percent(dataset, at)).flatten();
    let band: Band = grid.iter().map(|(at, eps)| (*eps, pool::middle(heads(*at)))).collect();
    let (_, highest) = extent(ends(&curves).into_iter().map(|e| e.1).chain(values(&band))).unwrap_or((0.0, 200.0));
    let room = if last > first { 0.015 * (last - first) } else { 0.05 };
    let figure = Curves {
        x: Axis::linear((first - room, last + room), 10, "Threshold: neighbours above this cosine are merged"),
        y: Axis::linear(covering((0.0, 100.0), Some((0.0, highest)), (0.0, 200.0)), 6, "Slots kept, % of tokens"),
        panels: vec![(String::new(), curves)],
        band,
        band_name: "middle 80 % of heads, all data sets".into(),
        threshold: pool::reference_eps(analysis),
        shaded: None,
    };
    Ok(vec![figure.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}

/// Every head's slots kept in a data set at a threshold of the grid.
fn percent(dataset: &DatasetAnalysis, at: usize) -> impl Iterator<Item = Option<f64>> + use<> {
    pool::at_eps(dataset, Measure::Kept, at).into_values().map(|v| v.map(|v| 100.0 * v))
}
