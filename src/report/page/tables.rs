//! Tables of the HTML file.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::files::ModelIdentity;
use crate::format::analysis::{Analysis, HeadQueries};
use crate::format::dump::State;
use crate::format::evaluation::Evaluation;
use crate::format::generation::Generated;
use crate::format::profile::{CONTROL, Profile, TUNED};
use crate::math::Interval;
use crate::report::ReportInput;
use crate::report::page::Facts;
use crate::report::page::summary::{percent, percent_interval};
use crate::report::pool;
use crate::report::pool::{Head, Measure};
use crate::report::theme::{number, state_label, thousands, threshold};

/// A table that can be sorted by its columns.
#[derive(Serialize)]
pub(in crate::report) struct Table {
    id: &'static str,
    caption: &'static str,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// A cell: text, and what to sort by if it is a number; no text where there is no data.
#[derive(Default, Serialize)]
struct Cell {
    text: Option<String>,
    value: Option<f64>,
}

fn text(text: &str) -> Cell {
    Cell { text: Some(text.into()), value: None }
}

fn numeric(value: Option<f64>, decimals: usize) -> Cell {
    let value = pool::known(value);
    Cell { text: value.map(|v| number(v, decimals)), value }
}

fn whole(value: usize) -> Cell {
    Cell { text: Some(thousands(value as u64)), value: Some(value as f64) }
}

/// An estimate with the ends of its interval.
fn interval(interval: Option<Interval>, decimals: usize) -> Cell {
    let Some(i) = pool::known_interval(interval) else { return Cell::default() };
    let text = |value| number(value, decimals);
    let ends = i.low.zip(i.high).map(|(low, high)| format!(" ({} to {})", text(low), text(high)));
    Cell { text: Some(text(i.estimate) + &ends.unwrap_or_default()), value: Some(i.estimate) }
}

fn columns(titles: &[&str]) -> Vec<String> {
    titles.iter().map(|title| title.to_string()).collect()
}

/// Every KV head.
pub(super) fn heads(input: &ReportInput) -> Table {
    let analysis = &input.analysis;
    let (layers, heads) = pool::layers_and_heads(analysis);
    let states = pool::states(analysis);
    let at = pool::reference_eps(analysis).map_or_else(|| "the reference threshold".into(), threshold);
    // Title, decimals and every head's value of each column of numbers.
    let mut numbers: Vec<Column> = Vec::new();
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
    titles.extend(numbers.iter().map(|column| column.0.clone()));
    let chosen = input.profile.as_ref().map(|profile| {
        titles.extend(columns(&["Profile's policy", "Profile's threshold", "Profile keeps, %"]));
        let heads = profile.heads.iter().map(|head| ((head.layer, head.kv_head), (profile.setting_of(head), head)));
        heads.collect::<BTreeMap<Head, _>>()
    });
    let rows = layers.iter().flat_map(|layer| heads.iter().map(move |head| (*layer, *head))).map(|head| {
        let mut row = vec![whole(head.0), whole(head.1)];
        row.extend(numbers.iter().map(|(_, decimals, of)| numeric(of.get(&head).copied().flatten(), *decimals)));
        if let Some(chosen) = &chosen {
            let of_head = chosen.get(&head);
            row.push(of_head.map_or_else(Cell::default, |c| text(c.0)));
            row.push(numeric(of_head.and_then(|c| c.1.eps).map(f64::from), 3));
            row.push(numeric(of_head.map(|c| 100.0 * c.1.kept_fraction), 1));
        }
        row
    });
    Table { id: "heads-caption", caption: "Every KV head, over all data sets", rows: rows.collect(), columns: titles }
}

/// A value of every head.
type Values = BTreeMap<Head, Option<f64>>;
/// Title, decimals and values.
type Column = (String, usize, Values);

/// What was measured with real queries; nothing when there were none.
fn query_aware(analysis: &Analysis) -> Vec<Column> {
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

/// Every data set.
pub(super) fn datasets(input: &ReportInput) -> Table {
    let analysis = &input.analysis;
    let eps = analysis.reference_eps;
    let rows = analysis.datasets.iter().enumerate().map(|(i, dataset)| {
        let cosine = |state: State| {
            let heads = pool::of_state(dataset, state).map(|s| s.heads.iter().map(|h| h.neighbours.mean));
            numeric(heads.and_then(pool::mean), 3)
        };
        let interval = pool::known_interval(analysis.kept_fraction.get(i).copied().flatten());
        let kept = Cell { text: percent_interval(interval), value: interval.map(|kept| kept.estimate) };
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
    Table {
        id: "datasets-caption",
        caption: "Every data set, at the reference threshold; cosines are of neighbouring tokens",
        rows: rows.collect(),
        columns: columns(&[
            "Data set",
            "Samples",
            "Tokens",
            "Slots kept, with 95 % interval",
            "Set ratio",
            "Largest set, tokens",
            "Cosine, keys after RoPE",
            "Cosine, keys before RoPE",
            "Cosine, values",
        ]),
    }
}

/// Error of every rule.
pub(super) fn quality(profile: &Profile) -> Table {
    let rows = profile.quality.iter().map(|q| {
        let role = match q.rule.as_str() {
            CONTROL => "control: the same slots, nothing merged",
            TUNED => "the profile",
            _ => "one policy, equal sizes",
        };
        vec![text(&q.rule), text(role), interval(Some(q.calibration), 3), interval(q.held_out, 3)]
    });
    Table {
        id: "quality-caption",
        caption: "Relative error of the attention output, with 95 % intervals",
        rows: rows.collect(),
        columns: columns(&["Policy", "Role", "Error on calibration samples", "Error on held-out samples"]),
    }
}

/// Every policy at every budget, over all data sets of a family and by data set.
pub(super) fn policies(evaluation: &Evaluation) -> Table {
    let rows = evaluation.summary.iter().map(|entry| {
        let metric = |name: &str| entry.metrics.get(name).copied();
        vec![
            text(&entry.task),
            text(entry.dataset.as_deref().unwrap_or("all")),
            text(&entry.policy),
            numeric(entry.budget.map(|budget| 100.0 * budget), 0),
            numeric(entry.kept_fraction.map(|kept| 100.0 * kept.estimate), 2),
            whole(entry.n),
            interval(evaluation.headline(&entry.task).and_then(|headline| metric(&headline.metric)), 5),
            numeric(metric("top1_agreement").map(|i| i.estimate), 4),
            numeric(metric("perplexity_ratio").map(|i| i.estimate), 4),
        ]
    });
    Table {
        id: "policies-caption",
        caption: "Every policy at every budget; a score is in [0, 1]",
        rows: rows.collect(),
        columns: columns(&[
            "Task",
            "Data set",
            "Policy",
            "Budget, %",
            "Kept, %",
            "Texts",
            "KL in nats, or score, with 95 % interval",
            "Top-1 agreement",
            "Perplexity ratio",
        ]),
    }
}

/// What a model is.
pub(super) fn model(model: &ModelIdentity) -> Facts {
    let mut facts = vec![
        ("Model", model.name.clone()),
        ("Architecture", model.architecture.clone()),
        ("Layers", model.n_layers.to_string()),
        ("Heads", format!("{} query, {} KV, of dimension {}", model.n_q_heads, model.n_kv_heads, model.head_dim)),
        ("RoPE base", format!("{}", model.rope_theta)),
        ("Longest context", format!("{} tokens", thousands(model.max_positions as u64))),
    ];
    facts.extend(model.windows_in_words().map(|windows| ("Queries see", windows)));
    facts
}

/// A generation with the compressed cache.
pub(super) fn generation(generation: &Generated) -> Facts {
    let mib = |bytes: u64| format!("{} MiB", number(bytes as f64 / f64::from(1 << 20), 2));
    let Generated { cache_bytes, full_cache_bytes, .. } = *generation;
    let mut facts = vec![("Cache", mib(cache_bytes)), ("Cache without compression", mib(full_cache_bytes))];
    if cache_bytes > 0 {
        facts.push(("Size ratio", format!("{}x", number(full_cache_bytes as f64 / cache_bytes as f64, 1))));
    }
    facts.extend(generation.kept_fraction.map(|x| ("Slots kept", percent(x))));
    let speed = |x| ("Decoding", format!("{} tokens per second", number(x, 1)));
    facts.extend(generation.decode_tokens_per_sec.map(speed));
    facts
}
