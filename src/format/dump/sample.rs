//! One sample's file. A head of a layer at a time becomes f32, checked as it is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError};

use crate::files::{FileError, ModelIdentity, Sha256, open_own, read_at};
use crate::format::dump::layout::float_of;
use crate::format::dump::{DumpError, Manifest, SampleEntry, State, Tensor, TensorSpec, TokenClass};
use crate::math::{Float, HeldRows, Rows, first_not_below, widen_f16};

/// Values that are read and widened at a time: they stay in the nearest caches.
const VALUES_AT_ONCE: usize = 1 << 14;
/// Largest header that is read; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Where a tensor lies in its file.
#[derive(Debug)]
struct Place {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<u64>,
}

/// One open sample. Numbers are read, not mapped: a file that is cut meanwhile is an error and not the end of the process.
#[derive(Debug)]
pub struct Sample<'a> {
    manifest: &'a Manifest,
    entry: &'a SampleEntry,
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, Place>,
    /// As the header has them.
    token_texts: Option<String>,
}

impl<'a> Sample<'a> {
    /// Name in a file's string metadata of what every token adds to the text, a JSON list of strings.
    pub const TOKEN_TEXTS: &'static str = "token_texts";

    /// Opens a file and checks its size, its tensors' names, types and shapes, and the positions of the queries.
    pub(super) fn open(manifest: &'a Manifest, entry: &'a SampleEntry, path: PathBuf) -> Result<Self, DumpError> {
        let file = open_own(&path)?;
        let bytes = file.metadata().map_err(|e| FileError::io("read", &path, e))?.len();
        if bytes != entry.bytes {
            let what = format!("has {bytes} bytes where the manifest says {}", entry.bytes);
            return Err(DumpError::inconsistent(&path, what));
        }
        let (tensors, token_texts) = header(&file, &path, bytes)?;
        let sample = Self { manifest, entry, path, file, tensors, token_texts };
        sample.check()?;
        Ok(sample)
    }

