//! Tables of the HTML file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::files::ModelIdentity;
use crate::files::Provenance;
use crate::format::analysis::Analysis;
use crate::format::analysis::HeadQueries;
use crate::format::dump::State;
use crate::format::evaluation::Evaluation;
use crate::format::evaluation::headline;
use crate::format::generation::Generated;
use crate::format::profile::CONTROL;
use crate::format::profile::Profile;
use crate::format::profile::TUNED;
use crate::math::Interval;
use crate::report::ReportInput;
use crate::report::drawing::escape;
use crate::report::page::summary::percent;
use crate::report::page::summary::percent_interval;
use crate::report::pool;
use crate::report::pool::Head;
use crate::report::pool::Measure;
use crate::report::theme::number;
use crate::report::theme::thousands;
use crate::report::theme::threshold;

/// A cell: text, or a number with what to sort by; "–" stands for no data.
enum Cell {
    Text(String),
    Number(f64, String),
    Unknown,
}

fn numeric(value: Option<f64>, decimals: usize) -> Cell {
    pool::known(value).map_or(Cell::Unknown, |v| Cell::Number(v, number(v, decimals)))
}

fn whole(value: usize) -> Cell {
    Cell::Number(value as f64, thousands(value as u64))
}

fn table(caption: &str, id: &str, columns: &[&str], rows: impl Iterator<Item = Vec<Cell>>) -> String {
    let mut html = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}\">\n<table class=\"sortable\">\n\
         <caption id=\"{id}\">{}</caption>\n<thead><tr>",
        escape(caption)
    );
    for column in columns {
        html += &format!("<th scope=\"col\">{}</th>", escape(column));
    }
    html += "</tr></thead>\n<tbody>\n";
    for row in rows {
        html += "<tr>";
        for (i, cell) in row.into_iter().enumerate() {
            let (tag, scope) = if i == 0 { ("th", " scope=\"row\"") } else { ("td", "") };
            html += &match cell {
                Cell::Text(text) => format!("<{tag}{scope}>{}</{tag}>", escape(&text)),
                Cell::Number(value, text) => {
                    format!("<{tag}{scope} class=\"n\" data-v=\"{value}\">{}</{tag}>", escape(&text))
                }
                Cell::Unknown => format!("<{tag}{scope} class=\"n none\"><abbr title=\"no data\">–</abbr></{tag}>"),
            };
        }
        html += "</tr>\n";
    }
    html += "</tbody>\n</table>\n</div>\n";
    html
}

/// Every KV head.
pub(super) fn heads(input: &ReportInput) -> String {
    let analysis = &input.analysis;
    let (layers, heads) = pool::layers_and_heads(analysis);
    let states = pool::states(analysis);
    let cosines: Vec<BTreeMap<Head, Option<f64>>> =
        states.iter().map(|s| pool::neighbour_means(analysis, *s)).collect();
    let ratios = pool::pooled_at_eps(analysis, Measure::SetRatio, analysis.reference_eps);
    let kept = pool::pooled_at_eps(analysis, Measure::Kept, analysis.reference_eps);
    let chosen = input.profile.as_ref().map(|profile| {
        let heads = profile.heads.iter().map(|head| ((head.layer, head.kv_head), (profile.setting_of(head), head)));
        heads.collect::<BTreeMap<Head, _>>()
    });
    let at = pool::reference_eps(analysis).map_or_else(|| "the reference threshold".into(), threshold);
    let titles: Vec<String> =
        states.iter().map(|s| format!("Mean cosine, {}", crate::report::theme::state_label(*s))).collect();
    let ranks: Vec<BTreeMap<Head, Option<f64>>> = states.iter().map(|s| pool::effective_ranks(analysis, *s)).collect();
    let rank_titles: Vec<String> =
        states.iter().map(|s| format!("Effective rank, {}", crate::report::theme::state_label(*s))).collect();
    let query_aware = query_aware(analysis);
    let mut columns = vec!["Layer", "KV head"];
    columns.extend(titles.iter().chain(&rank_titles).map(String::as_str));
    columns.extend(query_aware.iter().map(|(title, ..)| title.as_str()));
    let (ratio_title, kept_title) = (format!("Set ratio at {at}"), format!("Kept at {at}, %"));
    columns.extend([ratio_title.as_str(), kept_title.as_str()]);
    if chosen.is_some() {
        columns.extend(["Profile's policy", "Profile's threshold", "Profile keeps, %"]);
    }
    let get = |map: &BTreeMap<Head, Option<f64>>, head: Head| map.get(&head).copied().flatten();
    let rows = layers.iter().flat_map(|layer| heads.iter().map(move |head| (*layer, *head))).map(|head| {
        let mut row = vec![whole(head.0), whole(head.1)];
        row.extend(cosines.iter().map(|c| numeric(get(c, head), 3)));
        row.extend(ranks.iter().map(|r| numeric(get(r, head), 1)));
        row.extend(query_aware.iter().map(|(_, decimals, values)| numeric(get(values, head), *decimals)));
        row.push(numeric(get(&ratios, head), 3));
        row.push(numeric(get(&kept, head).map(|k| 100.0 * k), 1));
        if let Some(chosen) = &chosen {
            let of_head = chosen.get(&head);
            row.push(of_head.map_or(Cell::Unknown, |c| Cell::Text(c.0.into())));
            row.push(numeric(of_head.and_then(|c| c.1.eps).map(f64::from), 3));
            row.push(numeric(of_head.map(|c| 100.0 * c.1.kept_fraction), 1));
        }
        row
    });
    table("Every KV head, over all data sets", "heads-caption", &columns, rows)
}

