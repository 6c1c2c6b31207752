//! How large merging sets are.

use crate::report::axes::Axis;
use crate::report::curves::{Curve, Curves, ends};
use crate::report::figure::Build;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "set-sizes",
    title: "Sizes of merging sets",
    question: "Are tokens merged in pairs or in long runs?",
    reading: "Share of all sets of a data set, over all heads, by the number of tokens in a set. Sets of one token are \
              tokens that stay as they are.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build: Build::Analysis(build),
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
            curves.push(Curve::new(&dataset.dataset, theme::look(index), points));
        }
    }
    let (Some(eps), Some((_, highest)), true) = (pool::reference_eps(analysis), ends(&curves), bins.len() < 100) else {
        return Ok(Vec::new());
    };
    let label = |(bin, first): (usize, &usize)| match bins.get(bin + 1) {
        Some(next) if *next == first + 1 => first.to_string(),
        Some(next) => format!("{first}–{}", next.saturating_sub(1)),
        None => format!("≥ {first}"),
    };
    let figure = Curves {
        x: Axis::named(bins.iter().enumerate().map(label).collect(), "Tokens in a set"),
        y: Axis::from_zero(highest, 100.0, "Share of the sets, %"),
        panels: vec![(String::new(), curves)],
        ..Curves::default()
    };
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(eps));
    Ok(vec![figure.drawing(ENTRY.name, &title, pool::subtitle(analysis))?])
}
