//! What a profile comes to, in words with numbers.

use std::collections::BTreeMap;

use crate::format::profile::{CONTROL, Profile, Quality, TUNED};
use crate::math::Interval;

/// The outcome of a measured profile. `gain` is its error less its control's, on held-out samples where there are any.
pub(super) fn verdict(profile: &Profile, gain: Option<Interval>) -> String {
    let mut words = shape(profile);
    let error = |quality: &Quality| 100.0 * quality.held_out.unwrap_or(quality.calibration).estimate;
    let find = |rule: &str| profile.quality.iter().find(|quality| quality.rule == rule);
    let place = if profile.held_out.is_empty() { "calibration (no sample was held out)" } else { "held-out" };
    let Some(tuned) = find(TUNED) else { return words + " What it costs was not measured." };
    words += &format!(" On {place} samples the attention output errs by {:.1} %", error(tuned));
    let alone = profile.quality.iter().filter(|quality| quality.rule != TUNED && quality.rule != CONTROL);
    if let Some(best) = alone.min_by(|a, b| error(a).total_cmp(&error(b))) {
        words += &format!("; the best single setting at equal sizes, {}, by {:.1} %", best.rule, error(best));
    }
    words.push('.');
    let (Some(control), Some(gain)) = (find(CONTROL), gain) else {
        return words + " No head merges: evicting costs less on every one.";
    };
    let points = |x: f64| format!("{:+.2}", 100.0 * x);
    let range = match (gain.low, gain.high) {
        (Some(low), Some(high)) => format!("{} to {}", points(low), points(high)),
        _ => "unknown from one sample".into(),
    };
    let conclusion = match (gain.low, gain.high) {
        (_, Some(high)) if high < 0.0 => "merging beats evicting the same tokens",
        (Some(low), _) if low > 0.0 => "evicting the same tokens is better",
        _ => "these samples cannot tell merging from evicting the same tokens",
    };
    words
        + &format!(
            " Where heads merge, {conclusion}: evicting errs by {:.1} % (difference {} points, 95 % interval {range}).",
            error(control),
            points(gain.estimate),
        )
}

/// The outcome of a budget that was solved on another profile's curves.
pub(super) fn solved(profile: &Profile, from: &Profile) -> String {
    format!(
        "{} Solved on the curves of a profile for {:.0} %: nothing was measured at this budget.",
        shape(profile),
        100.0 * from.target_kept_fraction
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
        "Heads keep {low:.0} to {high:.0} % (search {}), with {} of {} heads{rest}.",
        profile.search,
        named.collect::<Vec<_>>().join(", "),
        profile.heads.len(),
    )
}
