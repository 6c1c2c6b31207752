//! Mean cosine of neighbouring tokens, by layer and KV head, for each state.

use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::heat::by_state;
use crate::report::heat::panels;
use crate::report::pool;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "similarity-heads",
    title: "Similarity of neighbouring tokens by layer and head",
    question: "In which layers and KV heads are neighbouring tokens alike, and does the rotary embedding change that?",
    reading: "Each cell is one KV head: the mean cosine between the vectors of a token and of the one before it, over \
              all data sets, each weighing as many pairs as it has. Bright heads hold much that can be merged.",
    needs: "keys or values in the analysis",
    build,
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let (layers, heads) = pool::layers_and_heads(analysis);
    let states = pool::states(analysis);
    if states.is_empty() || layers.is_empty() || heads.is_empty() {
        return Ok(Vec::new());
    }
    let values: Vec<Vec<Option<f64>>> =
        states.iter().map(|s| pool::grid(&pool::neighbour_means(analysis, *s), &layers, &heads)).collect();
    let range = rounded(extent(values.iter().flatten().flatten().copied()), (-1.0, 1.0), 6);
    let grids = by_state(&states, (&layers, &heads), values, range, 2);
    let alt = format!(
        "Heat maps of {} by {}: mean cosine of neighbouring tokens, colours from {:.2} to {:.2}. The numbers are in the table of heads.",
        theme::count(layers.len(), "layer"),
        theme::count(heads.len(), "KV head"),
        range.0,
        range.1
    );
    Ok(vec![panels(ENTRY.name, ENTRY.title, pool::subtitle(analysis), grids, "Mean cosine").alt(alt)])
}
