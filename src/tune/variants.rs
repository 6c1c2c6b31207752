//! What a profile is held against: the same slots with nothing folded into them, and LU-KV's sizes.

use crate::format::profile::{CONTROL, CurvePoint, HeadProfile, Profile, Quality, TUNED};
use crate::tune::curves::{Choice, Curves};
use crate::tune::run::controls;
use crate::tune::search::lukv;
use crate::tune::solve::target;
use crate::tune::{LUKV, TuneError, words};

/// The profile with the eviction of what its settings merge in their place; `None` where no head merges.
///
/// What was measured of its control becomes its own. Its curves know no cost of these evictions, so that another budget is solved
/// with the settings that evict anyway.
///
/// - Errors: a setting that this version does not know
pub fn evicting(profile: &Profile) -> Result<Option<Profile>, TuneError> {
    let controls = controls(&profile.settings)?;
    let is_replaced = |setting: usize| controls.get(setting).is_some_and(Option::is_some);
    if !profile.heads.iter().any(|head| is_replaced(head.setting)) {
        return Ok(None);
    }
    let head = |head: &HeadProfile| {
        let eps = |eps: Option<f32>| eps.filter(|_| !is_replaced(head.setting));
        let point = |point: &CurvePoint| {
            let errors = point.errors.iter().enumerate();
            let errors = errors.map(|(setting, error)| error.filter(|_| !is_replaced(setting))).collect();
            CurvePoint { errors, eps: eps(point.eps), ..point.clone() }
        };
        HeadProfile { eps: eps(head.eps), curve: head.curve.iter().map(point).collect(), ..*head }
    };
    let measured = profile.quality.iter().filter(|quality| quality.rule != TUNED);
    let quality = measured.map(|quality| match quality.rule.as_str() {
        CONTROL => Quality { rule: TUNED.into(), ..quality.clone() },
        _ => quality.clone(),
    });
    let settings = profile.settings.iter().zip(&controls);
    let mut evicting = Profile {
        settings: settings.map(|(setting, control)| control.as_ref().unwrap_or(setting).clone()).collect(),
        heads: profile.heads.iter().map(head).collect(),
        quality: quality.collect(),
        ..profile.clone()
    };
    evicting.verdict = words::verdict(&evicting, None);
    Ok(Some(evicting))
}

/// LU-KV's sizes for the profile's budget, with its first setting, evicting, and no refit; `None` where its samples did not tell them.
///
/// - Errors: a setting that this version does not know
pub fn lukv_sizes(profile: &Profile) -> Result<Option<Profile>, TuneError> {
    let target = target(profile.target_kept_fraction, profile.min_share);
    let Some(sizes) = Curves::of_heads(&profile.heads).and_then(|curves| lukv::sizes(&curves, target)) else {
        return Ok(None);
    };
    let heads = profile.heads.iter().zip(sizes).map(|(head, units)| {
        let choice = Choice { setting: 0, units };
        HeadProfile { setting: choice.setting, kept_fraction: choice.share(), ..head.clone() }
    });
    let sized = Profile { heads: heads.collect(), beside: None, refit: None, search: LUKV.into(), ..profile.clone() };
    Ok(Some(evicting(&sized)?.unwrap_or(sized)))
}
