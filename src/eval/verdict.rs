//! What the comparisons say, in words with numbers.

use crate::format::evaluation::{ComparisonEntry, Evaluation, Headline, Question};
use crate::math::{Interval, sign_test_needs};

/// One sentence for each comparison, and one on what the texts can resolve.
pub(super) fn in_words(evaluation: &Evaluation) -> Vec<String> {
    let mut verdict: Vec<String> = evaluation
        .comparisons
        .iter()
        .filter_map(|entry| Some(sentence(entry, evaluation.headline(&entry.task)?)))
        .collect();
    let budgets = |entry: &&ComparisonEntry| entry.budget.map(f64::to_bits);
    let mut stated = Vec::new();
    for entry in &evaluation.comparisons {
        let key = (entry.task.as_str(), budgets(&entry));
        if stated.contains(&key) {
            continue;
        }
        stated.push(key);
        let of_group: Vec<f64> = evaluation
            .comparisons
            .iter()
            .filter(|other| (other.task.as_str(), budgets(other)) == key)
            .filter_map(|other| other.result.resolvable)
            .collect();
        let n = entry.result.difference.n;
        let sign = match sign_test_needs(n) {
            None => format!(
                "{n} texts show no direction, whichever way they fall: 6 that agree are the fewest that a sign test at the 5 % level tells from chance"
            ),
            Some(agree) => format!("of {n} texts {agree} must agree for a direction"),
        };
        let largest = of_group.iter().copied().reduce(f64::max).filter(|largest| *largest > 0.0);
        let size = largest.map_or_else(String::new, |largest| {
            format!(
                "; a difference of {} in {} between the policies compared here is found in 4 of 5 repetitions",
                number(largest),
                evaluation.headline(&entry.task).map_or("", |headline| &headline.title),
            )
        });
        verdict.push(format!("{}: {sign}{size}.", place(entry)));
    }
    verdict
}

fn place(entry: &ComparisonEntry) -> String {
    entry.budget.map_or_else(
        || format!("{}, sizes by threshold", entry.task),
        |budget| format!("{}, {:.0} % kept", entry.task, 100.0 * budget),
    )
}

fn number(x: f64) -> String {
    format!("{x:.4}")
}

fn bounds(interval: Interval) -> String {
    match (interval.low, interval.high) {
        (Some(low), Some(high)) => format!("{low:.3} to {high:.3}"),
        _ => "no interval from one text".into(),
    }
}

fn sentence(entry: &ComparisonEntry, headline: &Headline) -> String {
    let ComparisonEntry { a, b, result, .. } = entry;
    let better = entry.better(headline);
    let says = match (entry.question, better) {
        (Question::MergeOrEvict, Some(true)) => format!("merging ({a}) beats evicting the same tokens ({b})"),
        (Question::MergeOrEvict, Some(false)) => {
            format!("merging ({a}) is worse than evicting the same tokens ({b})")
        }
        (Question::MergeOrEvict, _) => {
            format!("no difference is shown between merging ({a}) and evicting the same tokens ({b})")
        }
        (Question::RefitOrNot, Some(true)) => format!("refitting ({a}) beats the same slots without ({b})"),
        (Question::RefitOrNot, Some(false)) => format!("refitting ({a}) is worse than the same slots without ({b})"),
        (Question::RefitOrNot, _) => format!("no difference is shown between refitting ({a}) and not ({b})"),
        (Question::ProfileOrPaper, Some(true)) => format!("the tuned {a} beats the paper's settings ({b})"),
        (Question::ProfileOrPaper, Some(false)) => format!("the tuned {a} is worse than the paper's settings ({b})"),
        (Question::ProfileOrPaper, _) => {
            format!("no difference is shown between the tuned {a} and the paper's settings ({b})")
        }
        (Question::BestBaselineOrNext, Some(true)) => format!("the best baseline is {a}, ahead of {b}"),
        (Question::BestBaselineOrNext, _) => format!("the best baseline is {a}, with no difference shown to {b}"),
        (Question::OrBestBaseline, Some(true)) => format!("{a} beats the best baseline ({b})"),
        (Question::OrBestBaseline, Some(false)) => format!("{a} is worse than the best baseline ({b})"),
        (Question::OrBestBaseline, _) => format!("no difference is shown between {a} and the best baseline ({b})"),
    };
    let by = match result.ratio {
        Some(ratio) => format!("ratio of {} {:.3} ({})", headline.title, ratio.estimate, bounds(ratio)),
        None => format!(
            "difference in {} {:.3} ({})",
            headline.title,
            result.difference.estimate,
            bounds(result.difference)
        ),
    };
    let (less, n) = (result.lower, result.difference.n);
    let sign = result.sign_p.map_or_else(String::new, |p| format!(", sign test p = {}", p_value(p)));
    format!("{}: {says}: {by}, lower on {less} and higher on {} of {n} texts{sign}.", place(entry), result.higher)
}

fn p_value(p: f64) -> String {
    if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }
}
