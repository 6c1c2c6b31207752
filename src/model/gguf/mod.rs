//! Reader of GGUF files, versions 2 and 3, little-endian, as published for llama.cpp.
//!
//! The file is mapped, not read. Every count, length and offset of the header is checked against the size of the file
//! before anything is allocated, so a damaged or hostile file gives an error and not a crash. Layout as documented in
//! `docs/gguf.md` of the ggml project: magic, version, counts, metadata, tensor table, padding, data.

mod cursor;
mod error;
mod split;
mod tensors;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use error::GgufError;
pub use tensors::TensorInfo;
pub use value::Value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::instead_of_weights;
use crate::model::gguf::cursor::Cursor;
use crate::model::weights::Backing;

/// Alignment of tensor data when the file names none, in bytes.
const DEFAULT_ALIGNMENT: u64 = 32;

/// An open GGUF file: its metadata, its tensor table, and its data on demand.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    /// The bytes of the file; of a split model, of every part in order.
    parts: Vec<Backing>,
    version: u32,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
    unreadable: BTreeMap<String, String>,
}

impl Gguf {
    /// Maps one file and reads its header.
    ///
    /// Errors: the file cannot be opened, is not GGUF of version 2 or 3, is cut short, or contradicts itself.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::parse(path.to_path_buf(), Backing::open(path)?)
    }

    /// Maps a whole model: the file, or all parts of the split model that it is a part of, which lie beside it.
    ///
    /// Errors: as [`Gguf::open`]; `GgufError::Split` when the parts are not all there or do not belong together.
    pub fn open_model(path: &Path) -> Result<Self, GgufError> {
        let first = Self::open(path)?;
        split::complete(first)
    }

    /// Reads a file that is already in memory; `path` only names it in messages.
    ///
    /// Errors: as [`Gguf::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::parse(path.to_path_buf(), Backing::Owned(bytes))
    }

    fn parse(path: PathBuf, bytes: Backing) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(&path, &bytes);
        let version = version(&path, &bytes, &mut cursor)?;
        // The smallest entries: an empty name, no dimension, type, offset; an empty key, type, one byte.
        let n_tensors = cursor.u64("the number of tensors")?;
        let n_keys = cursor.count(13, "the number of metadata keys")?;
        let n_tensors = cursor.check_count(n_tensors, 24, "the number of tensors")?;
        let mut metadata = BTreeMap::new();
        for i in 0..n_keys {
            let key = cursor.string(&format!("metadata key {i} of {n_keys}"))?;
            let kind = cursor.u32(&key)?;
            let value = cursor.value(kind, &key)?;
            if metadata.contains_key(&key) {
                return Err(cursor.malformed(format!("the metadata key {key} appears twice")));
            }
            metadata.insert(key, value);
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::U64(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n,
            Some(other) => {
                return Err(cursor.malformed(format!("general.alignment is {other:?}, not a power of two up to 2^20")));
            }
        };
        let tensors::Table { readable, unreadable } =
            tensors::read_table(&path, &bytes, &mut cursor, n_tensors, alignment)?;
        Ok(Self { path, version, metadata, tensors: readable, unreadable, parts: vec![bytes] })
    }

    /// The bytes of every part, in order.
    pub(in crate::model) fn into_parts(self) -> Vec<Backing> {
        self.parts
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All metadata, by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// The tensors that can be read, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The tensors whose storage type is not read, by name, with the type's name.
    pub fn unreadable(&self) -> &BTreeMap<String, String> {
        &self.unreadable
    }
}

fn version(path: &Path, bytes: &[u8], cursor: &mut Cursor) -> Result<u32, GgufError> {
    let path = path.to_path_buf();
    let magic = cursor.take(4.min(bytes.len()), "the magic number")?;
    if magic == b"FUGG" {
        return Err(GgufError::BigEndian { path });
    }
    if magic != b"GGUF" {
        if let Some(what) = instead_of_weights(bytes) {
            return Err(GgufError::StandIn { path, what });
        }
        let found = magic.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' }).collect();
        return Err(GgufError::NotGguf { path, found });
    }
    match cursor.u32("the version")? {
        found @ (2 | 3) => Ok(found),
        found if found.swap_bytes() <= 3 && found != 0 => Err(GgufError::BigEndian { path }),
        found => Err(GgufError::Version { path, found }),
    }
}
