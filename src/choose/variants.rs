//! What a profile may be: a search's sizes, with the refit or without, merging or evicting.

use crate::choose::error::ChooseError;
use crate::format::profile::{Profile, Tried};
use crate::math::{Resamples, bootstrap_mean};
use crate::tune::{LUKV, Tuned, evicting};

/// A search whose cost on samples that it had not seen is so many times the least is not run where few texts choose.
const FAR_OFF: f64 = 1.5;

/// A candidate in one of its forms.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// The candidate's place.
    place: usize,
    evicting: bool,
    pub profile: Profile,
}

impl Variant {
    pub fn label(&self) -> String {
        let refit = if self.profile.refit.is_some() { "+refit" } else { "" };
        let evicting = if self.evicting { ", evicting" } else { "" };
        format!("{}{refit}{evicting}", self.profile.search)
    }
}

/// Every candidate, evicting and merging, without its refit and with it: the plainest first. With `only_near`, those alone that
/// cross-validation does not rule out.
pub(super) fn variants(tuned: &Tuned, only_near: bool) -> Result<Vec<Variant>, ChooseError> {
    let least = tuned.candidates.iter().filter_map(cross_validated).fold(f64::INFINITY, f64::min);
    let is_near = |place: usize, profile: &Profile| match cross_validated(profile) {
        // LU-KV's are what the profile has to beat.
        Some(cost) => cost <= FAR_OFF * least || profile.search == LUKV,
        None => place == tuned.chosen,
    };
    let mut all = Vec::new();
    for (place, profile) in tuned.candidates.iter().enumerate() {
        if only_near && !is_near(place, profile) {
            continue;
        }
        let forms = evicting(profile)?.map(|evicting| (true, evicting)).into_iter().chain([(false, profile.clone())]);
        for (evicting, profile) in forms {
            let mut plain = Profile { refit: None, ..profile.clone() };
            if profile.refit.is_some() {
                plain.verdict += " These errors are with the refit, which was left out afterwards.";
            }
            let refitted = profile.refit.is_some().then_some(profile);
            all.extend([plain].into_iter().chain(refitted).map(|profile| Variant { place, evicting, profile }));
        }
    }
    Ok(all)
}

/// What the profile's search cost on samples that it had not seen.
fn cross_validated(profile: &Profile) -> Option<f64> {
    profile.tried.iter().find(|tried| tried.search == profile.search)?.cross_validated
}

/// Takes the variant of least mean KL among those measured on every text, the first of equals.
pub(super) fn take_best(tuned: &mut Tuned, variants: &[Variant], kls: &[Vec<f64>], seed: u64) {
    let most = kls.iter().map(Vec::len).max().unwrap_or(0);
    if most == 0 {
        return;
    }
    let tried = |(variant, kls): (&Variant, &Vec<f64>)| Tried {
        search: variant.profile.search.clone(),
        refitted: variant.profile.refit.is_some(),
        evicting: variant.evicting,
        cross_validated: cross_validated(&variant.profile),
        kl: bootstrap_mean(kls, Resamples::of_means(seed)).filter(|_| kls.len() == most),
    };
    let tried: Vec<Tried> = variants.iter().zip(kls).map(tried).collect();
    let mut known: Vec<(f64, &Variant)> =
        tried.iter().zip(variants).filter_map(|(tried, variant)| Some((tried.kl?.estimate, variant))).collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    let [(kl, best), others @ ..] = known.as_slice() else { return };
    let next = others.first().map(|(kl, next)| format!("; the next, {}, {kl:.4}", next.label())).unwrap_or_default();
    let how =
        format!("Chosen by KL to the full cache on {most} calibration texts: {} ({kl:.4} nats{next}).", best.label());
    let verdict = format!("{} {how}", best.profile.verdict);
    tuned.chosen = best.place;
    tuned.candidates[best.place] = Profile { tried, verdict, ..best.profile.clone() };
}
