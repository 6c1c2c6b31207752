//! Error of the attention output against the budget, by what a merging set becomes.

use crate::report::axes::{Axis, extent};
use crate::report::curves::{Curve, Curves, ends};
use crate::report::figure::Build;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "merge-error",
    title: "Error of the attention output when each head alone is merged",
    question: "How much does a budget cost, and does merging lose less than throwing the same tokens away?",
    reading: "Relative error of the attention output on real queries, mean over heads; the bands are 95 % intervals over \
              samples. Every rule has the same merging sets. evict keeps each set's pivot and drops the rest: a rule above \
              it does harm.",
    needs: "query-aware measures in the analysis, for which queries, keys, values and masses must have been captured",
    build: Build::Analysis(build),
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let Some(queries) = &analysis.queries else { return Ok(Vec::new()) };
    let curve = |(index, rule): (usize, &String)| {
        let error = |budget: &f64| {
            let found = queries.errors.iter().find(|error| error.budget == *budget && error.rule == *rule);
            pool::known_interval(found.and_then(|found| found.error)).map(|error| error.times(100.0))
        };
        let errors: Vec<_> = queries.budgets.iter().map(|budget| (100.0 * budget, error(budget))).collect();
        let points = errors.iter().map(|(budget, error)| (*budget, error.map(|error| error.estimate))).collect();
        let band = errors.iter().map(|(budget, error)| (*budget, error.and_then(|e| e.low.zip(e.high)))).collect();
        Curve { band, ..Curve::new(rule, theme::look(index), points) }
    };
    let curves: Vec<Curve> = queries.rules.iter().enumerate().take(12).map(curve).collect();
    let budgets: Vec<f64> = queries.budgets.iter().map(|budget| 100.0 * budget).filter(|b| b.is_finite()).collect();
    let Some(((first, last), _)) = extent(budgets.iter().copied()).zip(ends(&curves)) else { return Ok(Vec::new()) };
    let values = curves.iter().flat_map(Curve::known).map(|point| point.1).collect::<Vec<_>>();
    let figure = Curves {
        x: Axis::at(&budgets, (first - 2.0, last + 2.0), "Slots kept, % of tokens"),
        y: Axis::decades(values, (1.0, 100.0), "Error of the attention output, % (log scale)"),
        band_name: "95 % interval over samples".into(),
        panels: vec![(String::new(), curves)],
        ..Curves::default()
    };
    Ok(vec![figure.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}
