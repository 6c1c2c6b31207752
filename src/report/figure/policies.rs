//! What every policy costs at every budget: divergence from the full cache, and scores of tasks.

use crate::format::evaluation::Evaluation;
use crate::format::evaluation::SummaryEntry;
use crate::format::evaluation::headline;
use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::axes::Axis;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::canvas::Area;
use crate::report::canvas::Type;
use crate::report::canvas::fit;
use crate::report::canvas::text_width;
use crate::report::legend::Key;
use crate::report::legend::Legend;
use crate::report::pool;
use crate::report::rows::interval;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry<Evaluation> = FigureEntry {
    name: "policies",
    title: "What every policy costs",
    question: "Which policy stays closest to the full cache at the same number of slots?",
    reading: "Means over texts with 95 % bootstrap intervals, sorted within each budget, best first; less divergence (KL) or a \
              higher score is better. Intervals that overlap do not say that policies are equal: the verdict compares them text \
              by text.",
    needs: "rows of an evaluation",
    build,
};

/// Rows of one budget that are drawn.
const MOST_ROWS: usize = 24;
const ROW: f64 = 27.0;
const GAP: f64 = 34.0;

fn build(evaluation: &Evaluation) -> Result<Vec<Drawing>, ReportError> {
    let mut tasks: Vec<&str> = Vec::new();
    for entry in evaluation.summary.iter().filter(|entry| entry.dataset.is_none()) {
        if !tasks.contains(&entry.task.as_str()) {
            tasks.push(&entry.task);
        }
    }
    Ok(tasks.iter().enumerate().filter_map(|(i, task)| of_task(evaluation, task, i)).collect())
}

struct Group {
    title: String,
    rows: Vec<(String, crate::math::Interval)>,
}

