//! Weights by their Hugging Face names and in their order, whatever the file's format, in the type of the file.
//!
//! Every tensor of a checkpoint is used, or has no effect, or is refused by name: [`Weights::finish`] compares what was read
//! with what is there.

mod experts;
mod fingerprint;
mod names;
mod source;

pub(in crate::model) use experts::{Expert, Part};
pub(in crate::model) use fingerprint::Fingerprint;
pub(in crate::model) use source::Backing;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use safetensors::{Dtype, SafeTensors};

use crate::checkpoint::{INDEX, MAX_INDEX_BYTES, brief, instead_of_weights, shards};
use crate::files::read_limited;
use crate::math::first_not_below;
use crate::model::ModelError;
use crate::model::StorageType;
use crate::model::config::{Bias, Config};
use crate::model::gguf::Gguf;
use crate::model::matrix::{Kernel, Matrix};
use crate::model::weights::experts::{Place, places};
use crate::model::weights::fingerprint::Entry;
use crate::model::weights::names::{Naming, foreign, is_without_effect};

/// An opened checkpoint.
#[derive(Debug)]
pub(crate) struct Weights {
    naming: Naming,
    files: Vec<Backing>,
    tensors: BTreeMap<String, Stored>,
    /// Names, as stored, of what was read.
    read: Mutex<BTreeSet<String>>,
}

/// Where a tensor lies and how it is stored.
#[derive(Debug)]
struct Stored {
    /// `Err` with the type's name where it is not read.
    dtype: Result<StorageType, String>,
    shape: Vec<usize>,
    file: usize,
    range: Range<usize>,
}

/// Tensors that an error about tensors names.
const SHOWN_TENSORS: usize = 3;

impl Weights {
    /// The tensors of a GGUF model.
    pub(crate) fn of_gguf(gguf: Gguf, config: &Config) -> Result<Self, ModelError> {
        let mut tensors = BTreeMap::new();
        for (name, info) in gguf.tensors() {
            let range = info.offset as usize..(info.offset + info.bytes) as usize;
            let stored = Stored { dtype: Ok(info.dtype), shape: info.shape.clone(), file: info.part, range };
            tensors.insert(name.clone(), stored);
        }
        for (name, dtype) in gguf.unreadable() {
            let stored = Stored { dtype: Err(dtype.clone()), shape: Vec::new(), file: 0, range: 0..0 };
            tensors.insert(name.clone(), stored);
        }
        let post_norms = config.architecture.style.post_norms;
        Self::new(Naming::Gguf { post_norms }, gguf.into_parts(), tensors, config)
    }

    /// The tensors of one safetensors file of a folder.
    pub(crate) fn of_safetensors(dir: &Path, file: &str, config: &Config) -> Result<Self, ModelError> {
        Self::of_files(dir, &BTreeSet::from([file.to_string()]), config)
    }

    /// The tensors of the shards that the index of a folder names.
    pub(crate) fn of_shards(dir: &Path, config: &Config) -> Result<Self, ModelError> {
        let unreadable = |what: String| ModelError::Unreadable { path: dir.into(), what };
        let path = dir.join(INDEX);
        let text = read_limited(&path, "index", MAX_INDEX_BYTES)?;
        if let Some(what) = instead_of_weights(&text) {
            return Err(ModelError::StandIn { path, what });
        }
        let names = shards(&text).map_err(|what| unreadable(format!("has {what}")))?;
        let missing: Vec<&str> = names.iter().map(String::as_str).filter(|name| !dir.join(name).exists()).collect();
        match missing.first() {
            Some(first) => Err(unreadable(format!(
                "lacks {} of the {} shards that {INDEX} names, {first} among them; the download is incomplete",
                missing.len(),
                names.len()
            ))),
            None => Self::of_files(dir, &names, config),
        }
    }

    /// Maps safetensors files. Of a tensor that several hold, the last one's is taken, as transformers does.
    fn of_files(dir: &Path, names: &BTreeSet<String>, config: &Config) -> Result<Self, ModelError> {
        let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
        for (file, name) in names.iter().enumerate() {
            let path = dir.join(name);
            let backing = Backing::open(&path)?;
            let read = SafeTensors::deserialize(&backing);
            let found = read.map_err(|source| match instead_of_weights(&backing) {
                Some(what) => ModelError::StandIn { path: path.clone(), what },
                None => ModelError::Unreadable {
                    path: path.clone(),
                    what: format!("is no whole safetensors file: {source}"),
                },
            })?;
            let first = backing.as_ptr() as usize;
            for (name, view) in found.tensors() {
                let start = view.data().as_ptr() as usize - first;
                let range = start..start + view.data().len();
                let dtype = match view.dtype() {
                    Dtype::F32 => Ok(StorageType::F32),
                    Dtype::F16 => Ok(StorageType::F16),
                    Dtype::BF16 => Ok(StorageType::BF16),
                    other => Err(format!("{other:?}")),
                };
                tensors.insert(name, Stored { dtype, shape: view.shape().to_vec(), file, range });
            }
            files.push(backing);
        }
        Self::new(Naming::of_safetensors(tensors.keys())?, files, tensors, config)
    }

