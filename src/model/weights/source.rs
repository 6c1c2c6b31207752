//! The files of a checkpoint in memory, and what tells later that they are still the same.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::Mmap;

use crate::files::{FileError, map_opened, open_regular, read_at};
use crate::model::ModelError;
use crate::model::storage::Bytes;

/// The bytes of one file.
#[derive(Debug)]
pub(in crate::model) enum Backing {
    /// Of a file that stays open.
    Mapped(Arc<Mmap>, Origin),
    /// Of a file that was in memory before.
    Owned(Vec<u8>),
}

impl Backing {
    /// Maps a regular file.
    pub(in crate::model) fn open(path: &Path) -> Result<Self, FileError> {
        let file = open_regular(path)?;
        let state = state(&file).map_err(|e| FileError::io("read", path, e))?;
        // An empty file cannot be mapped everywhere.
        if state.0 == 0 {
            return Ok(Self::Owned(Vec::new()));
        }
        let map = map_opened(&file, path)?;
        Ok(Self::Mapped(Arc::new(map), Origin { path: path.into(), file, state }))
    }

    /// A copy of some bytes. Read and not taken from the map, whose pages would weigh beside it.
    ///
    /// - Errors: the file cannot be read
    pub(super) fn copy(&self, range: Range<usize>) -> Result<Vec<u8>, FileError> {
        match self {
            Self::Mapped(_, origin) => {
                let mut bytes = vec![0; range.len()];
                origin.read_at(&mut bytes, range.start)?;
                Ok(bytes)
            }
            Self::Owned(bytes) => Ok(part(bytes, range)),
        }
    }

    /// Some bytes where they lie; of a file that was in memory before, a copy.
    pub(super) fn share(&self, range: Range<usize>) -> Bytes {
        match self {
            Self::Mapped(map, _) => Bytes::Mapped(map.clone(), range),
            Self::Owned(bytes) => Bytes::Owned(part(bytes, range)),
        }
    }

    /// Lets go of the memory, to be read again when it is needed. What is shared stays mapped.
    pub(super) fn unmap(self) -> Unmapped {
        match self {
            Self::Mapped(_, origin) => Unmapped::File(origin),
            Self::Owned(bytes) => Unmapped::Owned(bytes),
        }
    }
}

impl Deref for Backing {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map, _) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A file that was mapped. It stays open: what is renamed over its path is another file.
#[derive(Debug)]
pub(in crate::model) struct Origin {
    path: PathBuf,
    file: File,
    state: (u64, Option<SystemTime>),
}

impl Origin {
    /// Fills `into` with the bytes from `at` on.
    fn read_at(&self, into: &mut [u8], at: usize) -> Result<(), FileError> {
        read_at(&self.file, into, at as u64).map_err(|e| FileError::io("read", &self.path, e))
    }
}

/// A copy of some bytes, whose range was checked when the table of tensors was read.
fn part(bytes: &[u8], range: Range<usize>) -> Vec<u8> {
    bytes.get(range).unwrap_or_default().to_vec()
}

/// Size and time of the last change.
fn state(file: &File) -> std::io::Result<(u64, Option<SystemTime>)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok()))
}

/// A file of a model that was loaded.
#[derive(Debug)]
pub(super) enum Unmapped {
    File(Origin),
    Owned(Vec<u8>),
}

impl Unmapped {
    /// Fills `into` with the bytes from `at` on. Read and not mapped, so that pages of the file do not weigh beside the weights.
    pub(super) fn read_at(&self, into: &mut [u8], at: usize) -> Result<(), ModelError> {
        match self {
            Self::Owned(bytes) => {
                // The range was checked when the table of tensors was read.
                let from = bytes.get(at..).unwrap_or_default();
                into.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
            Self::File(origin) => origin.read_at(into, at)?,
        }
        Ok(())
    }

    /// - Errors: the file was changed since the model was loaded
    pub(super) fn check_unchanged(&self) -> Result<(), ModelError> {
        let Self::File(Origin { path, file, state: before }) = self else { return Ok(()) };
        if state(file).map_err(|e| FileError::io("read", path, e))? == *before {
            return Ok(());
        }
        Err(ModelError::Unreadable { path: path.clone(), what: "was changed after it was loaded".into() })
    }
}
