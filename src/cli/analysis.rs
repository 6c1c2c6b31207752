//! An analysis as tables.

use crate::analyze::summary;
use crate::cli::blocks::blocks;
use crate::cli::common::Common;
use crate::cli::output::printable;
use crate::cli::table::{Table, bounds, digits, estimate, name, number, verdict, wrapped};
use crate::format::analysis::{Analysis, QueryAware, RuleError};

/// Layers shown at either end.
const SHOWN_LAYERS: usize = 3;
/// Widest name of a model.
const MODEL_COLUMNS: usize = 40;

/// Size, similarity and sparsity of every data set, what merging costs at every budget, and the verdicts.
pub(crate) fn analysis_text(analysis: &Analysis, common: &Common) -> String {
    let summary = summary(analysis);
    let mut table = Table::new([
        name("data set"),
        number("samples"),
        number("tokens"),
        number("cos k"),
        number("pre rope"),
        number("cos v"),
        number("sets"),
        number("kept"),
        number("95 % interval"),
    ]);
    for dataset in &summary.datasets {
        table.row([
            dataset.dataset.into(),
            dataset.n_samples.to_string(),
            dataset.n_tokens.to_string(),
            digits(dataset.cosine_k, 3),
            digits(dataset.cosine_k_pre_rope, 3),
            digits(dataset.cosine_v, 3),
            digits(dataset.set_ratio, 3),
            estimate(dataset.kept_fraction, 3),
            bounds(dataset.kept_fraction, 3),
        ]);
    }
    let title = format!(
        "{}: {} of {} layers, {} of {} KV heads each; sets at eps {}",
        printable(&analysis.model.name, MODEL_COLUMNS),
        analysis.layers.len(),
        analysis.model.n_layers,
        summary.n_kv_heads,
        analysis.model.n_kv_heads,
        summary.eps.map_or_else(|| "-".into(), |eps| eps.to_string()),
    );
    let mut text = format!("{title}\n\n{table}\n");
    text += "cos: mean cosine of neighbouring tokens. sets: merging sets per unprotected token.\n\
             kept: share of the cache's slots that stay, and its interval over samples.\n\n";
    if let Some(queries) = analysis.queries.as_ref().filter(|queries| !queries.budgets.is_empty()) {
        text += &format!(
            "{}paper is the published rule, log-count the default. evict drops what the others merge.\n\n",
            errors(queries)
        );
    }
    if !summary.heads.is_empty() {
        let merged = summary.heads.iter().map(|(place, ratio)| (*place, ratio.map(|ratio| 1.0 - ratio))).collect();
        text += &blocks("Tokens that merge away, ▁ none to █ all that may", &merged, (0.0, 1.0));
        text.push('\n');
    }
    let layers: Vec<usize> = summary.layers.iter().map(|(layer, _)| *layer).collect();
    text += &wrapped(&format!(
        "Most mergeable layers: {}. Least mergeable: {}.",
        listed(layers.iter().take(SHOWN_LAYERS)),
        listed(layers.iter().rev().take(SHOWN_LAYERS))
    ));
    let verdicts = [
        analysis.queries.as_ref().map(|queries| &queries.verdict),
        analysis.persistence.as_ref().map(|persistence| &persistence.verdict),
    ];
    verdicts.into_iter().flatten().for_each(|words| text += &verdict(words, common));
    text
}

fn listed<'a>(layers: impl Iterator<Item = &'a usize>) -> String {
    let items: Vec<String> = layers.map(usize::to_string).collect();
    if items.is_empty() { "-".into() } else { items.join(", ") }
}

/// Errors of the attention output, a row for every budget and a column for every rule.
fn errors(queries: &QueryAware) -> String {
    let rules = queries.rules.iter().map(|rule| number(rule));
    let mut table = Table::new(std::iter::once(name("error of the output, %")).chain(rules).collect::<Vec<_>>());
    for (budget, errors) in queries.budgets.iter().zip(queries.errors.chunks(queries.rules.len().max(1))) {
        let percent = |error: &RuleError| estimate(error.error.map(|error| error.times(100.0)), 2);
        let kept = format!("{:.0} % kept", 100.0 * budget);
        table.row(std::iter::once(kept).chain(errors.iter().map(percent)).collect::<Vec<_>>());
    }
    table.to_string()
}
