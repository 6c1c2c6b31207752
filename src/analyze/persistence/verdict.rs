//! Persistence in words.

use crate::analyze::persistence::FALSE_DISCOVERY_RATE;
use crate::format::analysis::Evidence;
use crate::math::Interval;
use crate::say::{percent, percent_interval};

/// Heads named; more are counted.
const NAMED: usize = 6;
/// Level at which a permutation test counts.
const LEVEL: f64 = 0.05;

/// Why nothing can be said.
pub(super) fn too_few(n_used: usize, n_left_out: usize, n_heads: usize) -> String {
    if n_heads < 2 {
        return "One head alone cannot tell what is the model's and what is the data's.".into();
    }
    format!(
        "Too little to tell whether sparsity is the model's or the data's: that takes two data sets with two samples each, \
         and {} (data sets with fewer samples or without merging sets: {n_left_out}).",
        match n_used {
            0 => "there is none".into(),
            n => format!("there is {n}"),
        }
    )
}

/// What the numbers say.
pub(super) fn verdict(evidence: &Evidence, tolerance: f64) -> String {
    let n_heads = evidence.heads.len();
    let n_datasets = evidence.datasets.len();
    let mut words = format!(
        "{}: at eps {}, {} of {n_heads} heads, {}, keep their sets per token within {tolerance} of their mean in all of {n_datasets} \
         data sets ({} samples).",
        conclusion(evidence),
        evidence.eps,
        evidence.heads.iter().filter(|head| head.persistent).count(),
        evidence.persistent_share.map_or_else(|| "-".into(), |share| percent_interval(share, 1)),
        evidence.n_samples,
    );
    if let Some(variance) = &evidence.variance {
        words += &format!(
            " Of the variance {} is between heads, {} between data sets, {} data sets acting on single heads, {} within \
             data sets.",
            percent_interval(variance.head, 1),
            percent_interval(variance.dataset, 1),
            percent_interval(variance.interaction, 1),
            percent(variance.sample.estimate + variance.residual.estimate, 1),
        );
    }
    if let (Some(w), Some(null)) = (evidence.kendall_w, evidence.rank_null) {
        let verb = if null.p <= LEVEL { "rank the heads alike" } else { "are not shown to rank the heads alike" };
        words +=
            &format!(" Data sets {verb} (Kendall's W {:.3}, chance {:.3}, p {:.3}).", w.estimate, null.mean_w, null.p);
    }
    if let Some(test) = evidence.dataset_test {
        let affected = evidence.heads.iter().filter_map(|head| head.test);
        let affected = affected.filter(|test| test.q <= FALSE_DISCOVERY_RATE).count();
        let verb = if test.p <= LEVEL { "They do differ" } else { "They are not shown to differ" };
        words += &format!(" {verb} beyond their samples (p {:.3}; {affected} heads at q <= 0.05).", test.p);
    }
    words + &power(evidence) + &not_persistent(evidence)
}

/// What the test of single heads could not have found, if anything.
fn power(evidence: &Evidence) -> String {
    let n_tests = evidence.heads.iter().filter(|head| head.test.is_some()).count();
    match evidence.lowest_head_p {
        Some(lowest) if lowest > FALSE_DISCOVERY_RATE => format!(
            " With so few samples the test of single heads can find nothing: its lowest possible p is {lowest:.2}."
        ),
        // The first of n ordered p values must be below the rate over n.
        Some(lowest) if lowest * n_tests as f64 > FALSE_DISCOVERY_RATE => format!(
            " With so few samples the test of single heads has little power: its lowest possible p is {lowest:.4}, so that no \
             head reaches q <= {FALSE_DISCOVERY_RATE} unless at least {} of {n_tests} do together.",
            (lowest * n_tests as f64 / FALSE_DISCOVERY_RATE).ceil()
        ),
        _ => String::new(),
    }
}

/// Whose property sparsity is; a share counts as the larger one when its interval lies above one half.
fn conclusion(evidence: &Evidence) -> &'static str {
    let alike = evidence.rank_null.is_some_and(|null| null.p <= LEVEL);
    let differ = evidence.dataset_test.is_some_and(|test| test.p <= LEVEL);
    let Some(variance) = &evidence.variance else { return "Nothing varies" };
    let half = |part: Interval| part.low.unwrap_or(part.estimate) > 0.5;
    match (alike, differ) {
        (true, _) if half(variance.head) => "Sparsity is mostly a property of the model",
        (_, true) if variance.of_datasets() > variance.head.estimate => {
            "Sparsity is more the data set's than the model's"
        }
        (true, true) => "Sparsity is in part the model's and in part the data set's",
        (true, false) => "Sparsity is in part the model's, the rest varies from text to text",
        (false, _) => "Sparsity is not shown to be a property of the model",
    }
}

/// The heads beyond the tolerance, the farthest first.
fn not_persistent(evidence: &Evidence) -> String {
    let mut rest: Vec<_> = evidence.heads.iter().filter(|head| !head.persistent).collect();
    if rest.is_empty() {
        return String::new();
    }
    rest.sort_by(|a, b| b.deviation.total_cmp(&a.deviation));
    let named: Vec<String> = rest
        .iter()
        .take(NAMED)
        .map(|head| format!("{}:{} ({:.2})", head.layer, head.kv_head, head.deviation))
        .collect();
    let more = match rest.len().saturating_sub(NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!(" Beyond it, as layer:head: {}{more}.", named.join(", "))
}
