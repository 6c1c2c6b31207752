//! What a profile costs: error of the attention output, by rule.

use crate::format::profile::{CONTROL, Profile, Quality, TUNED};
use crate::report::axes::Axis;
use crate::report::dots::{Dot, Dots, Row, ends};
use crate::report::figure::Build;
use crate::report::legend::Key;
use crate::report::theme::{Look, Mark};
use crate::report::{Drawing, FigureEntry, ReportError};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "profile-quality",
    title: "Error of the attention output, by policy",
    question: "Is the profile better than one policy for all heads, is merging better than evicting, and does it hold on samples that were not tuned on?",
    reading: "Relative error of the attention output of the tokens that follow, mean over layers; left is better. The \
              control keeps the profile's slots and folds nothing into them: a profile that is not left of it gains nothing by \
              merging. The other rows give every head one policy and one size.",
    needs: "a profile that was tuned on a dump with queries",
    build: Build::Profile(build),
};

fn build(profile: &Profile) -> Result<Vec<Drawing>, ReportError> {
    if profile.quality.is_empty() {
        return Ok(Vec::new());
    }
    let (first, second) = (theme::look(0), Look { mark: Mark::Square, ..theme::look(1) });
    let with_held_out = profile.quality.iter().any(|q| pool::known_interval(q.held_out).is_some());
    let row = |quality: &Quality| {
        let label = match quality.rule.as_str() {
            CONTROL => "the profile, evicting (control)",
            TUNED => "the profile",
            rule => rule,
        };
        let dot = |look, filled, value| Dot {
            look,
            filled,
            value: pool::known_interval(value).map(|value| value.times(100.0)),
        };
        let mut dots = vec![dot(first, true, Some(quality.calibration))];
        dots.extend(with_held_out.then(|| dot(second, false, quality.held_out)));
        Row { label: label.into(), strong: quality.rule == CONTROL, dots }
    };
    let rows: Vec<Row> = profile.quality.iter().take(40).map(row).collect();
    let mut keys = vec![(Key::Point(first, true), "calibration samples".to_string())];
    if with_held_out {
        keys.push((Key::Point(second, false), "held-out samples".into()));
    }
    let control = rows.iter().find(|row| row.strong).and_then(|row| row.dots.iter().rev().find_map(|dot| dot.value));
    if control.is_some() {
        keys.push((Key::Dashes(theme::INK), "error of the control".into()));
    }
    let (low, high) = ends(&rows).unwrap_or((1.0, 100.0));
    let axis = Axis::decades([low, high], (1.0, 100.0), "Error of the attention output, ‖o − o′‖ / ‖o‖, % (log scale)");
    let upright = control.map(|control| control.estimate);
    let figure = Dots { groups: vec![(String::new(), rows)], axis, decimals: 1, keys, upright, ..Dots::default() };
    let subtitle = format!("{} · bars: 95 % interval over samples", pool::profile_subtitle(profile));
    Ok(vec![figure.drawing(ENTRY.name, ENTRY.title, subtitle)?])
}
