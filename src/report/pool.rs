//! Numbers of an analysis or evaluation put together for figures and text. Unknown values stay `None`; nothing becomes 0.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::analysis::{Analysis, DatasetAnalysis, HeadQueries, HeadSimilarity, StateSimilarity};
use crate::format::dump::State;
use crate::format::evaluation::Evaluation;
use crate::format::profile::{Profile, UsedSample};
use crate::math::{Interval, Mean, quantiles};
use crate::report::theme::count;

/// Layer and KV head.
pub(super) type Head = (usize, usize);

/// The value if it is a number.
pub(super) fn known(value: Option<f64>) -> Option<f64> {
    value.filter(|v| v.is_finite())
}

/// Mean of the known values.
pub(super) fn mean(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    crate::math::mean(values.into_iter().filter_map(known))
}

/// Quantile of the values that are numbers.
pub(super) fn quantile(values: impl IntoIterator<Item = f64>, q: f64) -> Option<f64> {
    crate::math::quantile(values.into_iter().filter(|v| v.is_finite()), q)
}

/// Ends of the middle 80 % of the values that are numbers.
pub(super) fn middle(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    quantiles(values.filter(|v| v.is_finite()), [0.1, 0.9]).map(|[low, high]| (low, high))
}

/// The interval if its estimate is a number, without ends that are none.
pub(super) fn known_interval(interval: Option<Interval>) -> Option<Interval> {
    let interval = interval.filter(|i| i.estimate.is_finite())?;
    Some(Interval { low: known(interval.low), high: known(interval.high), ..interval })
}

/// States with vectors that at least one data set has, in the order of [`State::VECTORS`].
pub(super) fn states(analysis: &Analysis) -> Vec<State> {
    let has = |state: &State| analysis.datasets.iter().any(|d| of_state(d, *state).is_some());
    State::VECTORS.into_iter().filter(has).collect()
}

/// A data set's similarity of one state.
pub(super) fn of_state(dataset: &DatasetAnalysis, state: State) -> Option<&StateSimilarity> {
    dataset.similarity.iter().find(|s| s.state == state)
}

/// All data sets' heads of one state.
pub(super) fn of_heads(analysis: &Analysis, state: State) -> impl Iterator<Item = &HeadSimilarity> {
    analysis.datasets.iter().filter_map(move |dataset| of_state(dataset, state)).flat_map(|of_state| &of_state.heads)
}

/// Mean of the known values of every key, such as a head or a layer.
pub(super) fn pooled<K: Ord>(values: impl IntoIterator<Item = (K, Option<f64>)>) -> BTreeMap<K, Option<f64>> {
    let mut means: BTreeMap<K, Mean> = BTreeMap::new();
    for (key, value) in values {
        means.entry(key).or_default().extend(known(value));
    }
    means.into_iter().map(|(key, mean)| (key, mean.get())).collect()
}

/// Mean neighbour cosine of every head, over all data sets, each weighing as many pairs as it has.
pub(super) fn neighbour_means(analysis: &Analysis, state: State) -> BTreeMap<Head, Option<f64>> {
    let mut means: BTreeMap<Head, Mean> = BTreeMap::new();
    for head in of_heads(analysis, state) {
        let mean = means.entry((head.layer, head.kv_head)).or_default();
        if known(head.neighbours.mean).is_some() {
            mean.join(head.neighbours.sum());
        }
    }
    means.into_iter().map(|(head, mean)| (head, mean.get())).collect()
}

/// Effective rank about the mean of every head, over all data sets, each weighing the same.
pub(super) fn effective_ranks(analysis: &Analysis, state: State) -> BTreeMap<Head, Option<f64>> {
    pooled(of_heads(analysis, state).map(|head| ((head.layer, head.kv_head), head.effective_rank_centred)))
}

/// A query-aware figure of every head, over all data sets, each weighing the same.
pub(super) fn of_queries(
    analysis: &Analysis,
    value: impl Fn(&HeadQueries) -> Option<f64>,
) -> BTreeMap<Head, Option<f64>> {
    let heads = analysis.datasets.iter().flat_map(|dataset| &dataset.queries);
    pooled(heads.map(|head| ((head.layer, head.kv_head), value(head))))
}

/// A figure of a head's merging sets by threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Sets per unprotected token.
    SetRatio,
    /// Slots kept per token seen.
    Kept,
}

/// One data set's value of every head at a threshold of the grid.
pub(super) fn at_eps(dataset: &DatasetAnalysis, measure: Measure, eps: usize) -> BTreeMap<Head, Option<f64>> {
    let value = |h: &crate::format::analysis::HeadSparsity| {
        let curve = match measure {
            Measure::SetRatio => &h.set_ratio,
            Measure::Kept => &h.kept_fraction,
        };
        known(curve.get(eps).copied().flatten())
    };
    dataset.sparsity.iter().map(|h| ((h.layer, h.kv_head), value(h))).collect()
}

