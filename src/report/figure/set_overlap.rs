//! Do heads of different layers merge the same tokens?

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
    name: "set-overlap",
    title: "Overlap of merging sets between layers",
    question: "Do heads merge the same tokens, so that one plan would do for many, or does each head need its own?",
    reading: "Left: the share of merged tokens that two heads have in common (Dice coefficient), pooled over the pairs of \
              heads of two layers; on the diagonal, over different heads of one layer. Right: what is above chance, that is, \
              above heads that merge as many tokens at random.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build,
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let n = analysis.layers.len();
    let Some(overlap) = analysis.set_overlap.as_ref().filter(|_| n > 1) else { return Ok(Vec::new()) };
    let cell = |of: &[Vec<Option<f64>>], a: usize, b: usize| pool::known(of.get(a)?.get(b).copied().flatten());
    let pairs = || (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
    let dice: Vec<Option<f64>> = pairs().map(|(a, b)| cell(&overlap.dice, a, b)).collect();
    let chance = pairs().map(|(a, b)| cell(&overlap.chance, a, b));
    let above: Vec<Option<f64>> = dice.iter().zip(chance).map(|(dice, chance)| Some((*dice)? - chance?)).collect();
    if dice.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let grid = |title: &str, values: Vec<Option<f64>>, limits| Grid {
        title: title.into(),
        layers: analysis.layers.clone(),
        heads: analysis.layers.clone(),
        range: rounded(extent(values.iter().flatten().copied()), limits, 6),
        values,
        decimals: 2,
        columns: "Layer",
        rows: "Layer",
    };
    let grids = [grid("Overlap", dice, (0.0, 1.0)), grid("Above chance", above, (-1.0, 1.0))];
    let gaps = grids.iter().any(Grid::has_gaps);
    let panel = 330.0;
    let alt = format!(
        "Heat maps of {} by as many: overlap from {:.2} to {:.2}, above chance from {:.2} to {:.2}.",
        theme::count(n, "layer"),
        grids[0].range.0,
        grids[0].range.1,
        grids[1].range.0,
        grids[1].range.1,
    );
    let body = 24.0 + panel + 56.0 + if gaps { 30.0 } else { 0.0 };
    let drawing = Drawing::new(ENTRY.name, ENTRY.title, pool::subtitle(analysis), body, move |canvas, area| {
        let (top, bottom) = (area.y0 + 24.0, area.y0 + 24.0 + panel);
        let half = area.width() / 2.0;
        for (i, grid) in grids.iter().enumerate() {
            let left = area.x0 + 46.0 + i as f64 * half;
            let right = left + half - 140.0;
            grid.draw(canvas, Area::new(left, top, right, bottom), true)?;
            color_bar(canvas, Area::new(right + 18.0, top, right + 32.0, bottom), grid.range, "")?;
        }
        if gaps {
            Legend::new(vec![(Key::NoData, "no data".into())], 200.0).draw(canvas, (area.x0 + 46.0, bottom + 58.0))?;
        }
        Ok(())
    });
    Ok(vec![drawing.alt(alt)])
}