    pub(super) fn manifest(&self) -> &'a Manifest {
        self.manifest
    }

    /// Whose states these are.
    pub fn model(&self) -> &'a ModelIdentity {
        &self.manifest.model
    }

    /// The manifest's line about it.
    pub fn entry(&self) -> &'a SampleEntry {
        self.entry
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does `work` while another thread computes the file's digest: what came of a changed file is an error, not a result.
    ///
    /// - Errors: a digest that is not the manifest's, before any error of `work`
    pub fn verified<T: Send, E: From<DumpError> + Send>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let (made, unchanged) = rayon::join(work, || self.check_digest());
        unchanged?;
        made
    }

    /// Whether the file is the one that the manifest describes.
    pub fn check_digest(&self) -> Result<(), DumpError> {
        let mut hash = Sha256::default();
        let mut piece = vec![0u8; 1 << 20];
        let mut at = 0;
        while at < self.entry.bytes {
            let n = (self.entry.bytes - at).min(piece.len() as u64) as usize;
            self.read(&mut piece[..n], at)?;
            hash.update(&piece[..n]);
            at += n as u64;
        }
        let (got, expected) = (hash.hex(), self.entry.sha256.clone());
        if got == expected { Ok(()) } else { Err(DumpError::Changed { path: self.path.clone(), expected, got }) }
    }

    /// One head's vectors `[T, D]` of a key or value state, or its sampled queries `[n_q, D]` (`head` is a query head).
    ///
    /// - Errors: a head or state that was not captured; a number that is not finite
    pub fn vectors(&self, layer: usize, state: State, head: usize) -> Result<HeldRows<'static>, DumpError> {
        self.vectors_of(layer, state, head..head + 1)
    }

    /// The sampled queries of a KV head's query heads, one head behind the other, `[group · n_q, D]`.
    pub fn queries(&self, layer: usize, kv_head: usize) -> Result<HeldRows<'static>, DumpError> {
        let group = self.manifest.model.group();
        self.vectors_of(layer, State::Q, kv_head * group..(kv_head + 1) * group)
    }

    fn vectors_of(&self, layer: usize, state: State, heads: Range<usize>) -> Result<HeldRows<'static>, DumpError> {
        let mut out = Vec::new();
        self.vectors_into(layer, state, heads, &mut out)?;
        Ok(HeldRows::new(out, self.manifest.model.head_dim))
    }

    /// Vectors of some heads, one head behind the other, in `out`, whose room is used again.
    pub fn vectors_into<'o>(
        &self,
        layer: usize,
        state: State,
        heads: Range<usize>,
        out: &'o mut Vec<f32>,
    ) -> Result<Rows<'o>, DumpError> {
        let (name, width) = (Tensor::State(layer, state).name(), self.manifest.model.head_dim);
        out.clear();
        for head in heads {
            let start = out.len();
            self.add_head(&name, state, head, out)?;
            if let Some(at) = first_not_below(&out[start..], f32::INFINITY) {
                let what = format!("{name} has {} in row {} of head {head}", out[start + at], at / width);
                return Err(DumpError::inconsistent(&self.path, what));
            }
        }
        Ok(Rows::new(out, width))
    }

    /// Attention mass `[T]` over all queries of the sample.
    ///
    /// A query gives 1 in all to the tokens up to its own, so the group of query heads of a KV head gives group · T in
    /// all, and token t gets group · (T - t) at most.
    ///
    /// - Errors: masses that no attention gives
    pub fn mass(&self, layer: usize, kv_head: usize) -> Result<Vec<f32>, DumpError> {
        self.mass_of(Tensor::State(layer, State::Mass), kv_head, self.entry.n_tokens)
    }

    /// Attention mass `[T]` over the last window of queries, which gives group · min(window, T) in all.
    ///
    /// - Errors: masses that no attention gives
    pub fn mass_window(&self, layer: usize, kv_head: usize) -> Result<Vec<f32>, DumpError> {
        self.mass_of(Tensor::MassWindow(layer), kv_head, self.queries_in_window())
    }

    /// Whether both masses of a head are those of all their queries, no less.
    pub(super) fn check_whole_mass(&self, layer: usize, head: usize) -> Result<(), DumpError> {
        let all = (Tensor::State(layer, State::Mass), self.entry.n_tokens);
        for (tensor, n_queries) in [all, (Tensor::MassWindow(layer), self.queries_in_window())] {
            let sum: f64 = self.mass_of(tensor, head, n_queries)?.iter().map(|m| f64::from(*m)).sum();
            let due = (self.manifest.model.group() * n_queries) as f64;
            if sum < due * (1.0 - self.mass_tolerance()) {
                let name = tensor.name();
                let what = format!("{name} of head {head} sums to {sum:.4}, not to {due}: group x queries");
                return Err(DumpError::inconsistent(&self.path, what));
            }
        }
        Ok(())
    }

    fn queries_in_window(&self) -> usize {
        self.manifest.window_tokens.min(self.entry.n_tokens)
    }

    /// Masses are f32 whatever the states are, but another program may have summed probabilities of the states' type.
    fn mass_tolerance(&self) -> f64 {
        if self.manifest.dtype == Float::Bf16 { 1e-2 } else { 2e-3 }
    }

    fn mass_of(&self, tensor: Tensor, head: usize, n_queries: usize) -> Result<Vec<f32>, DumpError> {
        let (name, mut mass) = (tensor.name(), Vec::new());
        self.add_head(&name, State::Mass, head, &mut mass)?;
        let fault = |what: String| Err(DumpError::inconsistent(&self.path, format!("{name} {what}")));
        if let Some(t) = mass.iter().position(|m| !(m.is_finite() && *m >= 0.0)) {
            return fault(format!("has {} at token {t} of head {head}", mass[t]));
        }
        let (group, slack) = (self.manifest.model.group() as f64, 1.0 + self.mass_tolerance());
        let (sum, most) = (mass.iter().map(|m| f64::from(*m)).sum::<f64>(), group * n_queries as f64);
        if sum > most * slack {
            return fault(format!("of head {head} sums to {sum:.4}, more than {most}: group x queries"));
        }
        let most = |t: usize| group * n_queries.min(mass.len() - t) as f64 * slack;
        if let Some(t) = (0..mass.len()).find(|t| f64::from(mass[*t]) > most(*t)) {
            return fault(format!("has {} at token {t} of head {head}: too few queries see it", mass[t]));
        }
        Ok(mass)
    }

    /// Positions of the sampled queries of a layer, rising.
    pub fn query_positions(&self, layer: usize) -> Result<Vec<usize>, DumpError> {
        let name = Tensor::QueryPositions(layer).name();
        let n_tokens = self.entry.n_tokens;
        let fault = |what: String| DumpError::inconsistent(&self.path, what);
        let position = |p: i64| {
            let inside = usize::try_from(p).ok().filter(|p| *p < n_tokens);
            inside.ok_or_else(|| fault(format!("{name} has query position {p} of {n_tokens} tokens")))
        };
        let positions = self.integers(&name)?.into_iter().map(position).collect::<Result<Vec<_>, _>>()?;
        if positions.is_sorted_by(|a, b| a < b) { Ok(positions) } else { Err(fault(format!("{name} do not rise"))) }
    }

    /// Whether it keeps queries of a layer from before a position, and the model's frequencies by which they turn.
    pub fn has_queries_before(&self, layer: usize, end: usize) -> Result<bool, DumpError> {
        let early = self.query_positions(layer)?.first().is_some_and(|position| *position < end);
        Ok(early && !self.manifest.model.rope_frequencies.is_empty())
    }

    /// The sample's tokens.
    pub fn token_ids(&self) -> Result<Vec<u32>, DumpError> {
        self.integers(&Tensor::TokenIds.name())?
            .into_iter()
            .map(|id| u32::try_from(id).map_err(|_| DumpError::inconsistent(&self.path, format!("token id {id}"))))
            .collect()
    }

    /// What every token adds to the text of those before it; `None` when the file does not tell.
    ///
    /// - Errors: a list that is none, or of another length than the sample's
    pub fn token_texts(&self) -> Result<Option<Vec<String>>, DumpError> {
        let fault = |what: String| DumpError::inconsistent(&self.path, format!("{} {what}", Self::TOKEN_TEXTS));
        let Some(json) = &self.token_texts else { return Ok(None) };
        let texts: Vec<String> = serde_json::from_str(json).map_err(|e| fault(format!("is no list of texts: {e}")))?;
        if texts.len() != self.entry.n_tokens {
            return Err(fault(format!("has {} texts for {} tokens", texts.len(), self.entry.n_tokens)));
        }
        Ok(Some(texts))
    }

    /// Class of each of the sample's tokens; `None` when the manifest tells none. An id beyond its list is of no class.
    pub fn token_classes(&self) -> Result<Option<Vec<TokenClass>>, DumpError> {
        let Some(letters) = self.manifest.token_classes.as_deref().map(str::as_bytes) else { return Ok(None) };
        let class = |id: u32| letters.get(id as usize).copied().and_then(TokenClass::from_letter);
        Ok(Some(self.token_ids()?.into_iter().map(|id| class(id).unwrap_or(TokenClass::Other)).collect()))
    }

    /// Checks that every tensor the manifest promises is there with its type and shape, and queries with their positions.
    fn check(&self) -> Result<(), DumpError> {
        let fault = |what: String| Err(DumpError::inconsistent(&self.path, what));
        for tensor in self.manifest.tensors() {
            let n_queries = match tensor {
                Tensor::QueryPositions(layer) | Tensor::State(layer, State::Q) => self.n_queries(layer)?,
                _ => 0,
            };
            let TensorSpec { name, element, shape } = self.manifest.spec(tensor, self.entry.n_tokens, n_queries);
            let Place { dtype, shape: found, .. } = self.place(&name)?;
            if *dtype != element {
                return fault(format!("{name} is {dtype} where {element} is due"));
            }
            if *found != shape {
                return fault(format!("{name} has shape {found:?} where the manifest needs {shape:?}"));
            }
            if let Tensor::QueryPositions(layer) = tensor {
                self.query_positions(layer)?;
            }
        }
        Ok(())
    }

    /// Sampled queries of a layer, whose number only the file tells.
    fn n_queries(&self, layer: usize) -> Result<usize, DumpError> {
        let name = Tensor::QueryPositions(layer).name();
        let found = &self.place(&name)?.shape;
        let [n_queries] = found[..] else {
            let what = format!("{name} has shape {found:?}, not that of a list");
            return Err(DumpError::inconsistent(&self.path, what));
        };
        Ok(n_queries)
    }

    fn place(&self, name: &str) -> Result<&Place, DumpError> {
        self.tensors.get(name).ok_or_else(|| DumpError::MissingTensor { path: self.path.clone(), name: name.into() })
    }

    fn read(&self, into: &mut [u8], at: u64) -> Result<(), DumpError> {
        read_at(&self.file, into, at).map_err(|e| FileError::io("read", &self.path, e).into())
    }

    /// Appends a head's numbers.
    fn add_head(&self, name: &str, state: State, head: usize, out: &mut Vec<f32>) -> Result<(), DumpError> {
        let place = self.place(name)?;
        let held = self.manifest.place_of_head(state, head).ok_or_else(|| DumpError::MissingHead {
            path: self.path.clone(),
            name: name.into(),
            head,
        })?;
        let float = float_of(place.dtype)
            .ok_or_else(|| DumpError::inconsistent(&self.path, format!("{name} has element type {}", place.dtype)))?;
        let size = float.bytes();
        let n_values = place.shape.iter().skip(1).product::<usize>();
        let start = place.bytes.start + (held * n_values * size) as u64;
        let before = out.len();
        out.resize(before + n_values, 0.0);
        // Halves, so that they are aligned for the kernel that widens them.
        let mut piece = vec![f16::ZERO; VALUES_AT_ONCE.min(n_values) * size / 2];
        for (i, out) in out[before..].chunks_mut(VALUES_AT_ONCE).enumerate() {
            let bytes = &mut bytemuck::cast_slice_mut::<_, u8>(&mut piece)[..out.len() * size];
            self.read(bytes, start + (i * VALUES_AT_ONCE * size) as u64)?;
            match float {
                Float::F32 => {
                    let values = bytes.as_chunks::<4>().0;
                    out.iter_mut().zip(values).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
                }
                Float::F16 if cfg!(target_endian = "little") => widen_f16(&piece[..out.len()], out),
                Float::F16 => {
                    let values = bytes.as_chunks::<2>().0;
                    out.iter_mut().zip(values).for_each(|(x, b)| *x = f16::from_le_bytes(*b).to_f32());
                }
                Float::Bf16 => {
                    let values = bytes.as_chunks::<2>().0;
                    out.iter_mut().zip(values).for_each(|(x, b)| *x = bf16::from_le_bytes(*b).to_f32());
                }
            }
        }
        Ok(())
    }

    fn integers(&self, name: &str) -> Result<Vec<i64>, DumpError> {
        let place = self.place(name)?;
        if place.dtype != Dtype::I64 {
            let what = format!("{name} has element type {}, not I64", place.dtype);
            return Err(DumpError::inconsistent(&self.path, what));
        }
        let mut bytes = vec![0u8; (place.bytes.end - place.bytes.start) as usize];
        self.read(&mut bytes, place.bytes.start)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }
}

