//! Mean cosine against the distance between two tokens.

use std::collections::BTreeMap;

use crate::format::analysis::Analysis;
use crate::format::dump::State;
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
use crate::report::theme;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "locality",
    title: "Similarity against the distance between tokens",
    question: "How fast does similarity fall off with distance, so that merging neighbours is better than merging any two?",
    reading: "Lines are means over heads and data sets, bands hold the middle 80 % of heads. A curve that falls from the \
              left says that near tokens are more alike than far ones; a flat one says that distance does not matter.",
    needs: "keys or values in the analysis",
    build,
};

/// Values of every head at each lag, each the mean over data sets.
fn by_head(analysis: &Analysis, state: State, lag: usize) -> Vec<f64> {
    let mut all: BTreeMap<pool::Head, Vec<Option<f64>>> = BTreeMap::new();
    for head in analysis.datasets.iter().filter_map(|d| pool::of_state(d, state)).flat_map(|s| &s.heads) {
        all.entry((head.layer, head.kv_head)).or_default().push(head.locality.get(lag).copied().flatten());
    }
    all.into_values().filter_map(pool::mean).collect()
}

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let lags: Vec<(usize, f64)> =
        analysis.lags.iter().enumerate().filter(|(_, l)| **l > 0).map(|(i, l)| (i, *l as f64)).collect();
    let mut curves = Vec::new();
    let mut bands: Vec<Band> = Vec::new();
    for state in pool::states(analysis) {
        let heads: Vec<(f64, Vec<f64>)> = lags.iter().map(|(i, l)| (*l, by_head(analysis, state, *i))).collect();
        let mean = |values: &[f64]| pool::mean(values.iter().map(|v| Some(*v)));
        let ends = |values: &[f64]| {
            pool::quantile(values.iter().copied(), 0.1).zip(pool::quantile(values.iter().copied(), 0.9))
        };
        let points = heads.iter().map(|(lag, values)| (*lag, mean(values))).collect();
        curves.push(Curve { name: theme::state_label(state).into(), look: theme::state_look(state), points });
        bands.push(heads.iter().map(|(lag, values)| (*lag, ends(values))).collect());
    }
    if lags.is_empty() || curves.is_empty() {
        return Ok(Vec::new());
    }
    let points = curves.iter().flat_map(|c| &c.points).filter_map(|p| p.1);
    let ends = extent(points.chain(bands.iter().flatten().filter_map(|b| b.1).flat_map(|(low, high)| [low, high])));
    let y = Axis::linear(rounded(ends, (-1.0, 1.0), 5), 6, "Mean cosine");
    let x =
        Axis::logarithmic(&lags.iter().map(|l| l.1).collect::<Vec<_>>(), "Distance between the two tokens (log scale)");
    let mut items: Vec<(Key, String)> = curves.iter().map(|c| (Key::Line(c.look), c.name.clone())).collect();
    items.push((Key::Band(theme::faint(theme::SOFT_INK, 0.16)), "middle 80 % of heads".into()));
    if curves.iter().any(Curve::has_gaps) {
        items.push((Key::Cross, "no data: no sample is long enough".into()));
    }
    let legend = Legend::new(items, theme::WIDTH - 2.0 * theme::MARGIN - 56.0);
    let body = legend.height() + 380.0 + 56.0;
    let alt = curves.iter().map(in_words).collect::<Vec<_>>().join(" ");
    let drawing = Drawing::new(ENTRY.name, ENTRY.title, pool::subtitle(analysis), body, move |canvas, area| {
        let top = area.y0 + legend.height();
        let frame =
            Frame { area: Area::new(area.x0 + 56.0, top, area.x1 - 8.0, top + 380.0), x: x.clone(), y: y.clone() };
        legend.draw(canvas, (area.x0 + 56.0, area.y0))?;
        frame.draw(canvas)?;
        for (band, curve) in bands.iter().zip(&curves) {
            lines::band(canvas, &frame, band, theme::faint(curve.look.color, 0.14))?;
        }
        lines::curves(canvas, &frame, &curves)
    });
    Ok(vec![drawing.alt(alt)])
}

fn in_words(curve: &Curve) -> String {
    let known: Vec<(f64, f64)> = curve.points.iter().filter_map(|p| p.1.map(|y| (p.0, y))).collect();
    match (known.first(), known.last()) {
        (Some(a), Some(b)) => {
            format!("{}: mean cosine {:.2} at distance {}, {:.2} at distance {}.", curve.name, a.1, a.0, b.1, b.0)
        }
        _ => format!("{}: no data.", curve.name),
    }
}
