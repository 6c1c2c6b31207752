//! What is compared: policies at budgets, the full cache as the reference, and beside every merge its eviction.

use crate::policy;
use crate::policy::PolicyError;
use crate::runtime::Budget;
use crate::runtime::Compression;
use crate::runtime::split_refit;

/// What an arm is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The full cache, which all others are measured against.
    Reference,
    /// A policy that merges.
    Merge,
    /// The same selection without merging, beside a merge.
    Control,
    /// A published way to evict.
    Baseline,
    /// Random tokens.
    Chance,
    /// A published way to evict, with its values refitted.
    Refitted,
    /// A tuned profile.
    Profile,
}

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

/// Name of the full cache's arm.
pub const FULL: &str = "full";

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
        let control = control_of(spec);
        for spec in std::iter::once(spec).chain(&control) {
            let (plain, refit) = split_refit(spec);
            let (entry, policy) = policy::parse(plain)?;
            let role = match entry.name {
                _ if Some(spec) == control.as_ref() => Role::Control,
                "kvmerger" => Role::Merge,
                "evict" => Role::Control,
                "random" => Role::Chance,
                _ if refit.is_some() => Role::Refitted,
                _ => Role::Baseline,
            };
            let budgets: Vec<Option<f64>> =
                if policy.sets_own_size() { vec![None] } else { budgets.iter().copied().map(Some).collect() };
            for budget in budgets {
                let known = |arm: &Arm| arm.policy == *spec && arm.budget == budget;
                if entry.name == FULL || arms.iter().any(known) {
                    continue;
                }
                let compression = Compression::parse(spec, Budget::KeptFraction(budget.unwrap_or(1.0)))?;
                let control = (role == Role::Merge).then(|| control.clone()).flatten();
                arms.push(Arm { policy: spec.clone(), budget, role, control, compression });
            }
        }
    }
    Ok(arms)
}

/// The policy that evicts what `spec` merges: `evict` with the same protected tokens, chains, threshold and refit.
fn control_of(spec: &str) -> Option<String> {
    let (plain, _) = split_refit(spec);
    let refit = &spec[plain.len()..];
    let (name, params) = plain.split_once(':').unwrap_or((plain, ""));
    if name != "kvmerger" {
        return None;
    }
    let is_rule =
        |pair: &str| ["kernel", "sigma", "variant"].iter().any(|key| pair.trim().starts_with(&format!("{key}=")));
    let shared: Vec<&str> = params.split(',').filter(|pair| !pair.trim().is_empty() && !is_rule(pair)).collect();
    let params = if shared.is_empty() { String::new() } else { format!(":{}", shared.join(",")) };
    Some(format!("evict{params}{refit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_brings_the_eviction_of_the_same_tokens() {
        assert_eq!(
            control_of("kvmerger:variant=convex,bridge=true,recent=0.2").unwrap(),
            "evict:bridge=true,recent=0.2"
        );
        assert_eq!(control_of("kvmerger").unwrap(), "evict");
        assert_eq!(control_of("h2o"), None);
        assert_eq!(control_of("kvmerger:variant=mass,heavy=0.1+refit:span=9").unwrap(), "evict:heavy=0.1+refit:span=9");
        let refitted = super::arms(&["h2o+refit".into()], &[0.5]).unwrap();
        assert_eq!((refitted[1].role, refitted[1].compression.refit.is_some()), (Role::Refitted, true));
        let specs = ["kvmerger:variant=convex", "kvmerger", "h2o", "kvmerger:eps=0.5", "evict"].map(String::from);
        let arms = arms(&specs, &[0.5, 0.35]).unwrap();
        let found: Vec<(&str, Option<f64>, Role)> =
            arms.iter().map(|a| (a.policy.as_str(), a.budget, a.role)).collect();
        let (half, third) = (Some(0.5), Some(0.35));
        assert_eq!(
            found,
            [
                ("full", None, Role::Reference),
                ("kvmerger:variant=convex", half, Role::Merge),
                ("kvmerger:variant=convex", third, Role::Merge),
                ("evict", half, Role::Control),
                ("evict", third, Role::Control),
                ("kvmerger", half, Role::Merge),
                ("kvmerger", third, Role::Merge),
                ("h2o", half, Role::Baseline),
                ("h2o", third, Role::Baseline),
                ("kvmerger:eps=0.5", None, Role::Merge),
                ("evict:eps=0.5", None, Role::Control),
            ]
        );
        assert_eq!(arms[9].control.as_deref(), Some("evict:eps=0.5"));
        assert!(super::arms(&["h3o".into()], &[0.5]).is_err());
    }
}
