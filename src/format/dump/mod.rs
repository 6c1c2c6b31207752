//! The dump: a folder with `manifest.json` and one plain safetensors file per sample, so that other tools open it too.
//!
//! Knows nothing of how states are made or analysed. Layout in `docs/FORMATS.md`.

mod check;
mod contradictions;
mod join;
mod layout;
mod manifest;
mod reader;
mod sample;
mod statistics;
mod token_class;
mod writer;

pub use check::{faults, sample_faults};
pub use join::join;
pub use layout::{Tensor, TensorSpec};
pub use manifest::{Manifest, SampleEntry, State};
pub use reader::Dump;
pub use sample::Sample;
pub use statistics::Statistics;
pub use token_class::TokenClass;
pub use writer::SampleWriter;

use std::path::{Path, PathBuf};

use safetensors::Dtype;

use crate::files::{FileError, InputHash, ModelIdentity};
use crate::hint::Hint;

/// What can be wrong with a dump.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder has no manifest.
    #[error("{} is not a dump: it has no manifest.json", .0.display())]
    NotADump(PathBuf),
    /// A sample's file is not valid safetensors.
    #[error("{} is damaged: {source}", path.display())]
    Damaged {
        /// The sample's file.
        path: PathBuf,
        /// What the format's reader says.
        source: safetensors::SafeTensorError,
    },
    /// A manifest and its files disagree, or a manifest contradicts itself.
    #[error("{}: {what}", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// The contradiction, with both values.
        what: String,
    },
    /// A file that is not the one that was written.
    #[error("{} has changed: its SHA-256 is {got:.12}… where the manifest says {expected:.12}…", path.display())]
    Changed {
        /// The sample's file.
        path: PathBuf,
        /// Digest in the manifest.
        expected: String,
        /// Digest of the file.
        got: String,
    },
    /// A number to be written is not finite.
    #[error("{name} has {value}, which is not finite: {} was not written", path.display())]
    NotFinite {
        /// The sample's file.
        path: PathBuf,
        /// Tensor name, with the layer.
        name: String,
        /// NaN or an infinity.
        value: f32,
    },
    /// A number is too large for the element type that is written.
    #[error("{name} has {value}, which would be infinite as {element}: {} was not written", path.display())]
    Overflow {
        /// The sample's file.
        path: PathBuf,
        /// Tensor name, with the layer.
        name: String,
        /// The number.
        value: f32,
        /// The element type.
        element: Dtype,
    },
    /// A tensor that is needed is not in the file.
    #[error("{} holds no tensor {name}", path.display())]
    MissingTensor {
        /// The sample's file.
        path: PathBuf,
        /// Tensor name.
        name: String,
    },
    /// A head that was not captured.
    #[error("{} holds no head {head} of {name}", path.display())]
    MissingHead {
        /// The sample's file.
        path: PathBuf,
        /// Tensor name.
        name: String,
        /// The head asked for.
        head: usize,
    },
    /// The dumps are of another model.
    #[error("the dumps are of {dumps}, and the model is {model}, or has other weights")]
    OtherModel {
        /// Model of a dump.
        dumps: String,
        /// The model at hand.
        model: String,
    },
    /// A tensor was written out of turn, a defect of the writer's caller.
    #[error("{}: tensor {got} was written where {expected} was due", path.display())]
    OutOfTurn {
        /// The sample's file.
        path: PathBuf,
        /// Declared next.
        expected: String,
        /// Written.
        got: String,
    },
}

impl DumpError {
    pub(crate) fn inconsistent(path: &Path, what: impl Into<String>) -> Self {
        Self::Inconsistent { path: path.into(), what: what.into() }
    }
}

/// Refuses dumps of a model other than this one.
///
/// - Errors: [`DumpError::OtherModel`]
pub fn check_model(dumps: &[Dump], model: &ModelIdentity) -> Result<(), DumpError> {
    let mut captured = dumps.iter().map(|dump| &dump.manifest().model);
    match captured.find(|captured| captured.fingerprint != model.fingerprint) {
        Some(other) => Err(DumpError::OtherModel { dumps: other.name.clone(), model: model.name.clone() }),
        None => Ok(()),
    }
}

/// The files of all samples, sorted, as provenance names them.
pub fn sample_hashes(dumps: &[Dump]) -> Vec<InputHash> {
    let samples = dumps.iter().flat_map(|dump| &dump.manifest().samples);
    let mut hashes: Vec<InputHash> =
        samples.map(|sample| InputHash { name: sample.file.clone(), sha256: sample.sha256.clone() }).collect();
    hashes.sort();
    hashes
}

impl Hint for DumpError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::NotADump(_) => Some("give the folder that `kvscope capture` wrote".into()),
            Self::Damaged { .. } | Self::Changed { .. } => {
                Some("delete that file and run the same capture again with --resume".into())
            }
            Self::MissingTensor { name, .. } => {
                let state = name.rsplit('.').next().unwrap_or(name);
                Some(format!("capture again with {state} among --states"))
            }
            Self::NotFinite { .. } => Some(
                "the weights are damaged, or the model leaves the range of f32; try another copy of the model".into(),
            ),
            Self::Overflow { .. } => Some("capture with --dtype bf16 or --dtype f32".into()),
            Self::MissingHead { .. } => Some("capture again with --heads all, or with that head in the list".into()),
            Self::Inconsistent { .. } => Some(
                "the dump was damaged or changed; `kvscope verify` lists every fault, and a new capture has none"
                    .into(),
            ),
            Self::OtherModel { .. } => Some("name the model that was captured".into()),
            Self::OutOfTurn { .. } => None,
        }
    }
}
