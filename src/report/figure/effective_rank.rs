//! Directions that a head's vectors take up, by layer and KV head, for each state.

use crate::report::figure::Build;
use crate::report::heat::{Grid, Panels};
use crate::report::scale::Scale;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "effective-rank",
    title: "Effective rank about the mean, by layer and head",
    question: "How many directions do a head's keys and values take up, once what all tokens share is taken away?",
    reading: "Each cell is one KV head: the effective rank of Roy and Vetterli, from 1 (all on one line) to the head's \
              dimension (alike in all directions), of its vectors less their mean. Low ranks of keys with high cosines mean that \
              similarity comes from a shared direction and not from tokens that are alike.",
    needs: "effective ranks in the analysis",
    build: Build::Analysis(build),
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let (layers, heads) = pool::layers_and_heads(analysis);
    let scale = Scale::linear(1.0, analysis.model.head_dim.max(2) as f64);
    let grid = |state| {
        let values = pool::grid(&pool::effective_ranks(analysis, state), &layers, &heads);
        Grid::new(theme::state_title(state), (&layers, &heads), values, (scale, "Effective rank"), 1)
    };
    let grids: Vec<Grid> = pool::states(analysis).into_iter().map(grid).collect();
    if grids.iter().all(Grid::is_empty) {
        return Ok(Vec::new());
    }
    let panels = Panels { grids, axes: ("Layer", "KV head") };
    Ok(vec![panels.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}
