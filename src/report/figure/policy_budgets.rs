//! What every policy costs against the budget: a curve for each.

use crate::format::evaluation::{ArmEntry, Evaluation, Headline, Role, SummaryEntry, at_sizes_of};
use crate::math::{Interval, mean};
use crate::report::axes::{Axis, covering, extent};
use crate::report::curves::{Curve, Curves};
use crate::report::figure::Build;
use crate::report::figure::policies::KL_RANGE;
use crate::report::{Drawing, FigureEntry, ReportError};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "policy-budgets",
    title: "Divergence from the full cache, by budget",
    question: "How fast does a policy get worse as fewer slots are kept, and where do two of them part?",
    reading: "Means over texts, bands are 95 % bootstrap intervals; less divergence (KL) or a higher score is better. Profiles of \
              several budgets are one curve. Bands that overlap do not say that policies are equal: the verdict compares them \
              text by text.",
    needs: "an evaluation at two budgets or more",
    build: Build::Evaluation(build),
};

/// More curves cannot be told apart.
const MOST_CURVES: usize = 7;
/// What profiles of one model are called together.
const TUNED: &str = "tuned profile";

fn build(evaluation: &Evaluation) -> Result<Vec<Drawing>, ReportError> {
    pool::tasks(evaluation).iter().enumerate().filter_map(|(i, task)| of_task(evaluation, task, i)).collect()
}

/// A policy's means by budget.
struct Series {
    name: String,
    /// Profiles come first, then what stands by itself, then what has their sizes.
    rank: usize,
    points: Vec<(f64, Interval)>,
}

fn of_task(evaluation: &Evaluation, task: &str, index: usize) -> Option<Result<Drawing, ReportError>> {
    let Headline { metric, less_is_better, .. } = evaluation.headline(task)?;
    let value = |arm: &ArmEntry| {
        let is_it = |entry: &&SummaryEntry| {
            entry.task == task && entry.dataset.is_none() && entry.policy == arm.policy && entry.budget == arm.budget
        };
        let entry = evaluation.summary.iter().find(is_it)?;
        Some((arm.budget?, pool::known_interval(entry.metrics.get(metric).copied())?))
    };
    let mut all: Vec<Series> = Vec::new();
    for arm in evaluation.arms.iter().filter(|arm| arm.role != Role::Reference) {
        let (Some(point), name) = (value(arm), name_of(evaluation, arm)) else { continue };
        match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => {
                let rank = match arm.role {
                    _ if name.starts_with(TUNED) => 0,
                    Role::AtSizes => 2,
                    _ => 1,
                };
                all.push(Series { name, rank, points: vec![point] });
            }
        }
    }
    all.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    let mut budgets: Vec<f64> = all.iter().flat_map(|series| series.points.iter().map(|point| point.0)).collect();
    budgets.sort_by(f64::total_cmp);
    budgets.dedup();
    if budgets.len() < 2 {
        return None;
    }
    let n_policies = all.len();
    let cost = |series: &Series| {
        let costs = series.points.iter().map(|(_, value)| value.estimate);
        mean(costs.map(|value| if *less_is_better { value.max(1e-9).ln() } else { -value })).unwrap_or_default()
    };
    all.sort_by(|a, b| a.rank.cmp(&b.rank).then(cost(a).total_cmp(&cost(b))));
    all.truncate(MOST_CURVES);
    let ends = |interval: Interval| [Some(interval.estimate), interval.low, interval.high];
    let values = all.iter().flat_map(|series| &series.points).flat_map(|point| ends(point.1)).flatten();
    let y = if *less_is_better {
        let (low, high) = extent(values.filter(|value| *value > 0.0))?;
        Axis::decades([low, high], KL_RANGE, "KL of the next token, nats (log scale)")
    } else {
        Axis::linear(covering((0.0, 1.0), extent(values), (0.0, 1e6)), 6, "Score, mean over texts")
    };
    let percent = |budget: f64| 100.0 * budget;
    let curve = |(i, series): (usize, &Series)| {
        let points = series.points.iter().map(|(budget, value)| (percent(*budget), Some(value.estimate))).collect();
        let band = series.points.iter().map(|(budget, value)| (percent(*budget), value.low.zip(value.high))).collect();
        Curve { band, ..Curve::new(&series.name, theme::look(i), points) }
    };
    let curves: Vec<Curve> = all.iter().enumerate().map(curve).collect();
    let x = Axis::logarithmic(
        &budgets.iter().map(|budget| percent(*budget)).collect::<Vec<_>>(),
        "Slots kept, % (log scale)",
    );
    let mut subtitle = pool::evaluation_subtitle(evaluation, task);
    if n_policies > all.len() {
        subtitle += &format!(" · {} of {n_policies} policies", all.len());
    }
    let band_name = "95 % interval over texts".to_string();
    let title = pool::task_title(ENTRY.title, "How every policy scores, by budget:", task, *less_is_better);
    let figure = Curves { panels: vec![(String::new(), curves)], x, y, band_name, ..Curves::default() };
    let name = if index == 0 { ENTRY.name.into() } else { format!("{}-{task}", ENTRY.name) };
    Some(figure.drawing(&name, &title, subtitle))
}

/// What a curve is called: profiles, and what has their names in its own, are one where no two are of one budget.
fn name_of(evaluation: &Evaluation, arm: &ArmEntry) -> String {
    let profiles: Vec<&ArmEntry> = evaluation.arms.iter().filter(|arm| arm.role == Role::Profile).collect();
    let is_alone = |profile: &ArmEntry| profiles.iter().filter(|other| other.budget == profile.budget).count() == 1;
    if !profiles.iter().all(|profile| is_alone(profile)) {
        return arm.policy.clone();
    }
    for profile in profiles {
        let name = &profile.policy;
        if let Some(policy) = arm.policy.strip_suffix(&at_sizes_of("", name)) {
            return format!("{policy}, tuned sizes");
        }
        if let Some(rest) =
            arm.policy.strip_prefix(name.as_str()).filter(|rest| rest.is_empty() || rest.starts_with(','))
        {
            return format!("{TUNED}{rest}");
        }
    }
    arm.policy.clone()
}
