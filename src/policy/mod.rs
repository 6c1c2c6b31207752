//! Cache policies: each looks at KV heads and plans which slots stay and what is folded where.
//!
//! A policy is four parts: a *score* says what a token is worth, an *allocation* spreads a budget over heads, a *fold* says what
//! becomes of the tokens that do not stay, a *refit* mends what is stored. A published method is a line of [`POLICIES`] that
//! names them; any part can be replaced where it is typed: `snapkv:allocation=layer`. A policy plans, the runtime applies: no
//! tensor is moved here, so every policy can be tested on plain slices.

pub mod allocation;
mod entry;
pub mod fold;
mod method;
mod params;
mod part;
mod per_head;
pub mod score;
mod table;
mod view;

pub(crate) use allocation::Claim;
pub use allocation::{ALLOCATIONS, Allocation, Scope};
pub use entry::PolicyEntry;
pub(crate) use entry::Standing;
pub use fold::{FOLDS, Fold};
pub use method::parse_refit;
pub(crate) use params::Params;
pub use part::Part;
use part::part;
pub use per_head::PerHead;
pub use score::{SCORES, Score};
pub use table::POLICIES;
pub(crate) use view::Needs;
pub use view::{HeadView, SlotExtras, SlotLayout};

use std::fmt::Debug;
use std::path::Path;

use crate::format::scorer::ScorerError;
use crate::hint::Hint;
use crate::merge::{HeadPlan, MergeError, Refit};
use method::Method;
use score::WEIGHTS;

/// A way to choose slots. Implementations are immutable after construction.
pub trait Policy: Debug + Send + Sync {
    /// What has to be recorded during prefill.
    fn needs(&self) -> Needs;

    /// Whether thresholds of its own decide the size, and a budget is ignored.
    fn sets_own_size(&self) -> bool {
        false
    }

    /// Whether it is meant to change anything.
    fn compresses(&self) -> bool {
        true
    }

    /// How the policy is typed that keeps the same slots and drops what this one folds into them; `None` where nothing is folded.
    fn control(&self) -> Option<&str> {
        None
    }

    /// What its plans may store of a slot beside key, value and position.
    fn slot_extras(&self) -> SlotExtras {
        SlotExtras::default()
    }

    /// How stored values and masses are refitted once slots are chosen; not in decode, which has no queries to spare.
    fn refit(&self) -> Option<Refit> {
        None
    }

    /// Heads that share a budget, and whose claims [`Policy::sizes`] wants together.
    fn scope(&self) -> Scope {
        Scope::Head
    }