    fn new(
        naming: Naming,
        files: Vec<Backing>,
        tensors: BTreeMap<String, Stored>,
        config: &Config,
    ) -> Result<Self, ModelError> {
        match tensors.keys().find_map(|name| foreign(name, &config.architecture.style)) {
            Some(error) => Err(error),
            None => Ok(Self { naming, files, tensors, read: Mutex::default() }),
        }
    }

    /// Whether there is a tensor of that Hugging Face name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(&self.naming.stored(name))
    }

    /// Whether two tensors are the same numbers, stored alike.
    pub(crate) fn are_equal(&self, a: &str, b: &str) -> bool {
        let find = |name: &str| self.tensors.get(&self.naming.stored(name));
        let (Some(a), Some(b)) = (find(a), find(b)) else { return false };
        (&a.dtype, &a.shape) == (&b.dtype, &b.shape) && self.bytes_of(a) == self.bytes_of(b)
    }

    /// Marks a tensor as read that is known in another way.
    pub(crate) fn pass_over(&self, name: &str) {
        self.mark(&self.naming.stored(name));
    }

    fn bytes_of(&self, stored: &Stored) -> &[u8] {
        // Both readers checked the range against the file.
        self.files.get(stored.file).and_then(|file| file.get(stored.range.clone())).unwrap_or_default()
    }

    /// The matrix of that Hugging Face name in the type of the file, to be multiplied with `kernel` where that knows the type.
    pub(crate) fn matrix(
        &self,
        name: &str,
        shape: [usize; 2],
        config: &Config,
        kernel: Option<Kernel>,
    ) -> Result<Matrix, ModelError> {
        let (dtype, bytes) = self.bytes(name, &shape, config)?;
        Matrix::new(dtype, bytes, shape, kernel)
            .ok_or_else(|| ModelError::UnsupportedType { name: name.into(), dtype: format!("{dtype:?}") })
    }

    /// Some rows of the matrix of that Hugging Face name, as [`Weights::matrix`]; `shape` is that of the whole.
    pub(crate) fn rows(
        &self,
        name: &str,
        rows: Range<usize>,
        shape: [usize; 2],
        config: &Config,
        kernel: Option<Kernel>,
    ) -> Result<Matrix, ModelError> {
        let (dtype, bytes) = self.bytes(name, &shape, config)?;
        let row_bytes = bytes.len() / shape[0];
        let bytes = bytes[rows.start * row_bytes..rows.end * row_bytes].to_vec();
        Matrix::new(dtype, bytes, [rows.len(), shape[1]], kernel)
            .ok_or_else(|| ModelError::UnsupportedType { name: name.into(), dtype: format!("{dtype:?}") })
    }

    /// A matrix of an expert, `[n_out, n_in]`, which stays in the file until it is multiplied.
    pub(crate) fn expert(&self, expert: Expert, part: Part, shape: [usize; 2]) -> Result<Matrix, ModelError> {
        let mut places = places(self.naming, expert, part, shape).peekable();
        let usual = places.peek().map_or_else(String::new, |place| place.name.clone());
        let place = places.find(|place| self.tensors.contains_key(&place.name));
        let Place { name, shape: whole, first_row } = place.ok_or_else(|| ModelError::MissingTensor(usual))?;
        let (dtype, stored) = self.find(&name, &whole)?;
        // Both readers checked the range against the shape: rows are of one length.
        let row_bytes = stored.range.len() / whole.iter().rev().skip(1).product::<usize>().max(1);
        let start = stored.range.start + first_row * row_bytes;
        let bytes = self.files[stored.file].share(start..start + shape[0] * row_bytes);
        self.mark(&name);
        Matrix::in_place(dtype, bytes, shape)
            .ok_or_else(|| ModelError::UnsupportedType { name, dtype: format!("{dtype:?}") })
    }

    /// The vector of that Hugging Face name in f32.
    ///
    /// - Errors: also a number in it that is not finite; a matrix is too large to be looked through each time
    pub(crate) fn vector(&self, name: &str, n: usize, config: &Config) -> Result<Vec<f32>, ModelError> {
        let (dtype, bytes) = self.bytes(name, &[n], config)?;
        let row = Matrix::new(dtype, bytes, [1, n], None)
            .ok_or_else(|| ModelError::UnsupportedType { name: name.into(), dtype: format!("{dtype:?}") })?;
        let mut values = vec![0f32; n];
        row.widen_rows(0, &mut values);
        if let Some(index) = first_not_below(&values, f32::INFINITY) {
            return Err(ModelError::DamagedTensor { name: name.into(), value: values[index], index });
        }
        Ok(values)
    }

    /// The weights of a norm, as they multiply.
    pub(crate) fn norm(&self, name: &str, n: usize, config: &Config) -> Result<Vec<f32>, ModelError> {
        let mut weights = self.vector(name, n, config)?;
        // GGUF files have them whole.
        if config.architecture.style.norms_less_one && self.naming.is_hugging_face() {
            weights.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(weights)
    }

    /// The bias beside a weight, as far as the model has one.
    pub(crate) fn bias(
        &self,
        name: &str,
        n: usize,
        config: &Config,
        bias: Bias,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let wanted = match bias {
            Bias::None => false,
            Bias::Required => true,
            Bias::IfStored => self.has(name),
        };
        wanted.then(|| self.vector(name, n, config)).transpose()
    }

    /// Type and bytes of a tensor, checked against the shape that the configuration implies, rows in half-split order.
    fn bytes(&self, name: &str, shape: &[usize], config: &Config) -> Result<(StorageType, Vec<u8>), ModelError> {
        let stored_name = self.naming.stored(name);
        let (dtype, stored) = self.find(&stored_name, shape)?;
        let bytes = self.files[stored.file].copy(stored.range.clone())?;
        let bytes = match heads_of(name, config) {
            Some(n_heads) if !self.naming.is_hugging_face() && config.architecture.gguf_interleaved => {
                half_split(&bytes, shape, n_heads)?
            }
            _ => bytes,
        };
        self.mark(&stored_name);
        Ok((dtype, bytes))
    }

    /// Type and place of a tensor under its name in the file.
    ///
    /// The shape is checked before anything is copied: a stranger's header must not decide what is allocated.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(StorageType, &Stored), ModelError> {
        let stored = self.tensors.get(name).ok_or_else(|| ModelError::MissingTensor(name.into()))?;
        let dtype = match &stored.dtype {
            Ok(dtype) => *dtype,
            Err(dtype) => return Err(ModelError::UnsupportedType { name: name.into(), dtype: dtype.clone() }),
        };
        if stored.shape != shape {
            let (found, expected) = (stored.shape.clone(), shape.to_vec());
            return Err(ModelError::Shape { name: name.into(), found, expected });
        }
        Ok((dtype, stored))
    }

    fn mark(&self, stored_name: &str) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(stored_name.into());
    }

    /// Ends loading: all tensors must have been read, but for those that have no effect. Returns what the fingerprint needs.
    ///
    /// - Errors: [`ModelError::UnreadTensors`]
    pub(crate) fn finish(self, config: &Config) -> Result<Fingerprint, ModelError> {
        let read = self.read.into_inner().unwrap_or_else(PoisonError::into_inner);
        let is_left = |name: &&String| !read.contains(*name) && !is_without_effect(name, &config.rope_scaling);
        let mut left = self.tensors.keys().filter(is_left);
        let first: Vec<String> = left.by_ref().take(SHOWN_TENSORS).map(|name| brief(name)).collect();
        if !first.is_empty() {
            return Err(ModelError::UnreadTensors { n: first.len() + left.count(), first });
        }
        let entry = |(name, stored): (&String, &Stored)| Entry {
            title: match &stored.dtype {
                Ok(dtype) => format!("{name} {dtype:?} {:?}", stored.shape),
                Err(dtype) => format!("{name} {dtype} {:?}", stored.shape),
            },
            file: stored.file,
            range: stored.range.clone(),
        };
        Ok(Fingerprint {
            settings: format!("{config:?}"),
            tensors: self.tensors.iter().map(entry).collect(),
            files: self.files.into_iter().map(Backing::unmap).collect(),
        })
    }
}

