//! Cache policies: each looks at one KV head and plans which slots stay and what is folded where.
//!
//! A policy plans, the runtime applies: no tensor is moved here, so every policy can be tested on plain slices.
//! Adding one is a file and a line in [`POLICIES`].

mod cam;
mod evict;
mod full;
mod h2o;
mod kvmerger;
mod params;
mod per_head;
mod random;
mod snapkv;
mod streaming;

pub use kvmerger::KvMerger;
pub use params::Params;
pub use per_head::PerHead;

use std::fmt::Debug;

use crate::merge::HeadPlan;
use crate::merge::MergeError;

/// One KV head as a policy sees it: `T` stored slots in order of position.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'a> {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// KV heads of a layer.
    pub n_kv_heads: usize,
    /// Numbers in a key.
    pub head_dim: usize,
    /// Tokens that the head has seen; more than T where slots were merged or dropped before.
    pub n_seen: usize,
    /// Keys after RoPE, `[T, D]`.
    pub keys: &'a [f32],
    /// Attention mass `[T]` over all queries so far; empty when the policy does not need it.
    pub mass: &'a [f32],
    /// Attention mass `[T]` over the last window of queries; empty when the policy does not need it.
    pub mass_window: &'a [f32],
    /// Tokens that each slot stands for, `[T]`; `None` when all stand for one.
    pub counts: Option<&'a [u32]>,
    /// Logit bias of each slot in nats, `[T]`; `None` when all are zero.
    pub logit_bias: Option<&'a [f32]>,
}

impl HeadView<'_> {
    /// Stored slots T.
    pub fn n_slots(&self) -> usize {
        self.keys.len() / self.head_dim.max(1)
    }

    /// A stream of random numbers of its own for every head and time, so that no draw depends on the order of planning.
    fn random_stream(&self) -> u64 {
        ((self.n_seen as u64) << 32) | (self.layer * self.n_kv_heads + self.kv_head) as u64
    }
}

/// What the model must record during prefill for a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Attention mass over all queries.
    pub mass: bool,
    /// Attention mass over the last this many queries.
    pub mass_window: Option<usize>,
}

/// What is stored of a slot beside key, value and position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotExtras {
    /// How many tokens it stands for.
    pub count: bool,
    /// What is added to its logits.
    pub logit_bias: bool,
}

impl SlotExtras {
    /// Bytes of a slot's extras, with a logit bias in any case if `has_bias`. Counts take two bytes as long as they fit.
    pub fn bytes(self, has_bias: bool) -> usize {
        2 * usize::from(self.count) + 4 * usize::from(self.logit_bias || has_bias)
    }
}

/// How to type the eviction that a merging policy is to be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Name of the policy.
    pub policy: &'static str,
    /// Parameters of the merging policy that only say how slots are folded; all others are the control's too.
    pub without: &'static [&'static str],
}

impl Control {
    /// The control of a policy typed as `NAME[:key=value,...]`, typed the same way.
    ///
    /// ```
    /// let control = kvscope::policy::Control { policy: "evict", without: &["kernel"] };
    /// assert_eq!(control.of("kvmerger:recent=0.2,kernel=uniform,bridge=true"), "evict:recent=0.2,bridge=true");
    /// ```
    pub fn of(&self, spec: &str) -> String {
        let params = spec.split_once(':').map_or("", |(_, params)| params);
        let is_shared = |pair: &&str| {
            let key = pair.split('=').next().unwrap_or_default().trim();
            !key.is_empty() && !self.without.contains(&key)
        };
        let shared: Vec<&str> = params.split(',').filter(is_shared).collect();
        if shared.is_empty() { self.policy.into() } else { format!("{}:{}", self.policy, shared.join(",")) }
    }
}

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

    /// The policy that keeps the same slots and drops what this one folds into them; `None` where nothing is folded.
    fn control(&self) -> Option<Control> {
        None
    }

    /// What its plans may store of a slot beside key, value and position.
    fn slot_extras(&self) -> SlotExtras {
        SlotExtras::default()
    }

    /// Plans one head under a budget of slots, at least 1. A budget of T or more gives the identity.
    fn plan(&self, view: &HeadView<'_>, budget_tokens: usize) -> Result<HeadPlan, MergeError>;

    /// The checked parameters, as artifacts record them.
    fn params(&self) -> serde_json::Value;
}

/// A line of the policy table.
#[derive(Clone, Copy, Debug)]
pub struct PolicyEntry {
    /// Name on the command line.
    pub name: &'static str,
    /// What it keeps, in one line.
    pub summary: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// Builds it from `key=value` parameters.
    pub build: fn(&Params) -> Result<Box<dyn Policy>, PolicyError>,
}

/// Every policy, by name.
pub const POLICIES: &[PolicyEntry] = &[
    cam::ENTRY,
    evict::ENTRY,
    full::ENTRY,
    h2o::ENTRY,
    kvmerger::ENTRY,
    random::ENTRY,
    snapkv::ENTRY,
    streaming::ENTRY,
];

/// Why a policy cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// No such policy.
    #[error("there is no policy {name:?}")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A parameter is unknown or out of range.
    #[error("policy {policy}: {what}")]
    BadParameter {
        /// The policy.
        policy: &'static str,
        /// What is wrong.
        what: String,
    },
}

impl PolicyError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } => {
                let names: Vec<&str> = POLICIES.iter().map(|entry| entry.name).collect();
                Some(format!("choose one of {}", names.join(", ")))
            }
            Self::BadParameter { .. } => Some("write parameters as NAME:key=value,key=value".into()),
        }
    }
}

/// Builds a policy from `NAME[:key=value,...]`.
pub fn parse(text: &str) -> Result<(&'static PolicyEntry, Box<dyn Policy>), PolicyError> {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let entry =
        POLICIES.iter().find(|entry| entry.name == name).ok_or_else(|| PolicyError::Unknown { name: name.into() })?;
    let params = Params::parse(entry.name, rest)?;
    Ok((entry, (entry.build)(&params)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        for (i, entry) in POLICIES.iter().enumerate() {
            assert!(i == 0 || POLICIES[i - 1].name < entry.name, "{} is out of order", entry.name);
            assert!(!entry.summary.is_empty() && !entry.source.is_empty());
            let file = format!("{}/src/policy/{}.rs", env!("CARGO_MANIFEST_DIR"), entry.name.replace('-', "_"));
            assert!(std::path::Path::new(&file).exists(), "{file}");
            let policy = parse(entry.name).unwrap().1;
            assert!(policy.params().is_object(), "{}", entry.name);
        }
    }

    #[test]
    fn parameters_are_checked_by_name_and_range() {
        assert!(matches!(parse("h3o"), Err(PolicyError::Unknown { .. })));
        for bad in [
            "h2o:window=3",
            "kvmerger:eps=2",
            "kvmerger:recent=0.9,heavy=0.2",
            "kvmerger:sigma=five",
            "streaming:sinks=-1",
            "snapkv:pool=4",
            "kvmerger:eps",
            "full:x=1",
        ] {
            assert!(matches!(parse(bad), Err(PolicyError::BadParameter { .. })), "{bad}");
        }
        let merger = parse("kvmerger:variant=paper,sigma=fixed:5,eps=0.75,bridge=true").unwrap().1;
        assert!(merger.sets_own_size());
        assert_eq!(merger.params()["rule"]["sigma"], "fixed:5");
        assert_eq!(merger.params()["rule"]["variant"], "scaled");
    }
}
