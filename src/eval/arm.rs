//! What is compared: policies at budgets, the full cache as the reference, and beside every merge its eviction.

use std::sync::Arc;

use crate::format::evaluation::{FULL, Role, at_sizes_of};
use crate::format::profile::Profile;
use crate::policy;
use crate::policy::{Policy, PolicyEntry, PolicyError, Scope, Standing};
use crate::runtime::{Budget, Compression};

/// One policy at one budget.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Policy as typed, or `profile NAME`.
    pub policy: String,
    /// Target share of slots; `None` for a policy whose thresholds decide, and for the full cache.
    pub budget: Option<f64>,
    /// What it is there for.
    pub role: Role,
    /// Label of the arm that evicts what this one merges, at the same budget.
    pub control: Option<String>,
    /// How the cache is compressed.
    pub compression: Compression,
}

impl Arm {
    /// The full cache.
    pub fn full() -> Result<Self, PolicyError> {
        let compression = Compression::parse(FULL, Budget::KeptFraction(1.0))?;
        Ok(Self { policy: FULL.into(), budget: None, role: Role::Reference, control: None, compression })
    }
}

/// The arms of policies as typed, in order, each at every budget, the full cache first and controls behind what they
/// control. A policy that sets its own size is one arm.
///
/// - Errors: a policy that does not exist or has faulty parameters
pub fn arms(specs: &[String], budgets: &[f64]) -> Result<Vec<Arm>, PolicyError> {
    let mut arms = vec![Arm::full()?];
    for spec in specs {
        if let Some(control) = add(&mut arms, spec, budgets)? {
            add(&mut arms, &control, budgets)?;
        }
    }
    Ok(arms)
}

/// Adds a policy at every budget where it is not there yet; gives its control.
fn add(arms: &mut Vec<Arm>, spec: &str, budgets: &[f64]) -> Result<Option<String>, PolicyError> {
    let (entry, policy) = policy::parse(spec)?;
    let (label, role) = (policy::label(spec), role_of(entry, policy.as_ref())?);
    let is_same = |arm: &&Arm| arm.policy == label;
    if arms.iter().find(is_same).is_some_and(|arm| arm.compression.policy.params() != policy.params()) {
        let what =
            format!("two files with different weights would both be called {label}: give them names of their own");
        return Err(PolicyError::BadParameter { policy: entry.name, what });
    }
    let control = policy.control().filter(|control| *control != spec).map(str::to_string);
    let budgets = if policy.sets_own_size() { vec![None] } else { budgets.iter().copied().map(Some).collect() };
    let policy: Arc<dyn Policy> = policy.into();
    for budget in budgets {
        if role == Role::Reference || arms.iter().filter(is_same).any(|arm| arm.budget == budget) {
            continue;
        }
        let compression = Compression::new(&label, policy.clone(), Budget::KeptFraction(budget.unwrap_or(1.0)));
        let control = control.as_deref().map(policy::label);
        arms.push(Arm { policy: label.clone(), budget, role, control, compression });
    }
    Ok(control)
}

/// Policies as typed at the head sizes of a profile called `name`: what of its gain comes from sizes alone. The eviction of what
/// one merges stands behind it.
///
/// - Errors: a policy that does not exist, has faulty parameters or decides sizes itself
pub fn arms_at_sizes(specs: &[String], name: &str, profile: &Profile) -> Result<Vec<Arm>, PolicyError> {
    let shares: Arc<[f64]> = profile.heads.iter().map(|head| head.kept_fraction).collect();
    let mut arms: Vec<Arm> = Vec::new();
    let mut add = |spec: &str| -> Result<Option<String>, PolicyError> {
        let (entry, policy) = policy::parse(spec)?;
        if policy.sets_own_size() || !policy.compresses() || policy.scope() != Scope::Head {
            let what = "it decides sizes itself or keeps everything, so it cannot take those of a profile".into();
            return Err(PolicyError::BadParameter { policy: entry.name, what });
        }
        let of = |spec: &str| at_sizes_of(&policy::label(spec), name);
        let control = policy.control().map(str::to_string);
        if !arms.iter().any(|arm| arm.policy == of(spec)) {
            let compression = Compression::new(of(spec), policy, Budget::PerHead(shares.clone()));
            let budget = Some(profile.target_kept_fraction);
            arms.push(Arm {
                policy: of(spec),
                budget,
                role: Role::AtSizes,
                control: control.as_deref().map(of),
                compression,
            });
        }
        Ok(control)
    };
    for spec in specs {
        if let Some(control) = add(spec)? {
            add(&control)?;
        }
    }
    Ok(arms)
}

fn role_of(entry: &'static PolicyEntry, policy: &dyn Policy) -> Result<Role, PolicyError> {
    let params = policy.params();
    let has_own_parts =
        [("score", entry.score), ("fold", entry.fold), ("allocation", entry.allocation)].iter().all(|(part, own)| {
            // A base is published with its own score.
            params[part] == *own || (*part == "score" && !entry.bases.is_empty())
        });
    Ok(match entry.standing {
        Standing::Reference => Role::Reference,
        Standing::Chance => Role::Chance,
        Standing::Control => Role::Control,
        Standing::Published if has_own_parts && policy.refit().is_none() => Role::Baseline,
        // As published, whatever way its parameters were typed.
        Standing::Paper if policy.refit().is_none() && params == policy::published(entry)?.params() => Role::Paper,
        _ => Role::Candidate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_brings_the_eviction_of_the_same_tokens() {
        let refitted = super::arms(&["h2o+refit".into()], &[0.5]).unwrap();
        assert_eq!((refitted[1].role, refitted[1].compression.policy.refit().is_some()), (Role::Candidate, true));
        let specs = ["kvmerger", "kvmerger:kernel=gaussian,variant=scaled", "h2o", "kvmerger:eps=0.5", "evict"]
            .map(String::from);
        let arms = arms(&specs, &[0.5, 0.35]).unwrap();
        let found: Vec<(&str, Option<f64>, Role)> =
            arms.iter().map(|a| (a.policy.as_str(), a.budget, a.role)).collect();
        let (half, third) = (Some(0.5), Some(0.35));
        assert_eq!(
            found,
            [
                ("full", None, Role::Reference),
                ("kvmerger", half, Role::Candidate),
                ("kvmerger", third, Role::Candidate),
                ("evict", half, Role::Control),
                ("evict", third, Role::Control),
                ("kvmerger:kernel=gaussian,variant=scaled", half, Role::Paper),
                ("kvmerger:kernel=gaussian,variant=scaled", third, Role::Paper),
                ("h2o", half, Role::Baseline),
                ("h2o", third, Role::Baseline),
                ("kvmerger:eps=0.5", None, Role::Candidate),
                ("evict:eps=0.5", None, Role::Control),
            ]
        );
        assert_eq!(arms[9].control.as_deref(), Some("evict:eps=0.5"));
        assert!(super::arms(&["h3o".into()], &[0.5]).is_err());
    }
}