/// The same over all data sets, each weighing the same.
pub(super) fn pooled_at_eps(analysis: &Analysis, measure: Measure, eps: usize) -> BTreeMap<Head, Option<f64>> {
    pooled(analysis.datasets.iter().flat_map(|dataset| at_eps(dataset, measure, eps)))
}

/// The reference threshold, if the grid has it.
pub(super) fn reference_eps(analysis: &Analysis) -> Option<f32> {
    analysis.eps_grid.get(analysis.reference_eps).copied().filter(|eps| eps.is_finite())
}

/// Layers and KV heads that figures of heads show: all that were analysed, and any that a table names.
pub(super) fn layers_and_heads(analysis: &Analysis) -> (Vec<usize>, Vec<usize>) {
    let mut layers: BTreeSet<usize> = analysis.layers.iter().copied().collect();
    let mut heads = BTreeSet::new();
    for dataset in &analysis.datasets {
        let similar = dataset.similarity.iter().flat_map(|s| &s.heads).map(|h| (h.layer, h.kv_head));
        for (layer, head) in similar.chain(dataset.sparsity.iter().map(|h| (h.layer, h.kv_head))) {
            layers.insert(layer);
            heads.insert(head);
        }
    }
    (layers.into_iter().collect(), heads.into_iter().collect())
}

/// "L15 H2".
pub(super) fn head_name((layer, kv_head): Head) -> String {
    format!("L{layer} H{kv_head}")
}

/// Values by layer, then head, in the order given.
pub(super) fn grid(values: &BTreeMap<Head, Option<f64>>, layers: &[usize], heads: &[usize]) -> Vec<Option<f64>> {
    let value = |layer: usize, head: usize| values.get(&(layer, head)).copied().flatten();
    layers.iter().flat_map(|layer| heads.iter().map(move |head| value(*layer, *head))).collect()
}

/// What a figure of an evaluation is of: words for the family, and whether policies cost or score.
pub(super) fn task_title(kl: &str, score: &str, task: &str, less_is_better: bool) -> String {
    if less_is_better { kl.into() } else { format!("{score} {task}") }
}

/// "SmolLM2-135M · ruler · 7 texts · 14 336 tokens".
pub(super) fn evaluation_subtitle(evaluation: &Evaluation, task: &str) -> String {
    let of_task = || evaluation.texts.iter().filter(|text| text.task == task);
    let measured = evaluation.summary.iter().filter(|entry| entry.task == task && entry.dataset.is_none());
    let n_measured = measured.map(|entry| entry.n).max().unwrap_or(0);
    let n_texts = of_task().count();
    let texts = match n_measured {
        n if n < n_texts => format!("{n} of {}", count(n_texts, "text")),
        _ => count(n_texts, "text"),
    };
    let tokens: usize = of_task().fold(0, |sum, text| sum.saturating_add(text.n_prompt_tokens));
    let of = if n_measured < n_texts { "in all of them" } else { "of prompts" };
    format!("{} · {} · {texts} · {} {of}", evaluation.model.name, task_name(task), count(tokens, "token"))
}

/// A family's name for readers.
pub(super) fn task_name(task: &str) -> &str {
    if task == "kl" { "continuations" } else { task }
}

/// Families of an evaluation's texts that were summed up, in their order.
pub(super) fn tasks(evaluation: &Evaluation) -> Vec<&str> {
    let mut tasks: Vec<&str> = Vec::new();
    for entry in evaluation.summary.iter().filter(|entry| entry.dataset.is_none()) {
        if !tasks.contains(&entry.task.as_str()) {
            tasks.push(&entry.task);
        }
    }
    tasks
}

/// "SmolLM2-135M · 30 layers × 3 KV heads · 2 data sets · 10 samples · 20 480 tokens".
pub(super) fn subtitle(analysis: &Analysis) -> String {
    let (layers, heads) = layers_and_heads(analysis);
    let n_samples = analysis.datasets.iter().fold(0usize, |sum, dataset| sum.saturating_add(dataset.n_samples));
    let n_tokens = analysis.datasets.iter().fold(0usize, |sum, dataset| sum.saturating_add(dataset.n_tokens));
    format!(
        "{} · {} × {} · {} · {} · {}",
        analysis.model.name,
        count(layers.len(), "layer"),
        count(heads.len(), "KV head"),
        count(analysis.datasets.len(), "data set"),
        count(n_samples, "sample"),
        count(n_tokens, "token"),
    )
}

/// "SmolLM2-135M · 10 calibration and 5 held-out samples".
pub(super) fn profile_subtitle(profile: &Profile) -> String {
    let tokens = |samples: &[UsedSample]| -> Option<usize> { samples.iter().map(|sample| sample.n_tokens).sum() };
    let counted = |samples: &[UsedSample], what: &str| match tokens(samples) {
        Some(tokens) if !samples.is_empty() => {
            format!("{} ({})", count(samples.len(), what), count(tokens, "token"))
        }
        _ => count(samples.len(), what),
    };
    format!(
        "{} · {} · {}",
        profile.model.name,
        counted(&profile.calibration, "calibration sample"),
        counted(&profile.held_out, "held-out sample")
    )
}
