//! KVMerger's arithmetic for one KV head: protected tokens, merging sets, pivots, kernel weights, and the plan they make.
//!
//! Source: Wang, Jin, Yu, Zhang 2024 (arXiv 2407.08454). Works on slices and returns plain data; it knows no model,
//! no cache and no file. Policies, analysis and tuning all stand on it, so a set means the same thing everywhere.

mod attention;
mod kernel;
mod merging;
mod plan;
mod protect;
mod quality;
mod refit;
mod repetition;
mod rule;
mod sampling;
mod sets;
mod weights;

pub use attention::{Attending, Attention, Given, attention};
pub use kernel::{Kernel, Sigma, ValueRule};
pub(crate) use merging::{Merging, push_set};
pub use plan::{Counters, HeadPlan};
pub(crate) use plan::{Flow, Member, PlanFault, Slot};
pub(crate) use protect::Protection;
pub use protect::{Shares, heaviest, heavy_within, protect};
pub(crate) use quality::{HeadStates, OutputProbe};
pub use refit::Refit;
pub(crate) use refit::{RefitHead, Refitted, refit_slots};
pub(crate) use repetition::largest_weights;
pub use repetition::{Repetition, Weighing};
pub use rule::MergeRule;
pub use sampling::{Origin, Sampling};
pub(crate) use sets::{Link, MergingSets};
pub use sets::{links, sets_above, sets_for_budget};
pub use weights::{SlotStates, pivot, set_weights};

use crate::hint::Hint;

/// Why a head cannot be compressed as asked.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// Protected tokens alone exceed the budget.
    #[error("{protected} tokens are protected but only {budget_tokens} may be kept")]
    ProtectedExceedBudget {
        /// Recent and heavy tokens.
        protected: usize,
        /// Slots allowed.
        budget_tokens: usize,
    },
    /// Joining every neighbour that may be joined still leaves too many slots.
    #[error("at least {reachable} slots remain when every neighbour is joined, and only {budget_tokens} are allowed")]
    BudgetUnreachable {
        /// Smallest number of slots that merging can reach.
        reachable: usize,
        /// Slots allowed.
        budget_tokens: usize,
    },
}

impl Hint for MergeError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ProtectedExceedBudget { .. } => "lower recent= and heavy=, or keep more",
            Self::BudgetUnreachable { .. } => {
                "protected tokens cut the chains of neighbours: lower heavy=, set bridge=true, or keep more"
            }
        };
        Some(hint.into())
    }
}
