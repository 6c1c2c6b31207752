//! What the comparisons say, in words with numbers.

use crate::format::evaluation::{ComparisonEntry, Evaluation, Headline, Question};
use crate::math::sign_test_needs;
use crate::say::{interval, outcome, percent};

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
                "; a difference of {largest:.4} in {} between the policies compared here is found in 4 of 5 repetitions",
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
        |budget| format!("{}, {} kept", entry.task, percent(budget, 0)),
    )
}

fn sentence(entry: &ComparisonEntry, headline: &Headline) -> String {
    let ComparisonEntry { a, b, result, .. } = entry;
    let (a, b) = match entry.question {
        Question::MergeOrEvict => (format!("merging ({a})"), format!("evicting the same tokens ({b})")),
        Question::RefitOrNot => (format!("refitting ({a})"), format!("the same slots without ({b})")),
        Question::ProfileOrPaper => (format!("the tuned {a}"), format!("the paper's settings ({b})")),
        Question::ProfileOrAtSizes => (format!("the tuned {a}"), b.clone()),
        Question::BestBaselineOrNext => (format!("the best baseline ({a})"), format!("the next ({b})")),
        Question::OrBestBaseline => (a.clone(), format!("the best baseline ({b})")),
    };
    let (by, how) = result.ratio.map_or((result.difference, "difference in"), |ratio| (ratio, "ratio of"));
    let by = format!("{how} {} {:.3} ({})", headline.title, by.estimate, interval(by, 3));
    let says = outcome(&a, &b, result, headline.less_is_better);
    let (less, n) = (result.lower, result.difference.n);
    let sign = result.sign_p.map_or_else(String::new, |p| format!(", sign test p = {}", p_value(p)));
    format!("{}: {says}: {by}, lower on {less} and higher on {} of {n} texts{sign}.", place(entry), result.higher)
}

fn p_value(p: f64) -> String {
    if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }
}
