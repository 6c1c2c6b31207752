//! What a smaller head costs: the curves that the sizes of a profile were chosen by.

use crate::format::profile::{HeadProfile, Profile};
use crate::report::axes::Axis;
use crate::report::curves::{Curve, Curves, Marks, ends};
use crate::report::figure::Build;
use crate::report::theme::Look;
use crate::report::{Drawing, FigureEntry, ReportError};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "head-errors",
    title: "Error against size, for every head",
    question: "Which heads can be made small at little cost, and where on its curve does the profile put each?",
    reading: "A thin line is a head under the policy that it was given: the error of its output by the slots that it keeps, on \
              the calibration samples. Dots are the sizes that were chosen; heads that are kept whole have no error and no dot. The thick line is the median head. A head that is \
              low at the left costs little; where curves are flat, slots would be wasted.",
    needs: "a profile with curves (kvscope tune)",
    build: Build::Profile(build),
};

/// Lines beyond this many hide each other: heads are then taken at equal steps.
const MOST_HEADS: usize = 300;

fn build(profile: &Profile) -> Result<Vec<Drawing>, ReportError> {
    let with_curves: Vec<&HeadProfile> = profile.heads.iter().filter(|head| head.curve.len() > 1).collect();
    let step = with_curves.len().div_ceil(MOST_HEADS).max(1);
    let shown: Vec<&HeadProfile> = with_curves.iter().copied().step_by(step).collect();
    let percent = |error: f32| 100.0 * f64::from(error);
    let error = |head: &HeadProfile, at: usize| {
        let found = head.curve.get(at)?.errors.get(head.setting).copied().flatten()?;
        Some(percent(found)).filter(|error| *error > 0.0)
    };
    let size = |head: &HeadProfile, at: usize| 100.0 * head.curve[at].kept_fraction;
    let thin = Look { color: theme::faint(theme::SOFT_INK, 0.35), ..theme::look(6) };
    let mut curves: Vec<Curve> = Vec::new();
    for head in &shown {
        let points = (0..head.curve.len()).filter_map(|at| Some((size(head, at), Some(error(head, at)?)))).collect();
        let name = pool::head_name((head.layer, head.kv_head));
        curves.push(Curve { marks: Marks::None, unnamed: true, ..Curve::new(&name, thin, points) });
    }
    let sizes: Vec<f64> =
        with_curves.first().map_or(Vec::new(), |h| (0..h.curve.len()).map(|at| size(h, at)).collect());
    let alike = |at: usize, head: &&&HeadProfile| head.curve.len() == sizes.len() && size(head, at) == sizes[at];
    let median = |at: usize| {
        let errors: Vec<f64> = with_curves.iter().filter(|h| alike(at, h)).filter_map(|h| error(h, at)).collect();
        pool::quantile(errors.iter().copied(), 0.5).filter(|_| 2 * errors.len() > with_curves.len())
    };
    let points = sizes.iter().enumerate().filter_map(|(at, size)| Some((*size, Some(median(at)?)))).collect();
    curves.push(Curve { marks: Marks::None, thick: true, ..Curve::new("median head", theme::look(0), points) });
    let chosen = |head: &&HeadProfile| {
        let near = |at: &usize| (size(head, *at) - 100.0 * head.kept_fraction).abs();
        let at = (0..head.curve.len()).min_by(|a, b| near(a).total_cmp(&near(b))).filter(|at| near(at) < 1.0)?;
        Some((100.0 * head.kept_fraction, Some(error(head, at)?)))
    };
    let chosen: Vec<_> = shown.iter().filter_map(chosen).collect();
    curves.push(Curve { marks: Marks::Only(3.2), ..Curve::new("sizes that were chosen", theme::look(1), chosen) });
    let Some((low, high)) = ends(&curves) else { return Ok(Vec::new()) };
    let figure = Curves {
        panels: vec![(String::new(), curves)],
        x: Axis::powers_between(1.0, 100.0, "Slots kept, % of tokens (log scale)"),
        y: Axis::decades([low, high], (1e-4, 100.0), "Squared error, % (log scale)"),
        ..Curves::default()
    };
    let some = if step > 1 { format!(" · {} of {} heads", shown.len(), with_curves.len()) } else { String::new() };
    let measure = match profile.measure.as_str() {
        "absolute" => "squared change of a head's output".to_string(),
        measure => format!("squared change of a head's output over that of the {measure}"),
    };
    let subtitle = format!("{} · {measure}{some}", pool::profile_subtitle(profile));
    Ok(vec![figure.drawing(ENTRY.name, ENTRY.title, subtitle)?])
}
