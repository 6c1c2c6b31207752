//! A comparison of runs as tables.

use crate::cli::common::Common;
use crate::cli::output::printable;
use crate::cli::table::{Table, bounds, digits, estimate, name, number, parts, wrapped};
use crate::format::comparison::{Against, ComparedRun, Comparison, FigureId, HeadSets};

/// Widest name of a run.
const RUN_COLUMNS: usize = 60;
/// Room for the columns of all runs.
const FIGURE_COLUMNS: usize = 76;
/// Heads named of a run.
pub(crate) const NAMED_HEADS: usize = 5;

/// The verdict; every run's size, merging sets and what they depend on; every figure, a column for each run; then runs with the heads of
/// the first against it.
pub(crate) fn comparison_text(comparison: &Comparison, common: &Common) -> String {
    let mut text = String::from("\n");
    comparison.verdict().iter().for_each(|sentence| text += &wrapped(sentence));
    text += &format!("\n{}\n{}\n", runs(comparison), sets(comparison));
    text += "heads, data sets, rest: shares of the variance. W: agreement of data sets on the order of heads.\n\
             apart: mean distance of two data sets at equal depth. - where an analysis cannot tell.\n";
    text += &most_merging(comparison);
    text += &format!("\n{}\nMeans over heads and samples.", figures(comparison, common));
    text += if common.verbose > 0 { "\n" } else { " Errors at other budgets: --verbose.\n" };
    for (first, run, against) in comparison.pairs().filter(|(first, run, _)| run.has_heads_of(first)) {
        let samples = if against.paired { "the same samples, compared pair by pair" } else { "different samples" };
        let title = format!("{} against {}, head by head: {samples}", label(run), label(first));
        text += &format!("\n{}\n{}", wrapped(&title), differences(against, common));
        text += "A head differs where its own 95 % interval leaves out 0.\n";
        text += &largest(against);
    }
    text
}

fn label(run: &ComparedRun) -> String {
    printable(&run.name, RUN_COLUMNS)
}

fn runs(comparison: &Comparison) -> Table {
    let mut table = Table::new([name("run"), name("heads"), number("data sets"), number("samples"), number("tokens")]);
    for run in &comparison.runs {
        let counts = [run.datasets.len(), run.n_samples, run.n_tokens].map(|n| n.to_string());
        table.row([vec![run.name.clone(), run.shape()], counts.to_vec()].concat());
    }
    table
}

fn sets(comparison: &Comparison) -> Table {
    let mut table = Table::new([
        name("merging sets"),
        number("per token"),
        number("95 % interval"),
        number("heads, %"),
        number("data sets, %"),
        number("rest, %"),
        number("W"),
        number("apart"),
    ]);
    for run in &comparison.runs {
        let sets = run.sets.as_ref();
        let ratio = run.set_ratio().map(|figure| figure.mean);
        let shares = sets.and_then(|sets| sets.variance);
        let percent = |share: Option<f64>| digits(share.map(|share| 100.0 * share), 0);
        table.row([
            run.name.clone(),
            estimate(ratio, 3),
            bounds(ratio, 3),
            percent(shares.map(|v| v.head.estimate)),
            percent(shares.map(|v| v.of_datasets())),
            percent(shares.map(|v| v.of_samples())),
            estimate(sets.and_then(|sets| sets.kendall_w), 2),
            estimate(sets.and_then(|sets| sets.between_datasets), 3),
        ]);
    }
    table
}

/// Which heads merge most, run by run.
fn most_merging(comparison: &Comparison) -> String {
    // Not broken before its number.
    let head = |head: &&HeadSets| format!("{}:{}\u{a0}({:.3})", head.layer, head.kv_head, head.mean.estimate);
    let line = |run: &ComparedRun| {
        let heads: Vec<String> = run.sets.as_ref()?.most_merging(NAMED_HEADS).iter().map(head).collect();
        Some(wrapped(&format!("  {}: {}", label(run), heads.join(", "))))
    };
    let lines: String = comparison.runs.iter().filter_map(line).collect();
    if lines.is_empty() { lines } else { format!("Heads that merge most, as layer:head (sets per token):\n{lines}") }
}

/// Errors at a half, or as near to it as was measured, and with --verbose at all budgets.
fn is_shown(id: &FigureId, all: &[&FigureId], common: &Common) -> bool {
    let distance = |id: &FigureId| id.budget.map(|budget| (budget - 0.5).abs());
    let nearest = all.iter().filter_map(|id| distance(id)).min_by(f64::total_cmp);
    common.verbose > 0 || id.budget.is_none() || distance(id) == nearest
}

fn figures(comparison: &Comparison, common: &Common) -> Table {
    let widest = (FIGURE_COLUMNS / comparison.runs.len().max(1)).clamp(8, 18) - 2;
    let runs = comparison.runs.iter().map(|run| parts(&label(run), widest));
    let mut table = Table::new(std::iter::once(name("figure")).chain(runs).collect::<Vec<_>>());
    let all = comparison.figures();
    for id in all.iter().filter(|id| is_shown(id, &all, common)) {
        let values = comparison.runs.iter().map(|run| estimate(run.figure(id), 3));
        table.row(std::iter::once(id.name()).chain(values).collect::<Vec<_>>());
    }
    table
}

fn differences(against: &Against, common: &Common) -> Table {
    let mut table = Table::new([
        name("figure"),
        number("difference"),
        number("95 % interval"),
        number("heads differ"),
        number("rank agreement"),
    ]);
    let all: Vec<&FigureId> = against.figures.iter().map(|figure| &figure.id).collect();
    for figure in against.figures.iter().filter(|figure| is_shown(&figure.id, &all, common)) {
        table.row([
            figure.id.name(),
            format!("{:+.3}", figure.difference.estimate),
            bounds(Some(figure.difference), 4),
            format!("{} of {}", figure.n_differ, figure.heads.len()),
            estimate(figure.rank_agreement, 3),
        ]);
    }
    table
}

/// The heads whose merging sets differ most.
fn largest(against: &Against) -> String {
    let Some(sets) = against.sets().filter(|sets| sets.n_differ > 0) else { return String::new() };
    let mut heads: Vec<_> = sets.heads.iter().filter(|head| head.differs).collect();
    heads.sort_by(|a, b| b.difference.estimate.abs().total_cmp(&a.difference.estimate.abs()));
    let named = heads.iter().take(NAMED_HEADS);
    let named: Vec<String> =
        named.map(|head| format!("{}:{} ({:+.3})", head.layer, head.kv_head, head.difference.estimate)).collect();
    wrapped(&format!("Largest differences of sets, as layer:head: {}.", named.join(", ")))
}
