//! Every saved file, described once: its types, its reader, its writer and what can be wrong with it.
//!
//! A leaf: knows no stage. Stages compute documents; whoever reads one needs no stage. Layouts in `docs/FORMATS.md`.

pub mod analysis;
pub mod bench;
pub mod comparison;
pub mod dump;
pub mod evaluation;
pub mod explorer;
pub mod generation;
pub mod join;
pub mod kind;
pub mod map;
pub mod profile;
pub mod run;
pub mod scorer;
pub mod stats;

use std::path::{Path, PathBuf};

use crate::files::FileError;
use crate::hint::Hint;

/// What can be wrong with a saved file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file contradicts itself or what names it.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, with both values.
        what: String,
    },
    /// A Parquet table cannot be written or read.
    #[error("cannot read or write the table {}: {source}", path.display())]
    Table {
        /// The table.
        path: PathBuf,
        /// What the format's library says.
        source: parquet::errors::ParquetError,
    },
}

impl FormatError {
    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), what: what.into() }
    }
}

impl Hint for FormatError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Damaged { .. } | Self::Table { .. } => Some("make it again with the command that wrote it".into()),
        }
    }
}
