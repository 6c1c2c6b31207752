//! How large merging sets are.

use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::Axis;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::lines::Curve;
use crate::report::plot::Plot;
use crate::report::plot::named;
use crate::report::pool;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "set-sizes",
    title: "Sizes of merging sets",
    question: "Are tokens merged in pairs or in long runs?",
    reading: "Share of all sets of a data set, over all heads, by the number of tokens in a set. Sets of one token are \
              tokens that stay as they are.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build,
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let bins = &analysis.set_size_bins;
    let mut curves = Vec::new();
    for (index, dataset) in analysis.datasets.iter().enumerate() {
        let mut sums = vec![0f64; bins.len()];
        for head in &dataset.sparsity {
            sums.iter_mut().zip(&head.sizes).for_each(|(sum, n)| *sum += *n as f64);
        }
        let total: f64 = sums.iter().sum();
        if total > 0.0 {
            let points = sums.iter().enumerate().map(|(bin, n)| (bin as f64, Some(100.0 * n / total))).collect();
            curves.push(Curve { name: dataset.dataset.clone(), look: theme::look(index), points });
        }
    }
    let (Some(eps), Some(ends), true) = (
        pool::reference_eps(analysis),
        extent(curves.iter().flat_map(|curve| &curve.points).filter_map(|point| point.1)),
        bins.len() < 100,
    ) else {
        return Ok(Vec::new());
    };
    let label = |(bin, first): (usize, &usize)| match bins.get(bin + 1) {
        Some(next) if *next == first + 1 => first.to_string(),
        Some(next) => format!("{first}–{}", next.saturating_sub(1)),
        None => format!("≥ {first}"),
    };
    let alt = curves.iter().map(in_words).collect::<Vec<_>>().join(" ");
    let plot = Plot {
        x: named(bins.iter().enumerate().map(label).collect(), "Tokens in a set"),
        y: Axis::linear((0.0, rounded(Some((0.0, ends.1)), (0.0, 100.0), 6).1), 6, "Share of the sets, %"),
        curves,
        bands: Vec::new(),
        more: Vec::new(),
        upright: Vec::new(),
    };
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(eps));
    Ok(vec![plot.drawing(ENTRY.name, &title, pool::subtitle(analysis), alt)])
}

fn in_words(curve: &Curve) -> String {
    let alone = curve.points.first().and_then(|point| point.1).unwrap_or_default();
    format!("{}: {alone:.1} % of the sets are of one token.", curve.name)
}
