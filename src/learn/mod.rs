//! Dumps and their model in, a scorer out: what the repetition of a prompt says of its tokens, as a linear map of their vectors.
//!
//! The model reads every sample's tokens again: once with their repetition, which gives what each is worth, and once more for the
//! vectors. Of these only sums are kept.

mod explained;
mod memory;
mod reading;
mod run;

pub use memory::memory_needed;
pub use run::{LearnOptions, Learned, learn};

use crate::format::dump::DumpError;
use crate::hint::Hint;
use crate::model::ModelError;
use crate::policy::PolicyError;
use crate::runtime::RuntimeError;

/// Why nothing could be learned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// A dump cannot be read, or is of another model.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The model cannot be run, or its weights not be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// What tokens are worth cannot be asked for.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The model cannot read or repeat a sample.
    #[error("sample {id} of {dataset}: {source}")]
    Sample {
        /// Data set.
        dataset: String,
        /// Row id.
        id: String,
        /// Why.
        source: RuntimeError,
    },
    /// Nothing to learn from.
    #[error("the dumps leave no sample to learn from")]
    NoSamples,
    /// The sums do not fit the machine.
    #[error("learning takes about {needed} bytes of memory, and this machine has {available}")]
    Memory {
        /// Bytes at the peak.
        needed: u64,
        /// Bytes of the machine.
        available: u64,
    },
    /// A layer's system has no solution.
    #[error("the vectors of layer {layer} are not finite, or too large for any map of them")]
    Unsolvable {
        /// Layer.
        layer: usize,
    },
}

impl Hint for LearnError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Dump(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::Policy(error) => error.hint(),
            Self::Sample {
                source: source @ (RuntimeError::NoRoomToReplay { .. } | RuntimeError::WindowTooShort { .. }),
                ..
            } => {
                Some(format!("capture again with a lower --max-tokens: {source}"))
            }
            Self::Sample { source, .. } => source.hint(),
            Self::NoSamples => Some("capture more prompts, or hold out a smaller share".into()),
            Self::Memory { .. } => Some(
                "use a machine with more memory: of each layer the products of all pairs of a vector's numbers are summed"
                    .into(),
            ),
            Self::Unsolvable { .. } => Some("the weights are damaged: get the model again".into()),
        }
    }
}
