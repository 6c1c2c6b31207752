//! Mean cosine of neighbouring tokens, by layer and KV head, for each state.

use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::canvas::Area;
use crate::report::heat::Grid;
use crate::report::heat::color_bar;
use crate::report::legend::Key;
use crate::report::legend::Legend;
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
    let grids: Vec<Grid> = states
        .iter()
        .zip(values)
        .map(|(state, values)| Grid {
            title: theme::capitalised(theme::state_label(*state)),
            layers: layers.clone(),
            heads: heads.clone(),
            values,
            range,
            decimals: 2,
        })
        .collect();
    let gaps = grids.iter().any(Grid::has_gaps);
    let panel = Grid::height(layers.len());
    let body = 24.0 + panel + 56.0 + if gaps { 30.0 } else { 0.0 };
    let alt = format!(
        "Heat maps of {} by {}: mean cosine of neighbouring tokens, colours from {:.2} to {:.2}. The numbers are in the table of heads.",
        theme::count(layers.len(), "layer"),
        theme::count(heads.len(), "KV head"),
        range.0,
        range.1
    );
    let drawing = Drawing::new(ENTRY.name, ENTRY.title, pool::subtitle(analysis), body, move |canvas, area| {
        let (left, right) = (area.x0 + 46.0, area.x1 - 96.0);
        let n = grids.len() as f64;
        let gap = 22.0;
        let width = (right - left - gap * (n - 1.0)) / n;
        let (top, bottom) = (area.y0 + 24.0, area.y0 + 24.0 + panel);
        for (i, grid) in grids.iter().enumerate() {
            let x = left + i as f64 * (width + gap);
            grid.draw(canvas, Area::new(x, top, x + width, bottom), i == 0)?;
        }
        let bar = Area::new(right + 22.0, top, right + 38.0, bottom.min(top + 420.0));
        color_bar(canvas, bar, range, "Mean cosine")?;
        if gaps {
            Legend::new(vec![(Key::NoData, "no data".into())], 200.0).draw(canvas, (left, bottom + 58.0))?;
        }
        Ok(())
    });
    Ok(vec![drawing.alt(alt)])
}
