//! Another budget from the curves that a profile keeps, without a capture.

use serde_json::json;

use crate::files::{InputHash, Provenance};
use crate::format::profile::{HeadProfile, Profile, UsedSample};
use crate::tune::curves::Curves;
use crate::tune::options::check_options;
use crate::tune::profiles::{mean_share, point, tried};
use crate::tune::run::parse_settings;
use crate::tune::solve::{solutions, target};
use crate::tune::words;
use crate::tune::{SEARCHES, SearchEntry, TuneError, TuneOptions, Tuned};

/// Solves the budgets of `options` on a profile's curves, with its settings and its search unless another is named. The refit
/// is that of `options`, even where it is none; all else is the profile's own.
///
/// Nothing is measured: what the new profiles do to samples is unknown. `source` is the profile's file.
///
/// - Errors: a budget that is no share, a profile without curves
pub fn resolve(profile: &Profile, source: InputHash, options: &TuneOptions) -> Result<Vec<Tuned>, TuneError> {
    check_options(options)?;
    let curves = Curves::of_heads(&profile.heads).ok_or(TuneError::NoCurves)?;
    let wanted = options.search.as_ref().unwrap_or(&profile.search);
    let searches: Vec<&SearchEntry> = SEARCHES.iter().filter(|entry| entry.name == wanted).collect();
    if searches.is_empty() {
        return Err(TuneError::UnknownSearch(wanted.clone()));
    }
    let weights = options.unit.weights(&profile.model, &parse_settings(&profile.settings)?, options.refit);
    let kinds = profile.model.kinds();
    let solve = |budget: &f64| {
        let target = target(*budget, profile.min_share);
        let solutions = solutions(&searches, &curves, None, target, (&weights, &kinds));
        let candidates = solutions
            .iter()
            .map(|solution| {
                let heads = profile.heads.iter().zip(&solution.choices).map(|(head, choice)| HeadProfile {
                    setting: choice.setting,
                    kept_fraction: choice.share(),
                    eps: None,
                    // Thresholds are those of the setting that the head had.
                    curve: if choice.setting == head.setting { head.curve.clone() } else { without_eps(head) },
                    ..*head
                });
                let unmeasured = |samples: &[UsedSample]| {
                    samples.iter().map(|sample| UsedSample { kept_fraction: None, ..sample.clone() }).collect()
                };
                let mut solved = Profile {
                    heads: heads.collect(),
                    search: solution.entry.name.into(),
                    tried: tried(std::slice::from_ref(solution), options.refit.is_some()),
                    target_kept_fraction: *budget,
                    budget_unit: options.unit.name().into(),
                    calibration_kept_fraction: point(mean_share(&solution.choices)),
                    held_out_kept_fraction: None,
                    quality: Vec::new(),
                    held_out_kl: Vec::new(),
                    calibration: unmeasured(&profile.calibration),
                    held_out: unmeasured(&profile.held_out),
                    provenance: Provenance::new(
                        "tune",
                        profile.provenance.seed,
                        json!({ "from": profile.provenance.options, "budgets": options.budgets, "budget_unit": options.unit.name(), "search": options.search }),
                        vec![source.clone()],
                    ),
                    beside: options.beside.clone(),
                    refit: options.refit,
                    ..profile.clone()
                };
                solved.verdict = words::solved(&solved, profile);
                solved
            })
            .collect();
        Tuned { budget: *budget, candidates, chosen: 0 }
    };
    Ok(options.budgets.iter().map(solve).collect())
}

fn without_eps(head: &HeadProfile) -> Vec<crate::format::profile::CurvePoint> {
    head.curve.iter().map(|point| crate::format::profile::CurvePoint { eps: None, ..point.clone() }).collect()
}
