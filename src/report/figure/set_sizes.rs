//! How large merging sets are.

use crate::report::axes::Axis;
use crate::report::curves::{Curve, Curves};
use crate::report::figure::Build;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "set-sizes",
    title: "Sizes of merging sets",
    question: "Are tokens merged in pairs or in long runs?",
    reading: "Share of all sets of a data set, over all heads, that have so many tokens or more. What is missing at 2 are \
              tokens that stay as they are; a curve that falls slowly has long runs.",
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
            let or_more = |bin: usize| 100.0 * sums[bin..].iter().sum::<f64>() / total;
            let points = bins.iter().enumerate().map(|(bin, first)| (*first as f64, Some(or_more(bin)))).collect();
            curves.push(Curve::new(&dataset.dataset, theme::look(index), points));
        }
    }
    let (Some(eps), false, true) = (pool::reference_eps(analysis), curves.is_empty(), bins.len() < 100) else {
        return Ok(Vec::new());
    };
    let sizes: Vec<f64> = bins.iter().map(|size| *size as f64).collect();
    let figure = Curves {
        x: Axis::logarithmic(&sizes, "Tokens in a set (log scale)"),
        y: Axis::linear((0.0, 100.0), 6, "Sets with that many tokens or more, %"),
        panels: vec![(String::new(), curves)],
        ..Curves::default()
    };
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(eps));
    Ok(vec![figure.drawing(ENTRY.name, &title, pool::subtitle(analysis))?])
}
