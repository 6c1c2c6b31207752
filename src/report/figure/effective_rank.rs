//! Directions that a head's vectors take up, by layer and KV head, for each state.

use crate::report::figure::Build;
use crate::report::heat::{Grid, Panels, one_range};
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
    let grid = |state| {
        let values = pool::grid(&pool::effective_ranks(analysis, state), &layers, &heads);
        Grid::new(theme::state_title(state), (&layers, &heads), values, (1.0, 1e6), 1)
    };
    let mut grids: Vec<Grid> = pool::states(analysis).into_iter().map(grid).collect();
    if grids.iter().all(Grid::is_empty) {
        return Ok(Vec::new());
    }
    one_range(&mut grids, (1.0, 1e6));
    let panels = Panels { grids, axes: ("Layer", "KV head"), bar: Some("Effective rank"), gaps: "no data" };
    Ok(vec![panels.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}
