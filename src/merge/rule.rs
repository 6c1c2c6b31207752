//! How sets become slots, as one value.

use serde::{Deserialize, Serialize};

use crate::merge::{Kernel, Sigma, ValueRule};

/// How the members of a set become one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeRule {
    /// Weights of the keys.
    pub kernel: Kernel,
    /// Width of the Gaussian kernel.
    pub sigma: Sigma,
    /// Values and logit bias.
    pub variant: ValueRule,
}

impl MergeRule {
    /// Eviction: of every set the pivot stays as it is.
    pub const EVICT: Self = Self { kernel: Kernel::Pivot, sigma: Sigma::Distance, variant: ValueRule::Convex };

    /// A kernel and a value rule with the default width.
    pub const fn new(kernel: Kernel, variant: ValueRule) -> Self {
        Self { kernel, sigma: Sigma::Distance, variant }
    }

    /// Whether anything but the pivot enters a slot.
    pub fn folds(&self) -> bool {
        self.kernel != Kernel::Pivot
    }
}
