//! Model in, dump out: runs prompts and writes their states, layer by layer.
//!
//! Never sees an analysis. The prompt passes through one layer after the other, in chunks, so that one layer's states
//! and one chunk's activations are in memory at a time.

mod classes;
mod memory;
mod plan;
mod recorder;
mod run;

pub(crate) use memory::MemoryEstimate;
pub use memory::{memory_estimate, memory_of_machine};
pub use plan::{CaptureOptions, SampleInput, estimated_bytes};
pub use run::run;

use std::path::PathBuf;

use crate::files::FileError;
use crate::format::dump::DumpError;
use crate::format::run::RunError;
use crate::hint::Hint;
use crate::model::ModelError;

/// What can go wrong during a capture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// Writing or reading the dump failed.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The folder holds another run, or the run was interrupted.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The model's files cannot be read again.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model could not run a sample.
    #[error("sample {id} of {dataset}: {source}")]
    Sample {
        /// Data set.
        dataset: String,
        /// Row id.
        id: String,
        /// Why.
        source: ModelError,
    },
    /// The folder has no manifest, but a file where a sample would go.
    #[error("{} is there already and is of no dump", .0.display())]
    Foreign(PathBuf),
    /// The disk is too small.
    #[error("the dump needs {needed} bytes and {} has {free} free", dir.display())]
    NoSpace {
        /// The folder.
        dir: PathBuf,
        /// Bytes to write.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The memory limit is too low.
    #[error(
        "{n_tokens} tokens need {} of memory at {chunk_tokens} tokens a chunk ({} weights, {} states, {} activations, {} \
         the rest); the limit is {}",
        megabytes(needed.total()), megabytes(needed.weights), megabytes(needed.states),
        megabytes(needed.activations), megabytes(needed.overhead), megabytes(*limit)
    )]
    Memory {
        /// Bytes allowed.
        limit: u64,
        /// Tokens of the longest sample, generated ones included.
        n_tokens: usize,
        /// Tokens per chunk of the estimate: the fewest that are tried.
        chunk_tokens: usize,
        /// The estimate.
        needed: MemoryEstimate,
    },
    /// Nothing to capture.
    #[error("there is nothing to capture: {0}")]
    Nothing(&'static str),
}

/// Rounded up, so that the number is enough when it is typed back.
fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

impl From<FileError> for CaptureError {
    fn from(error: FileError) -> Self {
        Self::Dump(error.into())
    }
}

impl Hint for CaptureError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Dump(error) => error.hint(),
            Self::Run(error) => error.hint(),
            Self::Sample { source, .. } | Self::Model(source) => source.hint(),
            Self::Foreign(_) => Some("choose another folder with --out, or move that file away".into()),
            Self::NoSpace { .. } => {
                Some("free some space, capture fewer samples, tokens, layers or states, or choose another --out".into())
            }
            Self::Memory { needed, .. } => Some(format!(
                "raise --memory-limit to {} or more, or cut the prompts with --max-tokens",
                megabytes(needed.total())
            )),
            Self::Nothing(_) => None,
        }
    }
}
