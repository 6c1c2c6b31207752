//! Weights and tokenizers as they lie on disk, and the forward pass over them.
//!
//! Defines [`KvStore`], through which the forward pass hands out keys and values; knows nothing of what a store does with
//! them (dump them, compress them).

pub mod gguf;
pub mod tokenizer;

mod attention;
mod backward;
mod config;
mod decoder;
mod device;
mod layer;
mod layers;
mod matrix;
mod mixture;
mod pass;
mod projections;
mod rope;
mod slots;
mod storage;
mod store;
mod weights;

pub use config::{
    ARCHITECTURES, Activation, Architecture, Bias, Config, Mixture, MixtureSettings, Multipliers, Style, Windows,
};
pub use decoder::Model;
pub use device::{Compute, Matmul};
pub use pass::{Decoding, Pass};
pub use rope::{RopeScaling, Yarn};
pub use slots::{AttnMass, HeadSlots, SlotVectors};
pub use storage::StorageType;
pub use store::{ChunkStates, ForwardError, KvStore, LogitRows, StoreNeeds};

use std::path::PathBuf;

use crate::checkpoint::brief;
use crate::files::FileError;
use crate::hint::Hint;
use crate::model::gguf::GgufError;
use crate::model::tokenizer::TokenizerError;

/// What can go wrong between a checkpoint and its logits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The GGUF file is damaged or of an unknown kind.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The tokenizer is missing, damaged or of an unknown kind.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The architecture is not of the Llama family.
    #[error("architecture {0} is not supported")]
    UnsupportedArchitecture(String),
    /// A setting is missing, of another type, or at odds with the others.
    #[error("the model's setting {key} {what}")]
    Config {
        /// Its key.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// A checkpoint's files do not make a model.
    #[error("{} {what}", path.display())]
    Unreadable {
        /// File or folder.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file holds something else than its name says.
    #[error("{} is {what}", path.display())]
    StandIn {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A setting or a tensor shows that the checkpoint is of a kind that is not computed.
    #[error("the {part} {what}")]
    Foreign {
        /// Which setting or tensor.
        part: String,
        /// What it shows.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The checkpoint holds tensors that the model has no place for.
    #[error("the model has no place for {n} of the tensors of its checkpoint: {}{}", first.join(", "), if *n > first.len() { ", ..." } else { "" })]
    UnreadTensors {
        /// The first of their names.
        first: Vec<String>,
        /// How many there are.
        n: usize,
    },
    /// A weight holds NaN or infinity.
    #[error("tensor {name} holds {value} at place {index}, which is not finite: the weights are damaged")]
    DamagedTensor {
        /// Its name.
        name: String,
        /// The first such number.
        value: f32,
        /// Its place in row-major order.
        index: usize,
    },
    /// A state that the model computed is NaN or infinite, though its weights are finite.
    #[error("the {state} {} not finite", match layer { Some(layer) => format!("of layer {layer} are"), None => "are".into() })]
    NotFinite {
        /// Where; `None` behind the last layer.
        layer: Option<usize>,
        /// What was computed.
        state: &'static str,
        /// What to do about it.
        hint: String,
    },
    /// A weight is missing.
    #[error("the checkpoint has no tensor {0}")]
    MissingTensor(String),
    /// A weight is stored in a type that is not read.
    #[error("tensor {name} is stored as {dtype}, which kvscope does not read")]
    UnsupportedType {
        /// Its name.
        name: String,
        /// Name of the storage type.
        dtype: String,
    },
    /// A weight has another shape than the configuration implies.
    #[error("tensor {name} has shape {found:?}; the configuration needs {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape needed.
        expected: Vec<usize>,
    },
    /// More tokens than the model has positions.
    #[error("{n_tokens} tokens exceed the model's context of {max_positions}{why}")]
    TooLong {
        /// Position after the last token.
        n_tokens: usize,
        /// The model's limit.
        max_positions: usize,
        /// What ends there; empty where the model states the limit.
        why: &'static str,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    BadToken {
        /// The id.
        id: u32,
        /// Tokens known.
        vocab_size: usize,
    },
    /// A device that cannot be used.
    #[error("the device {name:?} {what}")]
    Device {
        /// As it was typed.
        name: String,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// Nothing to run.
    #[error("the prompt has no tokens")]
    Empty,
    /// The tensor library failed.
    #[error("computation failed: {}", weights::first_line(.0))]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    pub(crate) fn config(key: &str, what: impl Into<String>) -> Self {
        Self::Config { key: key.into(), what: what.into() }
    }

    /// A setting that changes what is computed; `hint` says what to do about it.
    pub(crate) fn foreign(key: &str, what: impl Into<String>, hint: &'static str) -> Self {
        Self::Foreign { part: format!("model's setting {key}"), what: what.into(), hint }
    }

    pub(crate) fn unsupported_architecture(name: &str) -> Self {
        Self::UnsupportedArchitecture(brief(name))
    }
}

impl Hint for ModelError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Gguf(error) => error.hint(),
            Self::Tokenizer(error) => error.hint(),
            Self::UnsupportedArchitecture(_) => {
                let names: Vec<&str> = ARCHITECTURES.iter().map(|a| a.hf_name).collect();
                Some(format!("supported are {}", names.join(", ")))
            }
            Self::Device { hint, .. } => Some(hint.clone()),
            Self::TooLong { .. } => Some("shorten the prompt; capture and eval do so with --max-tokens".into()),
            Self::Unreadable { .. } => {
                Some("give a GGUF file, or a folder with config.json, a tokenizer and safetensors".into())
            }
            Self::MissingTensor(_) => {
                Some("the checkpoint is incomplete, or of another architecture than its settings say".into())
            }
            Self::StandIn { .. } | Self::DamagedTensor { .. } => Some("download the file itself; kvscope reads safetensors and GGUF".into()),
            Self::Foreign { hint, .. } => Some((*hint).into()),
            Self::UnreadTensors { .. } => Some(
                "they would change what the model computes: use a checkpoint of the architecture that its settings name"
                    .into(),
            ),
            Self::NotFinite { hint, .. } => Some(hint.clone()),
            Self::Config { .. } => Some(
                "compare it with the settings on the model's page: download the model again, or convert it again".into(),
            ),
            Self::Shape { .. } => {
                Some("the weights belong to other settings: download both again, from one place".into())
            }
            Self::UnsupportedType { .. } => Some("use safetensors in F32, F16 or BF16, or a GGUF file".into()),
            Self::BadToken { .. } => Some("use the tokenizer and the weights of one model".into()),
            Self::Empty => Some("give a prompt that is not empty".into()),
            Self::Tensor(_) => Some("download the model again; on another device than the CPU, try --device cpu".into()),
        }
    }
}