    /// What a head brings to the sharing out of slots; `given` is its part of the budget, at least 1.
    fn claim(&self, view: &HeadView<'_>, given: usize) -> Claim;

    /// Sizes of heads that share a budget.
    fn sizes(&self, heads: &[Claim]) -> Vec<usize>;

    /// Name and parameters of the score, by which all heads are ranked; `None` where heads differ.
    fn scored_by(&self) -> Option<&str> {
        None
    }

    /// [`Policy::scored_by`] where it says the same at every budget: who plans a head at many sizes need not ask
    /// for the same worth again.
    fn fixed_score(&self) -> Option<&str> {
        None
    }

    /// What every slot of a head is worth, `[T]`, at a budget of at least 1 and at most T.
    fn worth(&self, view: &HeadView<'_>, budget_tokens: usize) -> Vec<f32>;

    /// Plans one head of so many slots, at least 1 and below T unless it sets its own size, by what they are worth.
    fn plan_by(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Result<HeadPlan, MergeError>;

    /// Plans one head of so many slots, at least 1. T or more gives the identity.
    fn plan(&self, view: &HeadView<'_>, budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let n = view.n_slots();
        if budget_tokens >= n && !self.sets_own_size() {
            return Ok(HeadPlan::identity(n));
        }
        self.plan_by(view, &self.worth(view, budget_tokens.clamp(1, n)), budget_tokens)
    }

    /// Which tokens such a plan leaves alone whatever they are like, `[T]`; `None` of policies that protect none, and of plans
    /// that fail.
    fn protected(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Option<Vec<bool>>;

    /// The checked parameters, as artifacts record them.
    fn params(&self) -> serde_json::Value;
}

/// Why a policy cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// No such policy.
    #[error("there is no policy {0:?}")]
    Unknown(String),
    /// A parameter is unknown or out of range.
    #[error("policy {policy}: {what}")]
    BadParameter {
        /// The policy.
        policy: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The weights that a policy predicts by cannot be used.
    #[error(transparent)]
    Scorer(#[from] ScorerError),
    /// A policy predicts by weights, and none are named.
    #[error("policy {policy} predicts by learned weights, and none are named")]
    NoWeights {
        /// The policy.
        policy: &'static str,
    },
}

impl Hint for PolicyError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(_) => {
                let names: Vec<&str> = POLICIES.iter().map(|entry| entry.name).collect();
                Some(format!("choose one of {}", names.join(", ")))
            }
            Self::BadParameter { .. } => Some("write parameters as NAME:key=value,key=value".into()),
            Self::Scorer(error) => error.hint(),
            Self::NoWeights { policy } => {
                Some(format!("learn them with kvscope learn DUMP --model NAME, and write {policy}:weights=FILE"))
            }
        }
    }
}

/// The policy of that name.
fn entry(name: &str) -> Result<&'static PolicyEntry, PolicyError> {
    POLICIES.iter().find(|entry| entry.name == name).ok_or_else(|| PolicyError::Unknown(name.into()))
}

/// A policy as typed, without its refit, and what is typed behind `+refit` where that is there.
pub fn split_refit(spec: &str) -> (&str, Option<&str>) {
    spec.split_once("+refit").map_or((spec, None), |(plain, refit)| (plain, Some(refit)))
}

/// What tables and artifacts call a policy that is typed so: files by their names, wherever they stand.
///
/// ```
/// assert_eq!(kvscope::policy::label("kvzap:weights=a/b.safetensors,tau=-4+refit"), "kvzap:weights=b.safetensors,tau=-4+refit");
/// ```
pub fn label(spec: &str) -> String {
    let (plain, _) = split_refit(spec);
    let key = format!("{WEIGHTS}=");
    let value = plain.match_indices(&key).find(|(at, _)| plain[..*at].ends_with([':', ',', ' ']));
    let Some(start) = value.map(|(at, key)| at + key.len()) else { return spec.into() };
    let end = plain[start..].find(',').map_or(plain.len(), |length| start + length);
    match Path::new(&plain[start..end]).file_name() {
        Some(name) => format!("{}{}{}", &spec[..start], name.to_string_lossy(), &spec[end..]),
        None => spec.into(),
    }
}

/// Builds a policy from `NAME[:key=value,...][+refit[:key=value,...]]`.
///
/// ```
/// let (entry, policy) = kvscope::policy::parse("h2o:recent=0.3,allocation=layer+refit:lambda=0.1")?;
/// assert_eq!((entry.name, &policy.params()["recent"]), ("h2o", &0.3.into()));
/// assert_eq!(policy.refit().map(|refit| refit.lambda), Some(0.1));
/// # Ok::<(), kvscope::policy::PolicyError>(())
/// ```
pub fn parse(text: &str) -> Result<(&'static PolicyEntry, Box<dyn Policy>), PolicyError> {
    let (plain, refit) = split_refit(text);
    let (name, typed) = plain.split_once(':').unwrap_or((plain, ""));
    let entry = entry(name)?;
    Ok((entry, Box::new(Method::new(entry, typed, refit)?)))
}

/// The policy of a line as it was published.
pub(crate) fn published(entry: &'static PolicyEntry) -> Result<Box<dyn Policy>, PolicyError> {
    Ok(Box::new(Method::new(entry, entry.published, None)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvmerger_keeps_mass_unless_the_published_rule_is_asked_for() {
        let (entry, default) = parse("kvmerger").unwrap();
        assert_eq!(default.params()["variant"], "log-count");
        assert_eq!(published(entry).unwrap().params()["variant"], "paper");
        // Files of earlier versions call it so.
        assert_eq!(parse("kvmerger:variant=scaled").unwrap().1.params(), published(entry).unwrap().params());
        for entry in POLICIES.iter().filter(|entry| entry.name != "kvmerger" && !entry.needs_weights()) {
            assert_eq!(published(entry).unwrap().params(), parse(entry.name).unwrap().1.params(), "{}", entry.name);
        }
    }

    #[test]
    fn parameters_are_checked_by_name_and_range() {
        assert!(matches!(parse("h3o"), Err(PolicyError::Unknown(_))));
        for bad in [
            "h2o:window=3",
            "h2o:score=weight",
            "h2o:allocation=3",
            "h2o+refit:rows=3",
            "h2o+refit:lambda=0",
            "adakv:safeguard=2",
            "cam:base=full",
            "evict:variant=mass",
            "kvmerger:eps=2",
            "kvmerger:eps=0.5,allocation=layer",
            "kvmerger:recent=0.9,heavy=0.2",
            "kvmerger:sigma=five",
            "pyramidkv:beta=0",
            "streaming:sinks=-1",
            "snapkv:pool=4",
            "kvmerger:eps",
            "h2o:tau=0.5",
            "kvzap:weights",
            "full:x=1",
            "full:score=mass",
        ] {
            assert!(matches!(parse(bad), Err(PolicyError::BadParameter { .. })), "{bad}");
        }
        let merger = parse("kvmerger:variant=paper,sigma=fixed:5,eps=0.75,bridge=true").unwrap().1;
        assert!(merger.sets_own_size());
        assert_eq!(merger.params()["sigma"], "fixed:5");
        assert_eq!(merger.params()["variant"], "paper");
        let error = parse("h2o:window=3").unwrap_err().to_string();
        assert!(error.contains("no parameter window") && error.contains("recent"), "{error}");
        let error = parse("kvmerger:kernel=box").unwrap_err().to_string();
        assert!(error.contains("unknown value `box`") && error.contains("gaussian"), "{error}");
    }

    #[test]
    fn parts_are_listed_by_name() {
        fn check<T: ?Sized>(parts: &[Part<T>]) {
            for (i, part) in parts.iter().enumerate() {
                assert!(i == 0 || parts[i - 1].name < part.name, "{} is out of order", part.name);
                assert!(!part.summary.is_empty() && !part.source.is_empty(), "{}", part.name);
            }
        }
        check(SCORES);
        check(ALLOCATIONS);
        check(FOLDS);
    }
}
