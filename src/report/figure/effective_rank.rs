//! Directions that a head's vectors take up, by layer and KV head, for each state.

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
    name: "effective-rank",
    title: "Effective rank about the mean, by layer and head",
    question: "How many directions do a head's keys and values take up, once what all tokens share is taken away?",
    reading: "Each cell is one KV head: the effective rank of Roy and Vetterli, from 1 (all on one line) to the head's \
              dimension (alike in all directions), of its vectors less their mean. Low ranks of keys with high cosines mean that \
              similarity comes from a shared direction and not from tokens that are alike.",
    needs: "effective ranks in the analysis",
    build,
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let (layers, heads) = pool::layers_and_heads(analysis);
    let states = pool::states(analysis);
    let values: Vec<Vec<Option<f64>>> =
        states.iter().map(|state| pool::grid(&pool::effective_ranks(analysis, *state), &layers, &heads)).collect();
    if values.iter().flatten().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let range = rounded(extent(values.iter().flatten().flatten().copied()), (1.0, 1e6), 6);
    let grids = by_state(&states, (&layers, &heads), values, range, 1);
    let alt = format!(
        "Heat maps of {} by {}: effective rank about the mean, colours from {:.1} to {:.1}.",
        theme::count(layers.len(), "layer"),
        theme::count(heads.len(), "KV head"),
        range.0,
        range.1
    );
    Ok(vec![panels(ENTRY.name, ENTRY.title, pool::subtitle(analysis), grids, "Effective rank").alt(alt)])
}
