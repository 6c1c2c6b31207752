//! Merging sets by relative depth, a panel for each run and a line for each data set.

use crate::format::comparison::{ComparedRun, Comparison, DatasetSets, MOST_RUNS, relative_depth};
use crate::math::Interval;
use crate::report::axes::{Axis, covering};
use crate::report::curves::{Curve, Curves, ends};
use crate::report::figure::Build;
use crate::report::theme::count;
use crate::report::{Drawing, FigureEntry, ReportError};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "sets-by-depth",
    title: "Merging sets per unprotected token, run by run",
    question: "Is sparsity a property of the model, and not of the data?",
    reading: "A panel is a run, a line is a data set: the mean over the KV heads of each layer, with its 95 % interval over samples. \
              Depth 0 is a model's first layer, 1 its last. Where the lines of a panel lie together and panels differ, sparsity is \
              the model's; where a data set's line is the same in all panels and lines part, it is the data's. At 1 nothing merges.",
    needs: "a comparison of runs that have merging sets",
    build: Build::Comparison(build),
};

fn build(comparison: &Comparison) -> Result<Vec<Drawing>, ReportError> {
    let runs: Vec<&ComparedRun> = comparison.runs.iter().filter(|run| run.sets.is_some()).take(MOST_RUNS).collect();
    // A data set has one look, and one place in the legend, in all panels.
    let mut names: Vec<&str> = Vec::new();
    for dataset in runs.iter().flat_map(|run| of(run)) {
        if !names.contains(&dataset.dataset.as_str()) {
            names.push(&dataset.dataset);
        }
    }
    if runs.is_empty() || names.is_empty() {
        return Ok(Vec::new());
    }
    let panel = |run: &&ComparedRun| {
        let curve = |(at, name): (usize, &&str)| {
            let found = of(run).iter().find(|dataset| dataset.dataset == **name);
            let layers: &[Interval] = found.map_or(&[], |dataset| &dataset.layers);
            let depths = || run.layers.iter().map(|layer| relative_depth(*layer, run.model.n_layers)).zip(layers);
            let points = depths().map(|(depth, sets)| (depth, pool::known(Some(sets.estimate)))).collect();
            let band = depths().map(|(depth, sets)| (depth, sets.low.zip(sets.high))).collect();
            Curve { band, ..Curve::new(name, theme::look(at), points) }
        };
        (run.name.clone(), names.iter().enumerate().map(curve).collect::<Vec<_>>())
    };
    let panels: Vec<_> = runs.iter().map(panel).collect();
    let all = ends(panels.iter().flat_map(|panel| &panel.1));
    let figure = Curves {
        x: Axis::linear((0.0, 1.0), 5, "Relative depth of the layer"),
        y: Axis::linear(covering((0.0, 1.0), all, (0.0, 2.0)), 6, "Sets per unprotected token"),
        band_name: "95 % interval over samples".into(),
        panels,
        ..Curves::default()
    };
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(comparison.eps));
    let n_samples = runs.iter().fold(0usize, |sum, run| sum.saturating_add(run.n_samples));
    let n_tokens = runs.iter().fold(0usize, |sum, run| sum.saturating_add(run.n_tokens));
    let subtitle = [
        count(runs.len(), "run"),
        count(names.len(), "data set"),
        count(n_samples, "sample"),
        count(n_tokens, "token"),
        "lines are means over the KV heads of a layer".into(),
    ];
    Ok(vec![figure.drawing(ENTRY.name, &title, subtitle.join(" · "))?])
}

fn of(run: &ComparedRun) -> &[DatasetSets] {
    run.sets.as_ref().map_or(&[], |sets| &sets.datasets)
}
