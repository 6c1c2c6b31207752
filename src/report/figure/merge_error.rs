//! Error of the attention output against the budget, by what a merging set becomes.

use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::Axis;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::lines::Band;
use crate::report::lines::Curve;
use crate::report::plot::Plot;
use crate::report::pool;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "merge-error",
    title: "Error of the attention output when each head alone is merged",
    question: "How much does a budget cost, and does merging lose less than throwing the same tokens away?",
    reading: "Relative error of the attention output on real queries, mean over heads; the bands are 95 % intervals over \
              samples. Every rule has the same merging sets. evict keeps each set's pivot and drops the rest: a rule above \
              it does harm.",
    needs: "query-aware measures in the analysis, for which queries, keys, values and masses must have been captured",
    build,
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let Some(queries) = analysis.queries.as_ref().filter(|queries| !queries.budgets.is_empty()) else {
        return Ok(Vec::new());
    };
    let (mut curves, mut bands) = (Vec::new(), Vec::new());
    for (index, rule) in queries.rules.iter().enumerate().take(12) {
        let look = theme::look(index);
        let (mut points, mut band): (Vec<_>, Band) = (Vec::new(), Vec::new());
        for budget in &queries.budgets {
            let found = queries.errors.iter().find(|error| error.budget == *budget && error.rule == *rule);
            let error = pool::known_interval(found.and_then(|found| found.error));
            points.push((100.0 * budget, error.map(|error| 100.0 * error.estimate)));
            let ends = error.and_then(|error| error.low.zip(error.high));
            band.push((100.0 * budget, ends.map(|(low, high)| (100.0 * low, 100.0 * high))));
        }
        curves.push(Curve { name: rule.clone(), look, points });
        bands.push((band, theme::faint(look.color, 0.15)));
    }
    let ends =
        bands.iter().flat_map(|(band, _)| band).filter_map(|(_, ends)| *ends).flat_map(|(low, high)| [low, high]);
    let points = curves.iter().flat_map(|curve| &curve.points).filter_map(|point| point.1);
    let Some((_, highest)) = extent(points.chain(ends)) else { return Ok(Vec::new()) };
    let Some((first, last)) = extent(queries.budgets.iter().map(|budget| 100.0 * budget)) else {
        return Ok(Vec::new());
    };
    let alt = curves.iter().map(in_words).collect::<Vec<_>>().join(" ");
    let plot = Plot {
        x: Axis::linear((first - 2.0, last + 2.0), 8, "Slots kept, % of tokens"),
        y: Axis::linear((0.0, rounded(Some((0.0, highest)), (0.0, 1e6), 6).1), 6, "Error of the attention output, %"),
        curves,
        bands,
        more: Vec::new(),
        upright: Vec::new(),
    };
    Ok(vec![plot.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis), alt)])
}

fn in_words(curve: &Curve) -> String {
    let one = |(budget, error): &(f64, Option<f64>)| {
        let error = error.map_or_else(|| "no data".into(), |error| format!("{error:.1} %"));
        format!("{error} at {budget:.0} % kept")
    };
    format!("{}: {}.", curve.name, curve.points.iter().map(one).collect::<Vec<_>>().join(", "))
}
