//! Mean cosine against the distance between two tokens.

use crate::format::analysis::{Analysis, HeadSimilarity};
use crate::format::dump::State;
use crate::report::axes::{Axis, covering};
use crate::report::curves::{Curve, Curves, ends};
use crate::report::figure::Build;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "locality",
    title: "Similarity against the distance between tokens",
    question: "How fast does similarity fall off with distance, so that merging neighbours is better than merging any two?",
    reading: "Lines are means over heads and data sets, bands hold the middle 80 % of heads. A curve that falls from the \
              left says that near tokens are more alike than far ones; a flat one says that distance does not matter. \
              Where there is no data, no sample is long enough.",
    needs: "keys or values in the analysis",
    build: Build::Analysis(build),
};

/// Values of every head at a lag, each the mean over data sets.
fn by_head(analysis: &Analysis, state: State, lag: usize) -> Vec<f64> {
    let value = |head: &HeadSimilarity| head.locality.get(lag).copied().flatten();
    let heads = pool::of_heads(analysis, state).map(|head| ((head.layer, head.kv_head), value(head)));
    pool::pooled(heads).into_values().flatten().collect()
}

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let lags: Vec<(usize, f64)> =
        analysis.lags.iter().enumerate().filter(|(_, l)| **l > 0).map(|(i, l)| (i, *l as f64)).collect();
    let curve = |state| {
        let heads: Vec<(f64, Vec<f64>)> = lags.iter().map(|(i, l)| (*l, by_head(analysis, state, *i))).collect();
        let points = heads.iter().map(|(lag, values)| (*lag, pool::mean(values.iter().copied().map(Some)))).collect();
        let band = heads.iter().map(|(lag, values)| (*lag, pool::middle(values.iter().copied()))).collect();
        Curve { band, ..Curve::new(theme::state_label(state), theme::state_look(state), points) }
    };
    let curves: Vec<Curve> = pool::states(analysis).into_iter().map(curve).collect();
    if lags.is_empty() || curves.is_empty() {
        return Ok(Vec::new());
    }
    let lags: Vec<f64> = lags.iter().map(|l| l.1).collect();
    let figure = Curves {
        x: Axis::logarithmic(&lags, "Distance of the two tokens"),
        y: Axis::linear(covering((0.0, 1.0), ends(&curves), (-1.0, 1.0)), 6, "Mean cosine"),
        panels: curves.into_iter().map(|curve| (theme::capitalised(&curve.name), vec![curve])).collect(),
        band_name: "middle 80 % of heads".into(),
        ..Curves::default()
    };
    Ok(vec![figure.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}
