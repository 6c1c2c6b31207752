//! Every data set at the reference threshold.

use crate::format::analysis::Analysis;
use crate::format::dump::State;
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::table::{Cell, Table, columns, numeric, sorted_by, text, whole};
use crate::report::page::words::percent_interval;
use crate::report::page::{Block, Figures};
use crate::report::pool::Measure;
use crate::report::{Report, pool};

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "datasets", title: "Data sets", build };

fn build(report: &Report, _: &mut Figures) -> Made {
    let analysis = report.analysis.iter();
    Ok(analysis.map(|input| Block::Table(datasets(&input.analysis))).collect())
}

/// Every data set.
fn datasets(analysis: &Analysis) -> Table {
    let eps = analysis.reference_eps;
    let rows = analysis.datasets.iter().enumerate().map(|(i, dataset)| {
        let cosine = |state: State| {
            let heads = pool::of_state(dataset, state).map(|s| s.heads.iter().map(|h| h.neighbours.mean));
            numeric(heads.and_then(pool::mean), 3)
        };
        let interval = pool::known_interval(analysis.kept_fraction.get(i).copied().flatten());
        let kept = sorted_by(percent_interval(interval), interval.map(|kept| kept.estimate));
        let largest = dataset.sparsity.iter().filter_map(|h| h.largest_set.get(eps)).max();
        vec![
            text(&dataset.dataset),
            whole(dataset.n_samples),
            whole(dataset.n_tokens),
            kept,
            numeric(pool::mean(pool::at_eps(dataset, Measure::SetRatio, eps).into_values()), 3),
            largest.map_or_else(Cell::default, |n| whole(*n)),
            cosine(State::K),
            cosine(State::KPreRope),
            cosine(State::V),
        ]
    });
    let titles = [
        "Data set",
        "Samples",
        "Tokens",
        "Slots kept, with 95 % interval",
        "Set ratio",
        "Largest set, tokens",
        "Cosine, keys after RoPE",
        "Cosine, keys before RoPE",
        "Cosine, values",
    ];
    let caption = "Every data set, at the reference threshold; cosines are of neighbouring tokens";
    Table::new("datasets-caption", caption, columns(&titles), rows.collect())
}
