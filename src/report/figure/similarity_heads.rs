//! Mean cosine of neighbouring tokens, by layer and KV head, for each state.

use crate::report::figure::Build;
use crate::report::heat::{Grid, Panels};
use crate::report::scale::Scale;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "similarity-heads",
    title: "Similarity of neighbouring tokens by layer and head",
    question: "In which layers and KV heads are neighbouring tokens alike, and does the rotary embedding change that?",
    reading: "Each cell is one KV head: the mean cosine between the vectors of a token and of the one before it, over \
              all data sets, each weighing as many pairs as it has. Bright heads hold much that can be merged.",
    needs: "keys or values in the analysis",
    build: Build::Analysis(build),
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let (layers, heads) = pool::layers_and_heads(analysis);
    let grid = |state| {
        let values = pool::grid(&pool::neighbour_means(analysis, state), &layers, &heads);
        Grid::new(theme::state_title(state), (&layers, &heads), values, (Scale::COSINE, "Mean cosine"), 2)
    };
    let grids: Vec<Grid> = pool::states(analysis).into_iter().map(grid).collect();
    if grids.is_empty() || layers.is_empty() || heads.is_empty() {
        return Ok(Vec::new());
    }
    let panels = Panels { grids, axes: ("Layer", "KV head") };
    Ok(vec![panels.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}
