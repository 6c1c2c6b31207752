//! Merging sets per token, by layer, at the reference threshold.

use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::Axis;
use crate::report::axes::Frame;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::canvas::Area;
use crate::report::legend::Key;
use crate::report::legend::Legend;
use crate::report::lines;
use crate::report::lines::Band;
use crate::report::lines::Curve;
use crate::report::pool;
use crate::report::pool::Measure;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "sparsity-layers",
    title: "Merging sets per unprotected token, by layer",
    question: "Which layers can be compressed most, and is that the same for all data sets?",
    reading: "Lines are means over the KV heads of a layer, bands reach from the lowest to the highest head. At 1 \
              nothing merges; at 0.3 a slot stands for more than three tokens on average.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build,
};

/// With more data sets than this, one band covers the heads of all.
const MAX_BANDS: usize = 3;

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let (layers, _) = pool::layers_and_heads(analysis);
    let Some(eps) = pool::reference_eps(analysis) else { return Ok(Vec::new()) };
    let mut curves = Vec::new();
    let mut bands: Vec<Band> = Vec::new();
    for (i, dataset) in analysis.datasets.iter().enumerate().filter(|(_, d)| !d.sparsity.is_empty()) {
        let values = pool::at_eps(dataset, Measure::SetRatio, analysis.reference_eps);
        let of_layer = |layer: usize| values.range((layer, 0)..=(layer, usize::MAX)).filter_map(|(_, v)| *v);
        let points = layers.iter().map(|l| (*l as f64, pool::mean(of_layer(*l).map(Some)))).collect();
        curves.push(Curve { name: dataset.dataset.clone(), look: theme::look(i), points });
        bands.push(layers.iter().map(|l| (*l as f64, extent(of_layer(*l)))).collect());
    }
    let (Some(first), Some(last), false) = (layers.first(), layers.last(), curves.is_empty()) else {
        return Ok(Vec::new());
    };
    let ends = extent(bands.iter().flatten().filter_map(|b| b.1).flat_map(|(low, high)| [low, high]));
    let (low, high) = rounded(ends, (0.0, 2.0), 5);
    let mut items: Vec<(Key, String)> = curves.iter().map(|c| (Key::Line(c.look), c.name.clone())).collect();
    let shared = bands.len() > MAX_BANDS;
    if shared {
        items.push((Key::Band(theme::faint(theme::SOFT_INK, 0.16)), "lowest to highest head of all".into()));
    } else {
        items.push((Key::Band(theme::faint(theme::SOFT_INK, 0.16)), "lowest to highest head".into()));
    }
    for dataset in analysis.datasets.iter().filter(|d| d.sparsity.is_empty()) {
        items.push((Key::NoData, format!("{}: no data", dataset.dataset)));
    }
    if curves.iter().any(Curve::has_gaps) {
        items.push((Key::Cross, "no data".into()));
    }
    let legend = Legend::new(items, theme::WIDTH - 2.0 * theme::MARGIN - 56.0);
    let x = Axis::whole(*first, *last, 12, "Layer");
    let y = Axis::linear((low, high), 6, "Sets per unprotected token");
    let body = legend.height() + 380.0 + 56.0;
    let alt = curves.iter().map(in_words).collect::<Vec<_>>().join(" ");
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(eps));
    let drawing = Drawing::new(ENTRY.name, title, pool::subtitle(analysis), body, move |canvas, area| {
        let top = area.y0 + legend.height();
        let frame =
            Frame { area: Area::new(area.x0 + 56.0, top, area.x1 - 8.0, top + 380.0), x: x.clone(), y: y.clone() };
        legend.draw(canvas, (area.x0 + 56.0, area.y0))?;
        frame.draw(canvas)?;
        if shared {
            lines::band(canvas, &frame, &union(&bands), theme::faint(theme::SOFT_INK, 0.16))?;
        } else {
            for (band, curve) in bands.iter().zip(&curves) {
                lines::band(canvas, &frame, band, theme::faint(curve.look.color, 0.14))?;
            }
        }
        lines::curves(canvas, &frame, &curves)
    });
    Ok(vec![drawing.alt(alt)])
}

fn in_words(curve: &Curve) -> String {
    let known = || curve.points.iter().filter_map(|p| p.1.map(|y| (p.0, y)));
    let low = known().min_by(|a, b| a.1.total_cmp(&b.1));
    let high = known().max_by(|a, b| a.1.total_cmp(&b.1));
    match low.zip(high) {
        Some((low, high)) => format!(
            "{}: from {:.2} sets per token in layer {} to {:.2} in layer {}.",
            curve.name, low.1, low.0, high.1, high.0
        ),
        None => format!("{}: no data.", curve.name),
    }
}

/// From the lowest to the highest end of several bands over the same layers.
fn union(bands: &[Band]) -> Band {
    let Some(first) = bands.first() else { return Vec::new() };
    let at = |i: usize| extent(bands.iter().filter_map(|b| b.get(i)?.1).flat_map(|(low, high)| [low, high]));
    first.iter().enumerate().map(|(i, (x, _))| (*x, at(i))).collect()
}
