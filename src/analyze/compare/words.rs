//! A comparison as a table for a terminal.

use std::fmt::Write;

use crate::analyze::short;
use crate::format::comparison::Comparison;
use crate::format::comparison::FigureDifference;

/// Widest name of a run.
const NAME_WIDTH: usize = 60;
/// Heads named below the table.
const NAMED: usize = 5;

/// A line per figure: both means, the difference with its interval, the heads that differ, and whether both runs order the
/// heads alike; then the heads whose merging sets differ most. At most 100 columns wide.
pub fn comparison_table(comparison: &Comparison) -> String {
    let mut text = String::new();
    for (name, run) in [("A", &comparison.a), ("B", &comparison.b)] {
        let model = short(&run.model.name, NAME_WIDTH);
        let _ = writeln!(text, "{name}: {model}, {} samples, {} tokens", run.n_samples, run.n_tokens);
    }
    let how = if comparison.paired { "the same samples, compared pair by pair" } else { "different samples" };
    let _ = writeln!(text, "{how}\n");
    let header = ("figure", "A", "B", "B - A", "95 % interval", "differ", "rank agreement");
    let (figure, a, b, difference, interval, differ, rho) = header;
    let _ = writeln!(text, "{figure:<24} {a:>7} {b:>7} {difference:>7}  {interval:<17} {differ:>6} {rho}");
    for figure in &comparison.figures {
        text.push_str(&line(figure));
    }
    text.push_str(
        "\nmeans over heads and samples. differ: heads whose own interval leaves out 0 (5 % do by chance).\n",
    );
    text.push_str("rank agreement: Spearman's rho of the heads' means in A and in B.\n");
    let sets = comparison.figures.iter().find(|figure| figure.metric == "set_ratio");
    if let Some(sets) = sets.filter(|sets| sets.n_differ > 0) {
        let mut heads: Vec<_> = sets.heads.iter().filter(|head| head.differs).collect();
        heads.sort_by(|a, b| b.difference.estimate.abs().total_cmp(&a.difference.estimate.abs()));
        let named = heads.iter().take(NAMED);
        let named: Vec<String> =
            named.map(|head| format!("{}:{} ({:+.3})", head.layer, head.kv_head, head.difference.estimate)).collect();
        let _ = writeln!(text, "largest differences of sets, as layer:head: {}", named.join(", "));
    }
    text
}

fn line(figure: &FigureDifference) -> String {
    let name = match (figure.metric.as_str(), figure.budget, &figure.rule) {
        ("neighbour_cosine_mean", ..) => format!("cosine {}", figure.state),
        ("set_ratio", ..) => "sets per token".into(),
        ("kept_fraction", ..) => "kept".into(),
        ("logit_gap", ..) => "logit gap, nats".into(),
        ("cosine_predicts_gap", ..) => "cosine predicts gap".into(),
        (_, Some(budget), Some(rule)) => format!("error {rule} at {:.0} %", 100.0 * budget),
        (metric, ..) => metric.into(),
    };
    let ends = |low: Option<f64>, high: Option<f64>| match (low, high) {
        (Some(low), Some(high)) => format!("{low:+.4} {high:+.4}"),
        _ => "-".into(),
    };
    let agreement = figure.rank_agreement.map_or_else(
        || "-".into(),
        |rho| match (rho.low, rho.high) {
            (Some(low), Some(high)) => format!("{:.3} ({low:.3} to {high:.3})", rho.estimate),
            _ => format!("{:.3}", rho.estimate),
        },
    );
    let heads = format!("{}/{}", figure.n_differ, figure.heads.len());
    format!(
        "{:<24} {:>7.3} {:>7.3} {:>+7.3}  {:<17} {heads:>6} {agreement}\n",
        short(&name, 24),
        figure.a,
        figure.b,
        figure.difference.estimate,
        ends(figure.difference.low, figure.difference.high),
    )
}
