//! How well a head's cosines tell which neighbours real queries cannot tell apart.

use crate::format::analysis::HeadQueries;
use crate::report::figure::Build;
use crate::report::heat::{Grid, Panels};
use crate::report::pool;
use crate::report::scale::Scale;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "cosine-predicts",
    title: "Logit gaps of neighbours, and how well the cosine tells them",
    question: "Are similar neighbours interchangeable to the queries that read them, or does the cosine mislead?",
    reading: "Left: Spearman's rank correlation of the cosine of neighbouring keys and their logit gap, the root mean \
              square of q·(k − k′)/√D over real queries, with its sign turned about. Near 1 the cosine ranks pairs as the queries do; near \
              0 it says nothing. Right: the mean gap in nats; pairs far below 1 hardly differ to the softmax.",
    needs: "query-aware measures in the analysis, for which queries, keys, values and masses must have been captured",
    build: Build::Analysis(build),
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let (layers, heads) = pool::layers_and_heads(analysis);
    let grid = |title: &str, scale, value: fn(&HeadQueries) -> Option<f64>| {
        let values = pool::grid(&pool::of_queries(analysis, value), &layers, &heads);
        Grid::new(title, (&layers, &heads), values, scale, 2)
    };
    let grids = vec![
        grid("Does a high cosine tell a small gap?", (Scale::linear(0.0, 1.0), "−1 × Spearman's ρ"), |head| {
            head.cosine_predicts.map(|rho| -rho)
        }),
        grid("How far are neighbours apart?", (Scale::GAP, "Mean logit gap, nats (log scale)"), |head| head.gap),
    ];
    if grids.iter().all(Grid::is_empty) {
        return Ok(Vec::new());
    }
    let panels = Panels { grids, axes: ("Layer", "KV head") };
    Ok(vec![panels.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}
