//! How well a head's cosines tell which neighbours real queries cannot tell apart.

use std::collections::BTreeMap;

use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::canvas::Area;
use crate::report::heat::Grid;
use crate::report::heat::color_bar;
use crate::report::pool;
use crate::report::pool::Head;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "cosine-predicts",
    title: "What similarity means to real queries",
    question: "Are similar neighbours interchangeable to the queries that read them, or does the cosine mislead?",
    reading: "Left: Spearman's rank correlation of the cosine of neighbouring keys and their logit gap, the root mean \
              square of q·(k − k′)/√D over real queries. Near −1 the cosine ranks pairs as the queries do; near 0 it says \
              nothing. Right: the mean gap in nats; pairs far below 1 hardly differ to the softmax.",
    needs: "query-aware measures in the analysis, for which queries, keys, values and masses must have been captured",
    build,
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let (layers, heads) = pool::layers_and_heads(analysis);
    let grid = |title: &str, values: BTreeMap<Head, Option<f64>>, limits: (f64, f64)| {
        let values = pool::grid(&values, &layers, &heads);
        let range = rounded(extent(values.iter().flatten().copied()), limits, 6);
        let (layers, heads) = (layers.clone(), heads.clone());
        Grid { title: title.into(), layers, heads, values, range, decimals: 2, columns: "KV head", rows: "Layer" }
    };
    let grids = [
        grid(
            "Rank correlation of cosine and gap",
            pool::of_queries(analysis, |head| head.cosine_predicts),
            (-1.0, 1.0),
        ),
        grid("Mean logit gap, nats", pool::of_queries(analysis, |head| head.gap), (0.0, 1e6)),
    ];
    if grids.iter().all(|grid| grid.values.iter().all(Option::is_none)) {
        return Ok(Vec::new());
    }
    let panel = Grid::height(layers.len());
    let alt = format!(
        "Heat maps of {} by {}: rank correlation of cosine and logit gap from {:.2} to {:.2}, mean gap from {:.2} to {:.2} nats.",
        theme::count(layers.len(), "layer"),
        theme::count(heads.len(), "KV head"),
        grids[0].range.0,
        grids[0].range.1,
        grids[1].range.0,
        grids[1].range.1,
    );
    let drawing =
        Drawing::new(ENTRY.name, ENTRY.title, pool::subtitle(analysis), 24.0 + panel + 56.0, move |canvas, area| {
            let (top, bottom) = (area.y0 + 24.0, area.y0 + 24.0 + panel);
            let half = area.width() / 2.0;
            for (i, grid) in grids.iter().enumerate() {
                let left = area.x0 + 46.0 + i as f64 * half;
                let right = left + half - 150.0;
                grid.draw(canvas, Area::new(left, top, right, bottom), true)?;
                let bar = Area::new(right + 18.0, top, right + 32.0, bottom.min(top + 420.0));
                color_bar(canvas, bar, grid.range, "")?;
            }
            Ok(())
        });
    Ok(vec![drawing.alt(alt)])
}