/// Title, decimals and every head's value of what was measured with real queries; nothing when there were none.
fn query_aware(analysis: &Analysis) -> Vec<(String, usize, BTreeMap<Head, Option<f64>>)> {
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
pub(super) fn datasets(input: &ReportInput) -> String {
    let analysis = &input.analysis;
    let eps = analysis.reference_eps;
    let rows = analysis.datasets.iter().enumerate().map(|(i, dataset)| {
        let cosine = |state: State| {
            let heads = pool::of_state(dataset, state).map(|s| s.heads.iter().map(|h| h.neighbours.mean));
            numeric(heads.and_then(pool::mean), 3)
        };
        let interval = analysis.kept_fraction.get(i).copied().flatten();
        let kept = match (pool::known_interval(interval), percent_interval(interval)) {
            (Some(known), Some(text)) => Cell::Number(known.estimate, text),
            _ => Cell::Unknown,
        };
        let largest = dataset.sparsity.iter().filter_map(|h| h.largest_set.get(eps)).max();
        vec![
            Cell::Text(dataset.dataset.clone()),
            whole(dataset.n_samples),
            whole(dataset.n_tokens),
            kept,
            numeric(pool::mean(pool::at_eps(dataset, Measure::SetRatio, eps).into_values()), 3),
            largest.map_or(Cell::Unknown, |n| whole(*n)),
            cosine(State::K),
            cosine(State::KPreRope),
            cosine(State::V),
        ]
    });
    let columns = [
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
    table(
        "Every data set, at the reference threshold; cosines are of neighbouring tokens",
        "datasets-caption",
        &columns,
        rows,
    )
}

/// Error of every rule.
pub(super) fn quality(profile: &Profile) -> String {
    let rows = profile.quality.iter().map(|q| {
        let cell = |interval| match pool::known_interval(interval) {
            None => Cell::Unknown,
            Some(i) => {
                let ends = i.low.zip(i.high).map(|(l, h)| format!(" ({} to {})", number(l, 3), number(h, 3)));
                Cell::Number(i.estimate, format!("{}{}", number(i.estimate, 3), ends.unwrap_or_default()))
            }
        };
        let role = match () {
            () if q.rule == CONTROL => "control: the same slots, nothing merged",
            () if q.rule == TUNED => "the profile",
            () => "one policy, equal sizes",
        };
        vec![Cell::Text(q.rule.clone()), Cell::Text(role.into()), cell(Some(q.calibration)), cell(q.held_out)]
    });
    let columns = ["Policy", "Role", "Error on calibration samples", "Error on held-out samples"];
    table("Relative error of the attention output, with 95 % intervals", "quality-caption", &columns, rows)
}

/// Every policy at every budget, over all data sets of a family and by data set.
pub(super) fn policies(evaluation: &Evaluation) -> String {
    let rows = evaluation.summary.iter().map(|entry| {
        let metric = headline(&entry.task).0;
        let interval = |interval: Option<Interval>, digits: usize| match pool::known_interval(interval) {
            None => Cell::Unknown,
            Some(i) => {
                let ends = i.low.zip(i.high).map(|(l, h)| format!(" ({} to {})", number(l, digits), number(h, digits)));
                Cell::Number(i.estimate, format!("{}{}", number(i.estimate, digits), ends.unwrap_or_default()))
            }
        };
        vec![
            Cell::Text(entry.task.clone()),
            Cell::Text(entry.dataset.clone().unwrap_or_else(|| "all".into())),
            Cell::Text(entry.policy.clone()),
            numeric(entry.budget.map(|budget| 100.0 * budget), 0),
            numeric(entry.kept_fraction.map(|kept| 100.0 * kept.estimate), 2),
            whole(entry.n),
            interval(entry.metrics.get(metric).copied(), 5),
            numeric(entry.metrics.get("top1_agreement").map(|i| i.estimate), 4),
            numeric(entry.metrics.get("perplexity_ratio").map(|i| i.estimate), 4),
        ]
    });
    let columns = [
        "Task",
        "Data set",
        "Policy",
        "Budget, %",
        "Kept, %",
        "Texts",
        "KL in nats, or score, with 95 % interval",
        "Top-1 agreement",
        "Perplexity ratio",
    ];
    table("Every policy at every budget; a score is in [0, 1]", "policies-caption", &columns, rows)
}

/// A list of names and values.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let mut html = String::from("<dl class=\"facts\">\n");
    for (name, value) in facts {
        let _ = writeln!(html, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
    }
    html + "</dl>\n"
}

/// What a model is.
pub(super) fn model(model: &ModelIdentity) -> Vec<(&'static str, String)> {
    vec![
        ("Model", model.name.clone()),
        ("Architecture", model.architecture.clone()),
        ("Layers", model.n_layers.to_string()),
        ("Heads", format!("{} query, {} KV, of dimension {}", model.n_q_heads, model.n_kv_heads, model.head_dim)),
        ("RoPE base", format!("{}", model.rope_theta)),
        ("Longest context", format!("{} tokens", thousands(model.max_positions as u64))),
    ]
}

/// How a file was made.
pub(super) fn provenance(title: &str, provenance: &Provenance, schema: &str, model: &ModelIdentity) -> String {
    let mut html = format!("<h3>{}</h3>\n", escape(title));
    html += &facts(&[
        ("Made by", format!("{}, subcommand {}", provenance.tool, provenance.command)),
        ("Format", schema.into()),
        ("Seed", provenance.seed.to_string()),
        ("Model fingerprint", model.fingerprint.clone()),
        ("Tokenizer SHA-256", model.tokenizer_sha256.clone().unwrap_or_else(|| "no data".into())),
    ]);
    let options = serde_json::to_string_pretty(&provenance.options).unwrap_or_default();
    // Line breaks are wanted here, so that each line is escaped on its own.
    let options: Vec<String> = options.lines().map(escape).collect();
    html += &format!("<p>Options:</p>\n<pre tabindex=\"0\">{}</pre>\n", options.join("\n"));
    if provenance.inputs.is_empty() {
        return html;
    }
    html += &format!(
        "<details><summary>{} that it was made from</summary>\n<ul class=\"hashes\">\n",
        crate::report::theme::count(provenance.inputs.len(), "file")
    );
    for input in &provenance.inputs {
        html += &format!("<li>{} <code>{}</code></li>\n", escape(&input.name), escape(&input.sha256));
    }
    html + "</ul></details>\n"
}

/// A generation with the compressed cache.
pub(super) fn generation(generation: &Generated) -> String {
    let mib = |bytes: u64| format!("{} MiB", number(bytes as f64 / f64::from(1 << 20), 2));
    let Generated { cache_bytes, full_cache_bytes, .. } = *generation;
    let mut rows: Vec<(&str, String)> =
        vec![("Cache", mib(cache_bytes)), ("Cache without compression", mib(full_cache_bytes))];
    if cache_bytes > 0 {
        rows.push(("Size ratio", format!("{}x", number(full_cache_bytes as f64 / cache_bytes as f64, 1))));
    }
    rows.extend(generation.kept_fraction.map(|x| ("Slots kept", percent(x))));
    let speed = |x| ("Decoding", format!("{} tokens per second", number(x, 1)));
    rows.extend(generation.decode_tokens_per_sec.map(speed));
    facts(&rows)
}
