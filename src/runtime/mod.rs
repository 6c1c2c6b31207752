//! Compressed generation: a ragged cache, plans carried out on it, and the loop that decodes over it.
//!
//! A policy plans on plain slices, this module applies. It knows no file but the profile, and prints nothing.

mod cache;
mod compare;
mod compression;
mod generate;
mod memory;
mod queries;
mod repeated;
mod replay;
mod room;
mod sampling;
mod slots;
mod speed;
mod stop;
mod threads;

pub use cache::RaggedCache;
pub(crate) use compare::Difference;
pub use compare::compare;
pub use compression::{Budget, Compression};
pub use generate::{GenerateOptions, Generation, generate, prefill};
pub use memory::release_freed_memory;
pub use sampling::Sampling;
pub use slots::State;
pub use speed::{Speed, SpeedOptions, read_bandwidth, speed};
pub use stop::StopStrings;
pub use threads::start_threads;

use crate::format::scorer::ScorerError;
use crate::hint::Hint;
use crate::math::Float;
use crate::merge::{MergeError, PlanFault};
use crate::model::{ForwardError, ModelError};

/// What can go wrong while generating.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The model or the tokens are at fault.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A head cannot be compressed as asked.
    #[error("layer {layer}, KV head {kv_head} cannot be compressed to {budget_tokens} of {n_tokens} slots: {source}")]
    Unmeetable {
        /// Layer.
        layer: usize,
        /// KV head.
        kv_head: usize,
        /// Slots allowed.
        budget_tokens: usize,
        /// Slots stored.
        n_tokens: usize,
        /// Why.
        source: MergeError,
    },
    /// A policy made a plan that cannot be carried out.
    #[error("policy {policy} made a faulty plan for layer {layer}, KV head {kv_head}: {source}")]
    FaultyPlan {
        /// The policy.
        policy: String,
        /// Layer.
        layer: usize,
        /// KV head.
        kv_head: usize,
        /// The fault.
        source: PlanFault,
    },
    /// The policy was asked to compress and changed nothing.
    #[error("policy {policy} changed nothing: all {n_slots} slots are still there")]
    NothingCompressed {
        /// The policy.
        policy: String,
        /// Slots of all heads.
        n_slots: usize,
    },
    /// A share that must be in (0, 1] is not.
    #[error("kept_fraction is a share in (0, 1], not {0}")]
    BadKeptFraction(f64),
    /// A budget of no slots.
    #[error("a budget of 0 slots a head leaves nothing to attend to")]
    NoSlots,
    /// A budget of bytes that holds no slot of every head.
    #[error("a budget of {bytes} bytes leaves the model's {n_heads} heads no slot and room to grow")]
    NoRoom {
        /// Bytes allowed.
        bytes: u64,
        /// KV heads of all layers.
        n_heads: u64,
        /// Bytes that would do.
        least: u64,
    },
    /// Shares by head are for another number of heads.
    #[error("the budget has shares for {found} KV heads, and the model has {expected}")]
    OtherHeads {
        /// Shares given.
        found: usize,
        /// KV heads of all layers.
        expected: usize,
    },
    /// A cache does not hold what a compressed copy of it needs.
    #[error("policy {policy} cannot compress this cache: it needs {what}")]
    NotRecorded {
        /// The policy.
        policy: String,
        /// What is missing.
        what: &'static str,
    },
    /// A budget that never takes effect.
    #[error("a budget of {budget_tokens} slots a head holds all {n_tokens} tokens: nothing would be compressed")]
    HoldsAll {
        /// Slots of every head.
        budget_tokens: usize,
        /// Tokens that the cache will see.
        n_tokens: usize,
    },
    /// A number of [`Sampling`] that cannot be.
    #[error("{option} is {range}, not {found}")]
    Sampling {
        /// Its option.
        option: &'static str,
        /// What it may be.
        range: &'static str,
        /// What it is.
        found: f64,
    },
    /// The model gave a key, value or mass that is no number.
    #[error("{state} of layer {layer}, KV head {kv_head}, is not a finite number")]
    NotFinite {
        /// Which.
        state: State,
        /// Layer.
        layer: usize,
        /// KV head.
        kv_head: usize,
    },
    /// A key or value beyond the largest number of the cache's type.
    #[error(
        "{state} of layer {layer}, KV head {kv_head}, would be infinite in a cache of {kind}, whose largest number is {most}"
    )]
    Overflow {
        /// Which.
        state: State,
        /// Layer.
        layer: usize,
        /// KV head.
        kv_head: usize,
        /// Type of the cache.
        kind: Float,
        /// The largest number of that type.
        most: f32,
    },
    /// Values cannot be refitted.
    #[error("layer {layer}, KV head {kv_head}: values cannot be refitted, the states are not finite")]
    Refit {
        /// Layer.
        layer: usize,
        /// KV head.
        kv_head: usize,
    },
    /// One prefill records the attention of one window of queries.
    #[error("one prefill cannot record attention mass over the last {0} and the last {1} queries")]
    DifferentWindows(usize, usize),
    /// The model's context does not hold a prompt and its repetition.
    #[error(
        "repeating the prompt behind itself takes at least {n_tokens} positions, and the model's context has {max_positions}"
    )]
    NoRoomToReplay {
        /// Positions needed.
        n_tokens: usize,
        /// Positions of the context.
        max_positions: usize,
    },
    /// A layer's window does not reach from a repetition of the prompt back to the prompt.
    #[error(
        "layer {layer} sees {window} tokens, and a prompt with its repetition has {n_tokens}: what looks at a repetition would not see the prompt there"
    )]
    WindowTooShort {
        /// The first such layer.
        layer: usize,
        /// Its window.
        window: usize,
        /// Tokens of the prompt and its repetition, at least.
        n_tokens: usize,
    },
    /// A policy that needs a prompt's queries where there is none, or not yet.
    #[error("policy {policy} looks at queries of a whole prompt: it cannot compress {when}")]
    NeedsPrompt {
        /// The policy.
        policy: String,
        /// When it was asked to.
        when: &'static str,
    },
    /// The weights that a policy predicts by are of another model.
    #[error(transparent)]
    Scorer(#[from] ScorerError),
    /// Layers that stay whole leave nothing for the others.
    #[error("{n_skipped} of {n_layers} layers stay whole, which alone exceeds kept_fraction {kept_fraction}")]
    SkippedTooMuch {
        /// Layers left whole.
        n_skipped: usize,
        /// Layers of the model.
        n_layers: usize,
        /// Share to keep over all layers.
        kept_fraction: f64,
    },
}

