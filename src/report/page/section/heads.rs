//! Every KV head, over all data sets.

use std::collections::BTreeMap;

use crate::format::analysis::{Analysis, HeadQueries};
use crate::format::profile::CONTROL;
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::table::{Table, column, columns, numeric, whole};
use crate::report::page::{Block, Figures};
use crate::report::pool::{Head, Measure};
use crate::report::theme::{state_label, threshold};
use crate::report::{Report, pool};

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "heads", title: "Heads", build };

fn build(report: &Report, _: &mut Figures) -> Made {
    let analysis = report.analysis.iter();
    Ok(analysis.map(|input| Block::Table(heads(&input.analysis))).collect())
}

/// Every KV head.
fn heads(analysis: &Analysis) -> Table {
    let (layers, heads) = pool::layers_and_heads(analysis);
    let states = pool::states(analysis);
    let at = pool::reference_eps(analysis).map_or_else(|| "the reference threshold".into(), threshold);
    // Title, decimals and every head's value of each column of numbers.
    let mut numbers: Vec<Numbers> = Vec::new();
    for state in &states {
        let title = format!("Mean cosine, {}", state_label(*state));
        numbers.push((title, 3, pool::neighbour_means(analysis, *state)));
    }
    for state in &states {
        let title = format!("Effective rank, {}", state_label(*state));
        numbers.push((title, 1, pool::effective_ranks(analysis, *state)));
    }
    numbers.extend(query_aware(analysis));
    let pooled = |measure| pool::pooled_at_eps(analysis, measure, analysis.reference_eps);
    let percent = |values: Values| values.into_iter().map(|(head, v)| (head, v.map(|v| 100.0 * v))).collect();
    numbers.push((format!("Set ratio at {at}"), 3, pooled(Measure::SetRatio)));
    numbers.push((format!("Kept at {at}, %"), 1, percent(pooled(Measure::Kept))));
    let mut titles = columns(&["Layer", "KV head"]);
    titles.extend(numbers.iter().map(|numbers| column(numbers.0.clone())));
    let rows = layers.iter().flat_map(|layer| heads.iter().map(move |head| (*layer, *head))).map(|head| {
        let mut row = vec![whole(head.0), whole(head.1)];
        row.extend(numbers.iter().map(|(_, decimals, of)| numeric(of.get(&head).copied().flatten(), *decimals)));
        row
    });
    Table::new("heads-caption", "Every KV head, over all data sets", titles, rows.collect())
}

/// A value of every head.
type Values = BTreeMap<Head, Option<f64>>;
/// Title, decimals and values.
type Numbers = (String, usize, Values);

/// What was measured with real queries; nothing when there were none.
fn query_aware(analysis: &Analysis) -> Vec<Numbers> {
    let Some(queries) = &analysis.queries else { return Vec::new() };
    let mut columns = vec![
        ("Logit gap, nats".to_string(), 2, pool::of_queries(analysis, |head| head.gap)),
        ("Cosine and gap, rank correlation".to_string(), 2, pool::of_queries(analysis, |head| head.cosine_predicts)),
    ];
    // The errors at the budget nearest to half of the cache, of the control and of the rule that errs least there.
    let near = |budget: &f64| (budget - 0.5).abs();
    let budgets = queries.budgets.iter().copied().enumerate();
    let Some((at, budget)) = budgets.min_by(|a, b| near(&a.1).total_cmp(&near(&b.1))) else { return columns };
    let error = |rule: &str| {
        let found = queries.errors.iter().find(|error| error.budget == budget && error.rule == rule);
        pool::known_interval(found.and_then(|found| found.error)).map(|error| error.estimate)
    };
    let merging = queries.rules.iter().filter(|rule| *rule != CONTROL);
    let best = merging.filter_map(|rule| error(rule).map(|e| (e, rule))).min_by(|a, b| a.0.total_cmp(&b.0));
    let control = queries.rules.iter().find(|rule| *rule == CONTROL);
    for rule in control.into_iter().chain(best.map(|(_, rule)| rule)) {
        let Some(index) = queries.rules.iter().position(|other| other == rule) else { continue };
        let value = |head: &HeadQueries| {
            head.errors.get(at).and_then(|errors| errors.get(index).copied().flatten()).map(|error| 100.0 * error)
        };
        let title = format!("Output error at {:.0} % kept, {rule}, %", 100.0 * budget);
        columns.push((title, 1, pool::of_queries(analysis, value)));
    }
    columns
}