/// Every tensor of a file, and the texts of its tokens, from its header, which is all that is read.
fn header(file: &File, path: &Path, file_bytes: u64) -> Result<(BTreeMap<String, Place>, Option<String>), DumpError> {
    let damaged = |source| DumpError::Damaged { path: path.into(), source };
    let read = |into: &mut [u8], at| read_at(file, into, at).map_err(|e| FileError::io("read", path, e));
    let mut length = [0u8; 8];
    if file_bytes < 8 {
        return Err(damaged(SafeTensorError::HeaderTooSmall));
    }
    read(&mut length, 0)?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(damaged(SafeTensorError::HeaderTooLarge));
    }
    let data_start = 8 + header_bytes;
    if data_start > file_bytes {
        return Err(damaged(SafeTensorError::InvalidHeaderLength));
    }
    let mut header = vec![0u8; header_bytes as usize];
    read(&mut header, 8)?;
    // Parsing checks that offsets follow each other and fit types and shapes.
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|e| damaged(SafeTensorError::InvalidHeaderDeserialization(e)))?;
    if data_start + metadata.data_len() as u64 != file_bytes {
        return Err(damaged(SafeTensorError::MetadataIncompleteBuffer));
    }
    let place = |info: &safetensors::tensor::TensorInfo| {
        let (start, end) = info.data_offsets;
        let bytes = data_start + start as u64..data_start + end as u64;
        Place { dtype: info.dtype, shape: info.shape.clone(), bytes }
    };
    let texts = metadata.metadata().as_ref().and_then(|texts| texts.get(Sample::TOKEN_TEXTS).cloned());
    Ok((metadata.tensors().into_iter().map(|(name, info)| (name, place(info))).collect(), texts))
}
