//! What a profile chose for every head.

use crate::format::profile::{HeadProfile, Profile};
use crate::report::figure::Build;
use crate::report::heat::{Gap, Grid, Panels};
use crate::report::pool;
use crate::report::scale::Scale;
use crate::report::{Drawing, FigureEntry, ReportError};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "profile-thresholds",
    title: "Policy, size and threshold of every head",
    question: "Where does the profile spend its slots, and where does it merge?",
    reading: "Left: the policy of each head, by letter. Middle: the slots that it keeps, of the tokens seen. Right: the cosine \
              above which neighbours are joined on the calibration samples, in heads whose policy joins any; a low threshold merges more.",
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
    let grid = |title: &str, scale, decimals, value: &dyn Fn(&HeadProfile) -> Option<f64>| {
        let all: BTreeMap<pool::Head, Option<f64>> =
            profile.heads.iter().map(|h| ((h.layer, h.kv_head), pool::known(value(h)))).collect();
        Grid::new(title, (&layers, &heads), pool::grid(&all, &layers, &heads), scale, decimals)
    };
    // Settings that no head has need no letter.
    let used: Vec<usize> = profile.heads.iter().map(|head| head.setting).collect::<BTreeSet<_>>().into_iter().collect();
    let kind = |head: &HeadProfile| used.iter().position(|setting| *setting == head.setting).map(|kind| kind as f64);
    let name = |setting: &usize| profile.settings.get(*setting).cloned().unwrap_or_default();
    let policy = grid("Policy", (Scale::linear(0.0, 1.0), "policy"), 0, &kind);
    let threshold = grid("Cosine threshold", (Scale::COSINE, "Cosine above which neighbours are joined"), 2, &|head| {
        head.eps.map(f64::from)
    });
    let grids = vec![
        Grid { kinds: used.iter().map(name).collect(), ..policy },
        grid("Slots kept", (Scale::PERCENT, "% of tokens"), 0, &|head| Some(100.0 * head.kept_fraction)),
        Grid { gap: Gap::Blank("joins no neighbours"), ..threshold },
    ];
    let subtitle = format!(
        "{} · search {} · asked for {:.0} % {}, kept {:.1} % of the slots on calibration samples",
        pool::profile_subtitle(profile),
        profile.search,
        100.0 * profile.target_kept_fraction,
        profile.budget_of(),
        100.0 * profile.calibration_kept_fraction.estimate
    );
    let panels = Panels { grids, axes: ("Layer", "KV head") };
    Ok(vec![panels.drawing(ENTRY.name, ENTRY.title, subtitle)?])
}