fn of_task(evaluation: &Evaluation, task: &str, index: usize) -> Option<Drawing> {
    let (metric, less_is_better) = headline(task);
    let entries: Vec<&SummaryEntry> =
        evaluation.summary.iter().filter(|entry| entry.task == task && entry.dataset.is_none()).collect();
    let mut budgets: Vec<Option<f64>> = Vec::new();
    for entry in &entries {
        // The full cache diverges by nothing from itself.
        let is_reference = less_is_better && entry.policy == crate::format::evaluation::FULL;
        if !budgets.contains(&entry.budget) && !is_reference {
            budgets.push(entry.budget);
        }
    }
    let groups: Vec<Group> = budgets
        .iter()
        .map(|budget| {
            let mut rows: Vec<(String, crate::math::Interval)> = entries
                .iter()
                .filter(|entry| {
                    entry.budget == *budget && !(less_is_better && entry.policy == crate::format::evaluation::FULL)
                })
                .filter_map(|entry| {
                    let known = pool::known_interval(entry.metrics.get(metric).copied())?;
                    Some((entry.policy.clone(), known))
                })
                .collect();
            rows.sort_by(|a, b| a.1.estimate.total_cmp(&b.1.estimate));
            if !less_is_better {
                rows.reverse();
            }
            rows.truncate(MOST_ROWS);
            let title =
                budget.map_or("full, or sizes by threshold".into(), |b| format!("{:.0} % of slots kept", 100.0 * b));
            Group { title, rows }
        })
        .filter(|group| !group.rows.is_empty())
        .collect();
    let values = groups.iter().flat_map(|group| &group.rows).flat_map(|(_, i)| [Some(i.estimate), i.low, i.high]);
    let (low, high) = extent(values.flatten().filter(|v| !less_is_better || *v > 0.0))?;
    let title =
        if less_is_better { "KL of the next token against the full cache, nats" } else { "Score, mean over texts" };
    let axis = if less_is_better {
        powers(low, high, title)
    } else {
        Axis::linear(rounded(Some((0.0, high)), (0.0, 1.0), 6), 6, title)
    };
    let n_texts = entries.iter().map(|entry| entry.n).max().unwrap_or(0);
    let subtitle = format!(
        "{} · {task} · {} · bars: 95 % interval over texts",
        evaluation.model.name,
        theme::count(n_texts, "text")
    );
    let alt = groups.iter().map(in_words).collect::<Vec<_>>().join(" ");
    let legend =
        Legend::new(vec![(Key::Point(theme::look(0), true), "mean".into())], theme::WIDTH - 2.0 * theme::MARGIN);
    let height: f64 = groups.iter().map(|group| GAP + group.rows.len() as f64 * ROW).sum();
    let body = legend.height() + height + 66.0;
    let name = if index == 0 { ENTRY.name.into() } else { format!("{}-{task}", ENTRY.name) };
    let drawing = Drawing::new(name, format!("{}: {task}", ENTRY.title), subtitle, body, move |canvas, area| {
        legend.draw(canvas, (area.x0, area.y0))?;
        let labels = groups.iter().flat_map(|group| &group.rows).map(|(name, _)| fit(name, theme::TICK, false, 330.0));
        let widest = labels.map(|label| text_width(&label, theme::TICK, false)).fold(0.0, f64::max);
        let top = area.y0 + legend.height() + 4.0;
        let plot = Area::new(area.x0 + widest + 18.0, top, area.x1 - 12.0, top + height);
        let px = |v: f64| plot.x0 + axis.part(v) * plot.width();
        for (value, text) in &axis.ticks {
            let x = px(*value);
            canvas.line((x, plot.y0), (x, plot.y1), theme::GRID, 1.0)?;
            canvas.text((x, plot.y1 + 18.0), text, Type::new(theme::TICK, theme::SOFT_INK).center())?;
        }
        canvas.line((plot.x0, plot.y1), (plot.x1, plot.y1), theme::EDGE, 1.2)?;
        let at = ((plot.x0 + plot.x1) / 2.0, plot.y1 + 41.0);
        canvas.text(at, &axis.title, Type::new(theme::LABEL, theme::INK).center())?;
        let mut y = plot.y0;
        for group in &groups {
            canvas.text((area.x0, y + 22.0), &group.title, Type::new(theme::LABEL, theme::INK).bold())?;
            y += GAP;
            for (policy, value) in &group.rows {
                let middle = y + ROW / 2.0;
                let text = fit(policy, theme::TICK, false, 330.0);
                canvas.text((area.x0, middle + 0.36 * theme::TICK), &text, Type::new(theme::TICK, theme::INK))?;
                interval(canvas, Some(*value), middle, &px, plot, (theme::look(0), true), 4)?;
                y += ROW;
            }
        }
        Ok(())
    });
    Some(drawing.alt(alt))
}

/// A logarithmic axis with ticks at 1, 2 and 5 times powers of ten.
fn powers(low: f64, high: f64, title: &str) -> Axis {
    let first = low.log10().floor() as i32;
    let last = high.log10().ceil() as i32;
    let all = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|lead| lead * 10f64.powi(power)));
    let (low, high) = (low / 1.3, high * 1.6);
    let ticks: Vec<f64> = all.filter(|v| (low..=high).contains(v)).collect();
    // Where the range is wide, powers of ten are enough.
    let is_power = |v: f64| (v.log10() - v.log10().round()).abs() < 1e-9;
    let few = ticks.len() > 9;
    let ticks = ticks.into_iter().filter(|v| !few || is_power(*v)).map(|v| (v, format!("{v}"))).collect();
    Axis { low, high, log: true, ticks, title: title.into() }
}

fn in_words(group: &Group) -> String {
    let rows: Vec<String> = group.rows.iter().map(|(name, i)| format!("{name} {:.4}", i.estimate)).collect();
    format!("{}: {}.", group.title, rows.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten_between_the_ends() {
        let ticks = |low, high| powers(low, high, "").ticks.into_iter().map(|tick| tick.1).collect::<Vec<_>>();
        assert_eq!(ticks(0.012, 0.06), ["0.01", "0.02", "0.05"]);
        assert_eq!(ticks(0.0011, 1.2), ["0.001", "0.01", "0.1", "1"]);
    }
}
