//! What a profile chose for every head.

use crate::format::profile::{HeadProfile, Profile};
use crate::report::figure::Build;
use crate::report::heat::{Grid, Panels};
use crate::report::pool;
use crate::report::{Drawing, FigureEntry, ReportError};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "profile-thresholds",
    title: "What the profile keeps of every head",
    question: "Where does the profile spend its slots, and where does it merge?",
    reading: "Left: the slots that each head keeps, of the tokens seen. Right: the cosine above which neighbours are joined on \
              the calibration samples, in heads whose policy joins any; a low threshold merges more.",
    needs: "a profile (kvscope tune)",
    build: Build::Profile(build),
};

fn build(profile: &Profile) -> Result<Vec<Drawing>, ReportError> {
    if profile.heads.is_empty() {
        return Ok(Vec::new());
    }
    let sorted = |of: fn(&HeadProfile) -> usize| -> Vec<usize> {
        profile.heads.iter().map(of).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let (layers, heads) = (sorted(|h| h.layer), sorted(|h| h.kv_head));
    let grid = |title: &str, limits, decimals, value: fn(&HeadProfile) -> Option<f64>| {
        let all: BTreeMap<pool::Head, Option<f64>> =
            profile.heads.iter().map(|h| ((h.layer, h.kv_head), pool::known(value(h)))).collect();
        Grid::new(title, (&layers, &heads), pool::grid(&all, &layers, &heads), limits, decimals)
    };
    let grids = vec![
        grid("Slots kept, % of tokens", (0.0, 100.0), 0, |h| Some(100.0 * h.kept_fraction)),
        grid("Threshold", (-1.0, 1.0), 2, |h| h.eps.map(f64::from)),
    ];
    let subtitle = format!(
        "{} · search {} · asked for {:.0} % {}, kept {:.1} % of the slots on calibration samples",
        profile.model.name,
        profile.search,
        100.0 * profile.target_kept_fraction,
        profile.budget_of(),
        100.0 * profile.calibration_kept_fraction.estimate
    );
    let panels = Panels { grids, axes: ("Layer", "KV head"), bar: None, gaps: "joins none, or no data" };
    Ok(vec![panels.drawing(ENTRY.name, ENTRY.title, subtitle)?])
}
