//! The analysis as a table for a terminal.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::format::analysis::Analysis;
use crate::format::analysis::DatasetAnalysis;
use crate::format::dump::State;
use crate::math::mean;

/// Layers shown at either end.
const SHOWN_LAYERS: usize = 3;
/// Widest line.
const LINE_WIDTH: usize = 100;
/// Widest name of a data set.
const NAME_WIDTH: usize = 24;
/// Widest name of the model, which has the title's line to itself.
const MODEL_WIDTH: usize = 40;

/// Per data set its size, similarity and sparsity at the reference threshold; then the most and least mergeable layers.
///
/// At most 100 columns wide; `-` where there is no value. The cosines are means over all pairs of neighbours of all
/// heads, the set ratio and the kept fraction are means over heads. Layers are ranked by their mean set ratio over
/// heads and data sets.
pub fn summary_table(analysis: &Analysis) -> String {
    let eps = analysis.eps_grid.get(analysis.reference_eps).map_or_else(|| "-".into(), f32::to_string);
    let heads = analysis.datasets.iter().flat_map(|d| &d.similarity).flat_map(|s| &s.heads).map(|h| h.kv_head);
    let n_heads = heads.collect::<BTreeSet<_>>().len();
    let mut text = format!(
        "{}: {} of {} layers, {} of {} KV heads each; sets at eps {eps}\n\n",
        short(&analysis.model.name, MODEL_WIDTH),
        analysis.layers.len(),
        analysis.model.n_layers,
        n_heads,
        analysis.model.n_kv_heads
    );
    line(&mut text, ["data set", "samples", "tokens", "cos k", "pre rope", "cos v", "sets", "kept", "95 % interval"]);
    for (index, dataset) in analysis.datasets.iter().enumerate() {
        let kept = analysis.kept_fraction.get(index).copied().flatten();
        let interval = kept.and_then(|kept| kept.low.zip(kept.high));
        line(
            &mut text,
            [
                &short(&dataset.dataset, NAME_WIDTH),
                &dataset.n_samples.to_string(),
                &dataset.n_tokens.to_string(),
                &number(mean_cosine(dataset, State::K)),
                &number(mean_cosine(dataset, State::KPreRope)),
                &number(mean_cosine(dataset, State::V)),
                &number(set_ratio(dataset, analysis.reference_eps, None)),
                &number(kept.map(|kept| kept.estimate)),
                &interval.map_or_else(|| "-".into(), |(low, high)| format!("{low:.3} - {high:.3}")),
            ],
        );
    }
    text.push_str("\ncos: mean cosine of neighbouring tokens. sets: merging sets per unprotected token.\n");
    text.push_str("kept: share of the cache's slots that stay, and its interval over samples.\n\n");
    let ratio = |layer: usize| {
        let values = analysis.datasets.iter().filter_map(|d| set_ratio(d, analysis.reference_eps, Some(layer)));
        mean(&values.collect::<Vec<_>>())
    };
    let mut layers: Vec<(f64, usize)> =
        analysis.layers.iter().filter_map(|layer| ratio(*layer).map(|ratio| (ratio, *layer))).collect();
    layers.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let _ = writeln!(text, "most mergeable layers:  {}", listed(layers.iter().take(SHOWN_LAYERS)));
    let _ = writeln!(text, "least mergeable layers: {}", listed(layers.iter().rev().take(SHOWN_LAYERS)));
    let verdicts = [
        analysis.queries.as_ref().map(|queries| &queries.verdict),
        analysis.persistence.as_ref().map(|persistence| &persistence.verdict),
    ];
    for verdict in verdicts.into_iter().flatten() {
        text.push('\n');
        wrap(&mut text, verdict);
    }
    text
}

/// Words in lines of at most [`LINE_WIDTH`] columns.
fn wrap(text: &mut String, words: &str) {
    let mut column = 0;
    for word in words.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > LINE_WIDTH {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}

fn line(text: &mut String, [name, samples, tokens, k, pre, v, sets, kept, interval]: [&str; 9]) {
    let full = format!(
        "{name:<NAME_WIDTH$} {samples:>7} {tokens:>9} {k:>6} {pre:>8} {v:>6} {sets:>6} {kept:>6}  {interval:<13}"
    );
    text.push_str(full.trim_end());
    text.push('\n');
}

/// Layers with their set ratios.
fn listed<'a>(layers: impl Iterator<Item = &'a (f64, usize)>) -> String {
    let items: Vec<String> = layers.map(|(ratio, layer)| format!("{layer} (sets {ratio:.3})")).collect();
    if items.is_empty() { "-".into() } else { items.join(", ") }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.3}"))
}

/// Mean over all pairs of all heads.
fn mean_cosine(dataset: &DatasetAnalysis, state: State) -> Option<f64> {
    let heads = &dataset.similarity.iter().find(|s| s.state == state)?.heads;
    let (sum, n) = heads.iter().fold((0.0, 0), |(sum, n), head| {
        let pairs = &head.neighbours;
        (sum + pairs.mean.unwrap_or(0.0) * pairs.n as f64, n + pairs.n)
    });
    (n > 0).then(|| sum / n as f64)
}

/// Mean over the heads of one layer or of all.
fn set_ratio(dataset: &DatasetAnalysis, eps: usize, layer: Option<usize>) -> Option<f64> {
    let heads = dataset.sparsity.iter().filter(|head| layer.is_none_or(|layer| layer == head.layer));
    let ratios: Vec<f64> = heads.filter_map(|head| head.set_ratio.get(eps).copied().flatten()).collect();
    mean(&ratios)
}

/// A name from a file, cut to `width` and without characters that steer a terminal.
pub(crate) fn short(name: &str, width: usize) -> String {
    let clean = |c: char| if c.is_control() { '?' } else { c };
    if name.chars().count() <= width {
        return name.chars().map(clean).collect();
    }
    name.chars().take(width - 1).map(clean).chain(['…']).collect()
}
