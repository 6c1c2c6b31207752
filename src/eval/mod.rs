//! Evaluation: policies x budgets x tasks in, rows, statistics and a verdict out.
//!
//! A prompt is run once; every policy at every budget compresses the same states. What is measured behind the compressed
//! prompt is a task family's ([`task::TASKS`]), how an answer is scored a metric's ([`metric::METRICS`]).

mod answer;
mod arm;
mod continuation;
mod item;
mod join;
pub mod metric;
mod plan;
mod plant;
mod predictions;
mod run;
mod summary;
pub mod task;
mod verdict;

pub use arm::{Arm, arms, arms_at_sizes};
pub(crate) use item::Skipped;
pub use item::{Item, Settings, Work, items, n_cut, unscored};
pub use join::join;
pub use plan::Plan;
pub use plant::{NeedleGrid, plant};
pub use run::{measure, run};

use crate::files::FileError;
use crate::format::FormatError;
use crate::format::join::JoinError;
use crate::format::run::RunError;
use crate::hint::Hint;
use crate::model::ModelError;
use crate::model::tokenizer::TokenizerError;
use crate::policy::PolicyError;
use crate::runtime::RuntimeError;

/// What can go wrong during an evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A saved file is damaged, or cannot be read or written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The folder holds another run, or the run was interrupted.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Shards cannot be joined.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The model could not run a text.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A text could not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A policy does not exist or has faulty parameters.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A prompt could not be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A policy failed on a text.
    #[error("policy {policy} on text {id} of {dataset}: {source}")]
    Arm {
        /// The policy.
        policy: String,
        /// Data set.
        dataset: String,
        /// Row id.
        id: String,
        /// Why.
        source: RuntimeError,
    },
    /// A question cannot be hidden.
    #[error("text {id} of {dataset} has no question behind its context, so none can be hidden")]
    NoQuestion {
        /// Data set.
        dataset: String,
        /// Row id.
        id: String,
    },
    /// A data set cannot be scored.
    #[error("{task} cannot score {dataset}: {why}")]
    Refused {
        /// Task family.
        task: &'static str,
        /// Data set.
        dataset: String,
        /// Why.
        why: &'static str,
    },
    /// A text has nothing that an answer could be scored against.
    #[error("{task} cannot score text {id} of {dataset}: {why}")]
    Unscorable {
        /// Task family.
        task: &'static str,
        /// Data set.
        dataset: String,
        /// Row id.
        id: String,
        /// What it lacks.
        why: &'static str,
    },
    /// Prompt and continuation are longer than the model's context.
    #[error("{n_tokens} tokens of context and continuation exceed the model's context of {max_positions}")]
    Context {
        /// Tokens that would be fed.
        n_tokens: usize,
        /// The model's limit.
        max_positions: usize,
    },
    /// A measurement is no number.
    #[error(
        "the {0} is not a finite number: the logits of the compressed cache lie too far from those of the full one"
    )]
    NotFinite(&'static str),
    /// A family finds none of its data sets.
    #[error("no prompt belongs to a data set of the task family {0}")]
    NoDataset(&'static str),
    /// Nothing to do.
    #[error("there is no text to evaluate on: {0} were too short or too long")]
    Nothing(usize),
    /// No text is long enough to plant a needle in.
    #[error("no text has the {0} tokens that a needle is to be planted in")]
    NoText(usize),
    /// A text is there twice.
    #[error("the text {id} of {dataset} is there twice")]
    Twice {
        /// Data set.
        dataset: String,
        /// Row id.
        id: String,
    },
    /// Rows contradict the run.
    #[error("{0}")]
    Damaged(String),
}

impl Hint for EvalError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Format(error) => error.hint(),
            Self::Run(error) => error.hint(),
            Self::Join(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::Tokenizer(error) => error.hint(),
            Self::Policy(error) => error.hint(),
            Self::Runtime(error) => error.hint(),
            Self::Arm { source: RuntimeError::NothingCompressed { .. }, .. } => {
                Some("the full cache is the reference anyway: leave the policy out, or lower its threshold".into())
            }
            Self::Arm { source, .. } => source.hint(),
            Self::Refused { .. } => Some("leave these prompts out".into()),
            Self::NoQuestion { .. } => {
                Some("give records with `context` and `input`, and a template that has the input last".into())
            }
            Self::Unscorable { .. } => Some("complete the record, or leave it out".into()),
            Self::Context { .. } => Some("give a smaller --context or --continuation".into()),
            Self::NotFinite(_) => Some("look at this text with generate --compare, or leave the policy out".into()),
            Self::NoDataset(_) => Some("give prompts whose `dataset` the family knows, or another --task".into()),
            Self::Nothing(_) => Some("give longer texts, or a smaller --context and --continuation".into()),
            Self::NoText(_) => Some("give longer texts, or smaller lengths of at least some 60 tokens".into()),
            Self::Twice { .. } => Some("give every prompts file once".into()),
            Self::Damaged(_) => Some("make the folder again with the same command".into()),
        }
    }
}
