//! Model in, dump out: runs prompts and writes their states, layer by layer.
//!
//! Never sees an analysis. One layer's states are in memory at a time when the prompt passes in one chunk.

mod recorder;
mod run;

pub use run::CaptureOptions;
pub use run::SampleInput;
pub use run::estimated_bytes;
pub use run::run;

use std::path::PathBuf;

use crate::dump::DumpError;
use crate::files::FileError;
use crate::model::ModelError;

/// What can go wrong during a capture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// Writing or reading the dump failed.
    #[error(transparent)]
    Dump(#[from] DumpError),
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
    /// The folder holds a dump already.
    #[error("{} holds a dump already", dir.display())]
    Exists {
        /// The folder.
        dir: PathBuf,
    },
    /// The dump to resume was made with other settings.
    #[error("{} was captured with another {what}, so it cannot be resumed", dir.display())]
    OtherRun {
        /// The folder.
        dir: PathBuf,
        /// What differs.
        what: &'static str,
    },
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
    /// The user asked to stop.
    #[error("interrupted after {done} of {planned} samples; the dump is valid")]
    Interrupted {
        /// Finished samples.
        done: usize,
        /// Samples of the run.
        planned: usize,
    },
    /// Nothing to capture.
    #[error("there is nothing to capture: {0}")]
    Nothing(&'static str),
}

impl From<FileError> for CaptureError {
    fn from(error: FileError) -> Self {
        Self::Dump(error.into())
    }
}

impl CaptureError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dump(error) => error.hint(),
            Self::Sample { source, .. } => source.hint(),
            Self::Exists { .. } => Some("pass --resume to go on with it, or choose another folder with --out".into()),
            Self::OtherRun { .. } => {
                Some("choose another folder with --out, or repeat the command that began it".into())
            }
            Self::NoSpace { .. } => {
                Some("free some space, capture fewer samples, tokens, layers or states, or choose another --out".into())
            }
            Self::Interrupted { .. } => Some("run the same command with --resume to go on".into()),
            Self::Nothing(_) => None,
        }
    }
}
