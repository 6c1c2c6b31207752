//! How sets become slots, as one value.

use serde::Deserialize;
use serde::Serialize;

use crate::merge::Kernel;
use crate::merge::Sigma;
use crate::merge::ValueRule;

/// How the members of a set become one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeRule {
    /// Weights of the keys.
    pub kernel: Kernel,
    /// Width of the Gaussian kernel.
    pub sigma: Sigma,
    /// Values and logit bias.
    pub variant: ValueRule,
    /// Whether chains run on across protected tokens.
    pub bridge: bool,
}
