//! What the page knows of policies and profiles: their parts and parameters as `policy` reads them, and a profile's curves, from
//! which the page solves other budgets.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::Part;
use crate::format::explorer::ExploredSample;
use crate::format::profile::{Profile, SLOTS};
use crate::policy;

/// The name of a profile's file, and the profile.
pub(in crate::report) type NamedProfile<'a> = (&'a str, &'a Profile);

/// Policies that rank by attention mass or by position, which are known of every head.
const ALWAYS: [&str; 4] = ["kvmerger", "evict", "h2o", "streaming"];

/// What is typed before the name of a file: none is opened here.
const WEIGHTS: &str = "weights=";

/// Policies that the page offers, each as [`described`]: those that are known of every head, and those in whose order some sample's
/// tokens are held.
pub(super) fn offered(samples: &[ExploredSample]) -> Vec<Value> {
    let mut seen = HashSet::new();
    let orders = samples.iter().flat_map(|sample| &sample.orders).map(String::as_str);
    ALWAYS.into_iter().chain(orders).filter(|spec| seen.insert(*spec)).filter_map(described).collect()
}

/// Name and parameters of the score of a policy as typed; `None` where this version does not know it.
pub(super) fn key(spec: &str) -> Option<String> {
    described(spec)?["key"].as_str().map(String::from)
}

/// A policy as typed, with its parameters and what its score is called; `None` where this version cannot read it.
fn described(spec: &str) -> Option<Value> {
    let (_, policy) = Some(spec).filter(|spec| !spec.contains(WEIGHTS)).and_then(|spec| policy::parse(spec).ok())?;
    Some(json!({ "spec": spec, "params": policy.params(), "key": policy.scored_by() }))
}

/// A setting of a profile, with the score that stands beside its own where it names none itself. One that this version cannot read is
/// told by name only.
fn setting(spec: &str, beside: Option<&str>) -> Value {
    let Some(mut words) = described(spec) else { return json!({ "spec": spec, "params": null }) };
    if let Some(beside) = beside.filter(|_| words["params"].get("beside").is_none()) {
        let is_share = |part: &&str| part.trim_start().starts_with("share=");
        let score: Vec<&str> = beside.split(',').filter(|part| !is_share(part)).collect();
        // The share that is typed, or what a policy has where none is.
        let share = described(&format!("h2o:beside={beside}")).map(|whole| whole["params"]["share"].clone());
        words["beside"] = match (described(&format!("h2o:score={}", score.join(","))), share) {
            (Some(described), Some(share)) => {
                json!({ "key": described["key"], "params": described["params"], "share": share })
            }
            _ => json!({ "key": null }),
        };
    }
    words
}

/// The scores by which heads of the profiles are ranked that stand beside the analysis.
pub(super) fn ranking(profiles: &[NamedProfile<'_>]) -> HashSet<String> {
    let settings = profiles
        .iter()
        .flat_map(|(_, profile)| profile.settings.iter().map(|spec| setting(spec, profile.beside.as_deref())));
    let keys = settings.flat_map(|words| [words["key"].clone(), words["beside"]["key"].clone()]);
    keys.filter_map(|key| key.as_str().map(String::from)).collect()
}

/// A part for every profile that stands beside the analysis.
pub(super) fn parts(profiles: &[NamedProfile<'_>]) -> Vec<Part> {
    profiles.iter().enumerate().map(|(number, (name, profile))| of_profile(number, name, profile)).collect()
}

fn of_profile(number: usize, name: &str, profile: &Profile) -> Part {
    let mut part = Part::new(format!("profile.{number}"));
    let curve = profile.heads.first().map_or(&[][..], |head| &head.curve);
    let sizes: Vec<f64> = curve.iter().map(|point| point.kept_fraction).collect();
    let has_curves = !sizes.is_empty() && profile.heads.iter().all(|head| head.curve.len() == sizes.len());
    let utility = |size: usize| -> Vec<Option<f64>> {
        profile.heads.iter().map(|head| head.curve[size].utility_fraction).collect()
    };
    let n_utilities = if has_curves { sizes.len() } else { 0 };
    part.add_text(
        "profile",
        &json!({
            "name": name, "target": profile.target_kept_fraction, "in_slots": profile.budget_unit == SLOTS,
            "search": profile.search, "min_share": profile.min_share,
            "settings": profile.settings.iter().map(|spec| setting(spec, profile.beside.as_deref())).collect::<Vec<_>>(),
            "kinds": profile.model.kinds(),
            "sizes": if has_curves { sizes.as_slice() } else { &[] },
            "utility": (0..n_utilities).map(utility).collect::<Vec<_>>(),
            "heads": profile.heads.iter().map(|head| (head.setting, head.kept_fraction)).collect::<Vec<_>>(),
        }),
    );
    if has_curves {
        let costs = profile.heads.iter().flat_map(|head| &head.curve).flat_map(|point| &point.errors);
        let bytes: Vec<u8> = costs.flat_map(|cost| cost.unwrap_or(f32::NAN).to_le_bytes()).collect();
        part.add("costs", "f32", 4, &bytes);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_with_the_score_beside_them() {
        let words = setting("restkv", Some("window,share=0.3"));
        assert_eq!((&words["params"]["fold"], &words["beside"]["share"]), (&json!("drop"), &json!(0.3)));
        assert_eq!(words["beside"]["key"], json!(key("snapkv")));
        assert_eq!(words["key"], json!(key("kvmerger:score=leave-one-out,bridge=true")));
        assert_eq!(setting("h2o", Some("window"))["beside"]["share"], json!(0.25));
        // What names one itself has no other, and what cannot be read has a name only.
        assert!(setting("h2o:beside=recency", Some("window")).get("beside").is_none());
        assert_eq!(setting("kvzap:weights=file", None), json!({ "spec": "kvzap:weights=file", "params": null }));
        assert_eq!((key("of a later version"), key("h2o")), (None, key("kvmerger")));
    }
}
