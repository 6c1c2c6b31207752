//! Do heads of different layers merge the same tokens?

use crate::report::figure::Build;
use crate::report::heat::{Grid, Panels};
use crate::report::pool;
use crate::report::scale::Scale;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "set-overlap",
    title: "Overlap of merging sets between layers",
    question: "Do heads merge the same tokens, so that one plan would do for many, or does each head need its own?",
    reading: "Left: the share of merged tokens that two heads have in common (Dice coefficient), pooled over the pairs of \
              heads of two layers; on the diagonal, over different heads of one layer. Right: what is above chance, that is, \
              above heads that merge as many tokens at random.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build: Build::Analysis(build),
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let layers = &analysis.layers;
    let Some(overlap) = analysis.set_overlap.as_ref().filter(|_| layers.len() > 1) else { return Ok(Vec::new()) };
    let cells = |of: &[Vec<Option<f64>>]| -> Vec<Option<f64>> {
        let cell = |a: usize, b: usize| pool::known(of.get(a)?.get(b).copied().flatten());
        (0..layers.len()).flat_map(|a| (0..layers.len()).map(move |b| (a, b))).map(|(a, b)| cell(a, b)).collect()
    };
    let (dice, chance) = (cells(&overlap.dice), cells(&overlap.chance));
    let above = dice.iter().zip(chance).map(|(dice, chance)| Some((*dice)? - chance?)).collect();
    let grid = |title: &str, values, scale| Grid::new(title, (layers, layers), values, scale, 2);
    let grids = vec![
        grid("Overlap", dice, (Scale::linear(0.0, 1.0), "Dice coefficient")),
        grid("Above chance", above, (Scale::linear(0.0, 0.5), "Dice coefficient less that of chance")),
    ];
    if grids[0].is_empty() {
        return Ok(Vec::new());
    }
    let panels = Panels { grids, axes: ("Layer", "Layer") };
    Ok(vec![panels.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}
