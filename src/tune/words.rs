//! What a profile comes to, in words with numbers.

use std::collections::BTreeMap;

use crate::format::profile::{CONTROL, Profile, Quality, TUNED};
use crate::math::Paired;
use crate::say::{interval, outcome, percent};

/// The outcome of a measured profile. `against_control` compares its errors with its control's, on held-out samples where there
/// are any.
pub(super) fn verdict(profile: &Profile, against_control: Option<&Paired>) -> String {
    let mut words = shape(profile);
    let error = |quality: &Quality| quality.held_out.unwrap_or(quality.calibration).estimate;
    let find = |rule: &str| profile.quality.iter().find(|quality| quality.rule == rule);
    let place = if profile.held_out.is_empty() { "calibration (no sample was held out)" } else { "held-out" };
    let Some(tuned) = find(TUNED) else { return words + " What it costs was not measured." };
    words += &format!(" On {place} samples the attention output errs by {}", percent(error(tuned), 1));
    let alone = profile.quality.iter().filter(|quality| quality.rule != TUNED && quality.rule != CONTROL);
    if let Some(best) = alone.min_by(|a, b| error(a).total_cmp(&error(b))) {
        words += &format!("; the best single setting at equal sizes, {}, by {}", best.rule, percent(error(best), 1));
    }
    words.push('.');
    let (Some(control), Some(found)) = (find(CONTROL), against_control) else {
        return words + " No head merges: evicting costs less on every one.";
    };
    let points = found.difference.times(100.0);
    words
        + &format!(
            " Where heads merge, {}: evicting errs by {} (difference {:+.2} points, {}).",
            outcome("merging", "evicting the same tokens", found, true),
            percent(error(control), 1),
            points.estimate,
            interval(points, 2),
        )
}

/// The outcome of a budget that was solved on another profile's curves.
pub(super) fn solved(profile: &Profile, from: &Profile) -> String {
    format!(
        "{} Solved on the curves of a profile for {}: nothing was measured at this budget.",
        shape(profile),
        percent(from.target_kept_fraction, 0)
    )
}

/// Sizes and settings of the heads.
fn shape(profile: &Profile) -> String {
    let shares = || profile.heads.iter().map(|head| 100.0 * head.kept_fraction);
    let (low, high) = shares().fold((f64::INFINITY, 0f64), |(low, high), share| (low.min(share), high.max(share)));
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    profile.heads.iter().for_each(|head| *counts.entry(head.setting).or_default() += 1);
    let mut counts: Vec<(usize, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(setting, n)| (std::cmp::Reverse(*n), *setting));
    let named = counts.iter().take(3).map(|(setting, n)| format!("{} in {n}", profile.settings[*setting]));
    let rest = if counts.len() > 3 { format!(" and {} more", counts.len() - 3) } else { String::new() };
    format!(
        "Heads keep {low:.0} to {high:.0} %, with {} of {} heads{rest}.",
        named.collect::<Vec<_>>().join(", "),
        profile.heads.len(),
    )
}
