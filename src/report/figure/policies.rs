//! What every policy costs at every budget: divergence from the full cache, and scores of tasks.

use crate::format::evaluation::{Evaluation, FULL, Headline, SummaryEntry};
use crate::report::axes::{Axis, covering, extent};
use crate::report::dots::{Dot, Dots, Row, ends};
use crate::report::figure::Build;
use crate::report::{Drawing, FigureEntry, ReportError};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "policies",
    title: "Divergence from the full cache, by policy",
    question: "Which policy stays closest to the full cache at the same number of slots?",
    reading: "Means over texts with 95 % bootstrap intervals, sorted within each budget, best first; less divergence (KL) or a \
              higher score is better. Intervals that overlap do not say that policies are equal: the verdict compares them text \
              by text.",
    needs: "rows of an evaluation",
    build: Build::Evaluation(build),
};

/// Divergences in nats that the axis always has.
pub(super) const KL_RANGE: (f64, f64) = (1e-4, 1.0);
/// Rows of one budget that are drawn.
const MOST_ROWS: usize = 24;

fn build(evaluation: &Evaluation) -> Result<Vec<Drawing>, ReportError> {
    pool::tasks(evaluation).iter().enumerate().filter_map(|(i, task)| of_task(evaluation, task, i)).collect()
}

fn of_task(evaluation: &Evaluation, task: &str, index: usize) -> Option<Result<Drawing, ReportError>> {
    let Headline { metric, less_is_better, .. } = evaluation.headline(task)?;
    let less_is_better = *less_is_better;
    // The full cache diverges by nothing from itself.
    let is_of = |entry: &&SummaryEntry| {
        entry.task == task && entry.dataset.is_none() && !(less_is_better && entry.policy == FULL)
    };
    let entries: Vec<&SummaryEntry> = evaluation.summary.iter().filter(is_of).collect();
    let mut groups: Vec<(Option<f64>, Vec<Row>)> = Vec::new();
    for entry in &entries {
        let value = pool::known_interval(entry.metrics.get(metric).copied());
        let dots = vec![Dot { look: theme::look(0), filled: true, value }];
        let row = Row { label: entry.policy.clone(), strong: false, dots };
        match groups.iter_mut().find(|group| group.0 == entry.budget) {
            _ if value.is_none() => (),
            Some(group) => group.1.push(row),
            None => groups.push((entry.budget, vec![row])),
        }
    }
    let mean = |row: &Row| row.dots.iter().find_map(|dot| dot.value).map_or(f64::NAN, |value| value.estimate);
    for (_, rows) in &mut groups {
        rows.sort_by(|a, b| if less_is_better { mean(a).total_cmp(&mean(b)) } else { mean(b).total_cmp(&mean(a)) });
        rows.truncate(MOST_ROWS);
    }
    let all = ends(groups.iter().flat_map(|group| &group.1))?;
    let axis = if less_is_better {
        let values = entries.iter().filter_map(|entry| entry.metrics.get(metric));
        let positive = values.flat_map(|i| [Some(i.estimate), i.low, i.high]).flatten().filter(|v| *v > 0.0);
        let (low, high) = extent(positive)?;
        Axis::decades([low, high], KL_RANGE, "KL of the next token against the full cache, nats (log scale)")
    } else {
        Axis::linear(covering((0.0, 1.0), Some(all), (0.0, 1e6)), 6, "Score, mean over texts")
    };
    let heading = |budget: Option<f64>| {
        budget.map_or("full, or sizes by threshold".into(), |b| format!("{:.0} % of slots kept", 100.0 * b))
    };
    let groups = groups.into_iter().map(|(budget, rows)| (heading(budget), rows)).collect();
    let subtitle = format!("{} · mean and 95 % interval over texts", pool::evaluation_subtitle(evaluation, task));
    let name = if index == 0 { ENTRY.name.into() } else { format!("{}-{task}", ENTRY.name) };
    let title = pool::task_title(ENTRY.title, "How every policy scores:", task, less_is_better);
    let figure = Dots { groups, axis, decimals: 4, ..Dots::default() };
    Some(figure.drawing(&name, &title, subtitle))
}
