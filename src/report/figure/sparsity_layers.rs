//! Merging sets per token, by layer, at the reference threshold.

use crate::format::analysis::DatasetAnalysis;
use crate::report::axes::{Axis, covering, extent};
use crate::report::curves::{Band, Curve, Curves, ends};
use crate::report::figure::Build;
use crate::report::pool;
use crate::report::pool::Measure;
use crate::report::theme;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "sparsity-layers",
    title: "Merging sets per unprotected token, by layer",
    question: "Which layers can be compressed most, and is that the same for all data sets?",
    reading: "Lines are means over the KV heads of a layer, bands reach from the lowest to the highest head. At 1 \
              nothing merges; at 0.3 a slot stands for more than three tokens on average.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build: Build::Analysis(build),
};

/// With more data sets than this, one band covers the heads of all.
const MAX_BANDS: usize = 3;

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let (layers, _) = pool::layers_and_heads(analysis);
    let (Some(eps), Some(first), Some(last)) = (pool::reference_eps(analysis), layers.first(), layers.last()) else {
        return Ok(Vec::new());
    };
    let curve = |(i, dataset): (usize, &DatasetAnalysis)| {
        let values = pool::at_eps(dataset, Measure::SetRatio, analysis.reference_eps);
        let of_layer = |layer: usize| values.range((layer, 0)..=(layer, usize::MAX)).filter_map(|(_, v)| *v);
        let with_sets = || layers.iter().filter(|_| !dataset.sparsity.is_empty());
        let points = with_sets().map(|l| (*l as f64, pool::mean(of_layer(*l).map(Some)))).collect();
        let band = with_sets().map(|l| (*l as f64, extent(of_layer(*l)))).collect();
        Curve { band, ..Curve::new(&dataset.dataset, theme::look(i), points) }
    };
    let mut curves: Vec<Curve> = analysis.datasets.iter().enumerate().map(curve).collect();
    if curves.iter().all(|curve| curve.points.is_empty()) {
        return Ok(Vec::new());
    }
    let (mut band, mut band_name) = (Band::new(), "lowest to highest head".to_string());
    let y = Axis::linear(covering((0.0, 1.0), ends(&curves), (0.0, 2.0)), 6, "Sets per unprotected token");
    if curves.iter().filter(|curve| !curve.points.is_empty()).count() > MAX_BANDS {
        let bands: Vec<Band> = curves.iter_mut().map(|curve| std::mem::take(&mut curve.band)).collect();
        let at = |i: usize| extent(bands.iter().filter_map(|b| b.get(i)?.1).flat_map(|(low, high)| [low, high]));
        band = layers.iter().enumerate().map(|(i, layer)| (*layer as f64, at(i))).collect();
        band_name += " of all";
    }
    let x = Axis::whole(*first, *last, 12, "Layer");
    let figure = Curves { panels: vec![(String::new(), curves)], x, y, band, band_name, ..Curves::default() };
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(eps));
    Ok(vec![figure.drawing(ENTRY.name, &title, pool::subtitle(analysis))?])
}