/// Heads of a q or k projection, whose rows GGUF may store in another order.
fn heads_of(name: &str, config: &Config) -> Option<usize> {
    if name.contains(".q_proj.") {
        Some(config.n_q_heads)
    } else if name.contains(".k_proj.") {
        Some(config.n_kv_heads)
    } else {
        None
    }
}

/// Reorders the rows of each head from interleaved rotation (pairs 2i, 2i + 1) to half-split rotation (pairs i, i + D/2).
fn half_split(bytes: &[u8], shape: &[usize], n_heads: usize) -> Result<Vec<u8>, ModelError> {
    let rows = *shape.first().unwrap_or(&0);
    if n_heads == 0 || rows == 0 || !rows.is_multiple_of(2 * n_heads) {
        let name = "q or k projection".into();
        return Err(ModelError::Shape { name, found: shape.to_vec(), expected: vec![n_heads] });
    }
    let (head_dim, row_bytes) = (rows / n_heads, bytes.len() / rows);
    let mut split = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(head_dim * row_bytes) {
        for parity in 0..2 {
            head.chunks_exact(row_bytes).skip(parity).step_by(2).for_each(|row| split.extend_from_slice(row));
        }
    }
    Ok(split)
}

/// candle's errors carry a stack trace below their first line.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_become_half_split() {
        // Two heads of D = 4: within each, rows 0 1 2 3 are pairs (0,1), (2,3) and become 0 2 1 3.
        let rows: Vec<u8> = (0..8).flat_map(|row| [row, row]).collect();
        let split = half_split(&rows, &[8, 1], 2).unwrap();
        assert_eq!(split, [0, 0, 2, 2, 1, 1, 3, 3, 4, 4, 6, 6, 5, 5, 7, 7]);
        assert!(half_split(&rows, &[8, 1], 3).is_err());
    }
}
