//! What can be wrong with a GGUF file.

use std::path::PathBuf;

use crate::files::FileError;
use crate::hint::Hint;

/// What can be wrong with a GGUF file. Every variant names the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file cannot be opened or mapped.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file does not begin with the letters GGUF.
    #[error("{} is not a GGUF file: it begins with {found:?}", path.display())]
    NotGguf {
        path: PathBuf,
        /// Its first bytes, unprintable ones as dots.
        found: String,
    },
    /// The file was made for big-endian machines.
    #[error("{} is a big-endian GGUF file; kvscope reads little-endian ones", path.display())]
    BigEndian { path: PathBuf },
    /// The version of the format is not 2 or 3.
    #[error("{} is a GGUF file of version {found}; kvscope reads versions 2 and 3", path.display())]
    Version { path: PathBuf, found: u32 },
    /// Something ends behind the end of the file.
    #[error("{}: {what} ends at byte {end} but the file has {len}: the download is incomplete", path.display())]
    Truncated {
        path: PathBuf,
        what: String,
        /// Where it would end, in bytes.
        end: u64,
        len: u64,
    },
    /// The header contradicts the format.
    #[error("{}: near byte {at}: {what}", path.display())]
    Malformed {
        path: PathBuf,
        /// Bytes read until then.
        at: u64,
        what: String,
    },
    /// The place or the shape of a tensor cannot be right.
    #[error("{}: tensor {name} {what}", path.display())]
    Layout { path: PathBuf, name: String, what: String },
    /// The parts of a split model are not all there, or do not belong together.
    #[error("{} {what}", path.display())]
    Split { path: PathBuf, what: String },
    /// The file is something else, saved under its name.
    #[error("{} is {what}", path.display())]
    StandIn { path: PathBuf, what: &'static str },
    /// A metadata key that is needed is absent.
    #[error("{} has no {key} in its metadata", path.display())]
    MissingKey { path: PathBuf, key: String },
    /// A metadata key holds another type, or a number out of range.
    #[error("{}: {key} is {found}, not {expected}", path.display())]
    WrongType { path: PathBuf, key: String, expected: &'static str, found: &'static str },
    /// No tensor has this name.
    #[error("{} has no tensor {name}", path.display())]
    NoTensor { path: PathBuf, name: String },
    /// The tensor is stored in a form that is not read.
    #[error("{}: tensor {name} is stored as {dtype}, which kvscope does not read", path.display())]
    UnsupportedType { path: PathBuf, name: String, dtype: String },
    /// The tensor library refused.
    #[error("{}: tensor {name} cannot be unpacked: {source}", path.display())]
    Unpack { path: PathBuf, name: String, source: candle_core::Error },
}

impl Hint for GgufError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File(source) => source.hint(),
            Self::Truncated { .. } => {
                Some("download the file again and compare its size with the one on the model's page".into())
            }
            Self::Split { .. } => Some("put all parts of one model, under their own names, into one folder".into()),
            Self::StandIn { .. } => Some("download the file itself".into()),
            Self::BigEndian { .. } => Some("use the little-endian file of the same model".into()),
            Self::Version { found: 0 | 1, .. } => Some("convert the model again with a current llama.cpp".into()),
            Self::Version { .. } => Some("update kvscope, or convert the model to GGUF version 3".into()),
            Self::UnsupportedType { .. } => {
                Some("use a file in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4, TQ1_0 or TQ2_0".into())
            }
            Self::NotGguf { .. } => Some("give a .gguf file, or the folder of a Hugging Face model".into()),
            Self::Malformed { .. }
            | Self::Layout { .. }
            | Self::MissingKey { .. }
            | Self::WrongType { .. }
            | Self::NoTensor { .. }
            | Self::Unpack { .. } => Some("the file is damaged: download it again, or convert the model again".into()),
        }
    }
}