impl From<ForwardError<RuntimeError>> for RuntimeError {
    fn from(error: ForwardError<RuntimeError>) -> Self {
        match error {
            ForwardError::Model(error) => error.into(),
            ForwardError::Store(error) => error,
        }
    }
}

impl Hint for RuntimeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Model(error) => error.hint(),
            Self::Scorer(error) => error.hint(),
            Self::Unmeetable { source, .. } => source.hint(),
            Self::NothingCompressed { .. } => {
                Some("lower eps or --kept-fraction, raise tau, or use --policy full if nothing should be compressed".into())
            }
            Self::SkippedTooMuch { .. } => Some("skip fewer layers or keep more".into()),
            Self::NotRecorded { .. } => Some("name the compression when the recording cache is made".into()),
            Self::DifferentWindows(..) => Some("record a cache for each of them".into()),
            Self::NoRoom { least, .. } => Some(format!("allow at least {least} bytes with --budget-bytes")),
            Self::NoRoomToReplay { .. } => Some("shorten the prompt, or take queries from the prompt itself (from=prompt)".into()),
            Self::WindowTooShort { .. } => Some("choose a policy that looks at no repetition, or give a shorter prompt".into()),
            Self::NeedsPrompt { .. } => {
                Some("leave out --decode-slack and --compress-every, or choose a policy that looks at attention mass".into())
            }
            Self::NoSlots => Some("keep at least one slot".into()),
            Self::HoldsAll { .. } => Some("give fewer slots, or use --policy full if nothing should be compressed".into()),
            Self::Overflow { .. } => Some("use --cache-dtype f32, or bf16 in place of f16".into()),
            Self::NotFinite { .. } => Some(
                "the weights or the computation are at fault: get the model again; with --compute-dtype f16, try bf16 or f32"
                    .into(),
            ),
            Self::Sampling { .. } => Some("leave it out where it should not act".into()),
            Self::FaultyPlan { .. } | Self::BadKeptFraction(_) => None,
            Self::Refit { .. } | Self::OtherHeads { .. } => None,
        }
    }
}
