//! What a chosen profile is held against on held-out texts.

use crate::choose::error::ChooseError;
use crate::choose::ways::{Ways, way};
use crate::eval::EvalError;
use crate::format::profile::{CONTROL, HeldOutKl, Profile, TUNED};
use crate::math::{Resamples, bootstrap_mean, mean, paired};
use crate::runtime::{Budget, Compression};
use crate::say;
use crate::tune::lukv_sizes;

/// A policy that every profile is held against on held-out texts.
const BASELINE: &str = "h2o";
/// The profile's own policy and refit at equal sizes.
const EQUAL: &str = "equal sizes";
/// The sizes of LU-KV with the profile's first setting, evicting and not refitted.
const LUKV: &str = "LU-KV sizes";
/// What a profile must not be worse than.
const PLAIN: [&str; 3] = [BASELINE, EQUAL, LUKV];

/// A profile that costs more on held-out texts than a policy that needs no tuning.
#[derive(Clone, Debug, PartialEq)]
pub struct Worse {
    /// The budget.
    pub budget: f64,
    /// Its mean KL, in nats.
    pub kl: f64,
    /// The policy that is better.
    pub rival: String,
    /// The policy's mean KL, in nats.
    pub kl_of_rival: f64,
}

/// A chosen profile beside the eviction of what it merges and the plain policies.
pub(super) fn rivals(profile: &Profile) -> Result<Ways, ChooseError> {
    let tuned = way(TUNED, profile)?;
    let budget = tuned.0;
    let control = Compression::evicting_profile(CONTROL, profile).map_err(EvalError::from)?;
    let baseline = Compression::parse(BASELINE, Budget::KeptFraction(budget)).map_err(EvalError::from)?;
    let equal = way(EQUAL, &equal_sizes(profile))?;
    let lukv = lukv_sizes(profile)?.map(|sized| way(LUKV, &sized)).transpose()?;
    let control = control.map(|control| (budget, control));
    Ok([tuned].into_iter().chain(control).chain([(budget, baseline), equal]).chain(lukv).collect())
}

/// The policy that most heads have, with the refit, at equal sizes.
fn equal_sizes(profile: &Profile) -> Profile {
    let n_heads = |setting: usize| profile.heads.iter().filter(|head| head.setting == setting).count();
    let setting = (0..profile.settings.len()).max_by_key(|setting| n_heads(*setting)).unwrap_or(0);
    let mut equal = profile.clone();
    for head in &mut equal.heads {
        (head.setting, head.kept_fraction) = (setting, profile.target_kept_fraction);
    }
    equal
}

/// What held-out texts say of the chosen profile.
pub(super) fn judge(profile: &mut Profile, kls: &[(String, Vec<f64>)], seed: u64) {
    let interval = |(policy, kls): &(String, Vec<f64>)| {
        Some(HeldOutKl { policy: policy.clone(), kl: bootstrap_mean(kls, Resamples::of_means(seed))? })
    };
    profile.held_out_kl = kls.iter().filter_map(interval).collect();
    let of = |name: &str| kls.iter().find(|(policy, _)| policy == name).map(|(_, kls)| kls);
    for other in [CONTROL].iter().chain(&PLAIN) {
        if let Some((of_tuned, of_other)) = of(TUNED).zip(of(other))
            && let Some(found) = paired(of_tuned, of_other, Resamples::of_means(seed))
            && let Some(times) = say::times(&found, &format!("that of {other}"))
        {
            profile.verdict += &format!(" On {} held-out texts its mean KL is {times}.", found.difference.n);
        }
    }
}

/// The best plain policy, where it is better than the profile on the texts that both were measured on.
pub(super) fn worse_than(budget: f64, kls: &[(String, Vec<f64>)]) -> Option<Worse> {
    let mean_of = |name: &str| kls.iter().find(|(way, _)| way == name).and_then(|(_, kls)| mean(kls.iter().copied()));
    let kl = mean_of(TUNED)?;
    let rivals = PLAIN.iter().filter_map(|name| Some((*name, mean_of(name)?)));
    let (rival, kl_of_rival) = rivals.min_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, rival)| *rival < kl)?;
    Some(Worse { budget, kl, rival: rival.into(), kl_of_rival })
}
