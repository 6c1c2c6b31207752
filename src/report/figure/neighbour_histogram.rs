//! Distribution of the cosines of neighbouring tokens.

use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::Axis;
use crate::report::axes::Frame;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::canvas::Area;
use crate::report::canvas::Type;
use crate::report::legend::Key;
use crate::report::legend::Legend;
use crate::report::pool;
use crate::report::theme;
use crate::report::theme::Look;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "neighbour-histogram",
    title: "Distribution of the cosine of neighbouring tokens",
    question: "How many neighbouring tokens are alike enough to merge?",
    reading: "Share of all neighbouring pairs of all heads in each bin, by data set. What lies at the right of the \
              reference threshold can be merged at that threshold.",
    needs: "keys or values in the analysis",
    build,
};

struct Steps {
    look: Look,
    /// Percent of the pairs in each bin; `None` without pairs.
    percent: Option<Vec<f64>>,
}

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let states = pool::states(analysis);
    let n_bins = states
        .iter()
        .flat_map(|s| analysis.datasets.iter().filter_map(|d| Some(pool::of_state(d, *s)?.histogram.len())))
        .max()
        .unwrap_or(0);
    if n_bins == 0 {
        return Ok(Vec::new());
    }
    let steps = |state| -> Vec<Steps> {
        let one = |(i, dataset)| {
            let bins = pool::of_state(dataset, state).map_or(&[][..], |s| &s.histogram);
            let total: f64 = bins.iter().map(|n| *n as f64).sum();
            let percent =
                (total > 0.0 && bins.len() == n_bins).then(|| bins.iter().map(|n| 100.0 * *n as f64 / total).collect());
            Steps { look: theme::look(i), percent }
        };
        analysis.datasets.iter().enumerate().map(one).collect()
    };
    let panels: Vec<(String, Vec<Steps>)> =
        states.iter().map(|s| (theme::capitalised(theme::state_label(*s)), steps(*s))).collect();
    let edge = move |i: usize| -1.0 + 2.0 * i as f64 / n_bins as f64;
    let all = || panels.iter().flat_map(|p| &p.1).filter_map(|s| s.percent.as_ref());
    // Empty bins at both ends are cut off, the same in all panels.
    let used = |i: &usize| all().any(|p| p[*i] > 0.02);
    let first = (0..n_bins).find(used).unwrap_or(0);
    let last = (0..n_bins).rev().find(used).unwrap_or(n_bins - 1);
    let x = Axis::linear(rounded(Some((edge(first), edge(last + 1))), (-1.0, 1.0), 8), 5, "");
    let top_value = extent(all().flatten().copied()).map_or(100.0, |ends| ends.1);
    let y = Axis::linear((0.0, rounded(Some((0.0, top_value)), (0.0, 100.0), 5).1), 5, "Share of pairs, %");
    let mut items: Vec<(Key, String)> =
        analysis.datasets.iter().enumerate().map(|(i, d)| (Key::Line(theme::look(i)), d.dataset.clone())).collect();
    let reference = pool::reference_eps(analysis).map(f64::from).filter(|eps| *eps > x.low && *eps < x.high);
    if let (Some(_), Some(eps)) = (reference, pool::reference_eps(analysis)) {
        items.push((Key::Dashes(theme::INK), format!("reference threshold {}", theme::threshold(eps))));
    }
    let legend = Legend::new(items, theme::WIDTH - 2.0 * theme::MARGIN - 56.0);
    let body = legend.height() + 26.0 + 280.0 + 56.0;
    let alt = format!(
        "Histograms of the cosine of neighbouring tokens for {}.",
        states.iter().map(|s| theme::state_label(*s)).collect::<Vec<_>>().join(", ")
    );
    let drawing = Drawing::new(ENTRY.name, ENTRY.title, pool::subtitle(analysis), body, move |canvas, area| {
        legend.draw(canvas, (area.x0 + 56.0, area.y0))?;
        let (left, gap, n) = (area.x0 + 56.0, 48.0, panels.len() as f64);
        let width = (area.x1 - 8.0 - left - gap * (n - 1.0)) / n;
        let top = area.y0 + legend.height() + 26.0;
        for (i, (title, steps)) in panels.iter().enumerate() {
            let x0 = left + i as f64 * (width + gap);
            let mut frame = Frame { area: Area::new(x0, top, x0 + width, top + 280.0), x: x.clone(), y: y.clone() };
            frame.x.title = "Cosine".into();
            if i > 0 {
                frame.y.title.clear();
                frame.y.ticks.iter_mut().for_each(|t| t.1.clear());
            }
            frame.draw(canvas)?;
            let middle = (frame.area.x0 + frame.area.x1) / 2.0;
            canvas.text((middle, top - 9.0), title, Type::new(theme::LABEL, theme::INK).bold().center())?;
            if let Some(eps) = reference {
                canvas.dashed(frame.at(eps, frame.y.low), frame.at(eps, frame.y.high), theme::INK, 1.4)?;
            }
            let missing = steps.iter().filter(|s| s.percent.is_none()).count();
            for Steps { look, percent } in steps {
                let Some(percent) = percent else { continue };
                let mut points = vec![frame.at(edge(first), 0.0)];
                for (bin, value) in percent.iter().enumerate().take(last + 1).skip(first) {
                    points.extend([frame.at(edge(bin), *value), frame.at(edge(bin + 1), *value)]);
                }
                points.push(frame.at(edge(last + 1), 0.0));
                canvas.path(&points, look.color, 2.0)?;
                // One mark at the peak: colours repeat when there are many data sets.
                let peak = (0..percent.len()).max_by(|a, b| percent[*a].total_cmp(&percent[*b]).then(b.cmp(a)));
                if let Some(peak) = peak.filter(|_| steps.len() > 1) {
                    theme::mark(
                        canvas,
                        frame.at((edge(peak) + edge(peak + 1)) / 2.0, percent[peak]),
                        *look,
                        3.6,
                        true,
                    )?;
                }
            }
            if missing > 0 {
                let text = format!("no data: {missing} of {}", steps.len());
                let at = (frame.area.x0 + 8.0, top + 16.0);
                canvas.text(at, &text, Type::new(theme::TICK, theme::SOFT_INK))?;
            }
        }
        Ok(())
    });
    Ok(vec![drawing.alt(alt)])
}
