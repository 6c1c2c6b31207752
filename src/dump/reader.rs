//! Reads a dump. Sample files are mapped; one head of one layer at a time becomes f32.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use half::bf16;
use half::f16;
use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::SafeTensorError;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::dump::DumpError;
use crate::dump::Manifest;
use crate::dump::SampleEntry;
use crate::dump::State;
use crate::dump::TokenClass;
use crate::files::FileError;
use crate::files::read_json;
use crate::math::widen_f16;

/// An opened dump.
#[derive(Debug)]
pub struct Dump {
    dir: PathBuf,
    manifest: Manifest,
}

impl Dump {
    /// Reads the manifest and checks that it does not contradict itself; sample files are opened later.
    pub fn open(dir: &Path) -> Result<Self, DumpError> {
        let path = dir.join("manifest.json");
        if dir.is_dir() && !path.exists() {
            return Err(DumpError::NotADump { path: dir.into() });
        }
        let manifest: Manifest = read_json(&path)?;
        let fault = |what: String| Err(DumpError::inconsistent(&path, what));
        let model = &manifest.model;
        if model.n_kv_heads == 0 || model.head_dim == 0 || !model.n_q_heads.is_multiple_of(model.n_kv_heads) {
            return fault(format!(
                "{} query heads, {} KV heads of dimension {} cannot be",
                model.n_q_heads, model.n_kv_heads, model.head_dim
            ));
        }
        if let Some(layer) = manifest.layers.iter().find(|layer| **layer >= model.n_layers) {
            return fault(format!("layer {layer} of a model of {} layers", model.n_layers));
        }
        if let Some(heads) = &manifest.kv_heads {
            let is_fit = !heads.is_empty() && heads.is_sorted_by(|a, b| a < b);
            if !is_fit || heads.iter().any(|head| *head >= model.n_kv_heads) {
                return fault(format!("kv_heads {heads:?} do not rise within the model's {}", model.n_kv_heads));
            }
        }
        let mut names = HashSet::new();
        for sample in &manifest.samples {
            // A name from a stranger must not lead out of the folder.
            let plain = Path::new(&sample.file).components().count() == 1 && !sample.file.starts_with('.');
            if !plain || !names.insert(&sample.file) {
                return fault(format!("sample file name {:?} is not a plain, unique name", sample.file));
            }
        }
        Ok(Self { dir: dir.into(), manifest })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The dump's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Maps the file of sample `index` and checks it against the manifest.
    pub fn sample(&self, index: usize) -> Result<Sample<'_>, DumpError> {
        let entry = self.manifest.samples.get(index).ok_or_else(|| {
            DumpError::inconsistent(&self.dir, format!("sample {index} of {}", self.manifest.samples.len()))
        })?;
        let path = self.dir.join(&entry.file);
        let file = File::open(&path).map_err(|e| FileError::io("open", &path, e))?;
        #[expect(
            unsafe_code,
            reason = "mapping a file; finished dumps are replaced by renaming, never written in place"
        )]
        let map = unsafe { Mmap::map(&file) }.map_err(|e| FileError::io("map", &path, e))?;
        if map.len() as u64 != entry.bytes {
            let what = format!("has {} bytes where the manifest says {}", map.len(), entry.bytes);
            return Err(DumpError::inconsistent(&path, what));
        }
        let tensors = places(&map).map_err(|source| DumpError::Damaged { path: path.clone(), source })?;
        let sample = Sample { manifest: &self.manifest, entry, path, map, tensors };
        sample.check()?;
        Ok(sample)
    }
}

/// Where a tensor lies in its file.
#[derive(Debug)]
struct Place {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// Every tensor of a mapped file. The header is parsed once: it has some hundred lines, and readers come head by head.
fn places(map: &[u8]) -> Result<BTreeMap<String, Place>, SafeTensorError> {
    let start = map.as_ptr() as usize;
    let place = |view: TensorView<'_>| {
        // The views lie within the map, as the format's reader has checked.
        let first = view.data().as_ptr() as usize - start;
        Place { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: first..first + view.data().len() }
    };
    Ok(SafeTensors::deserialize(map)?.tensors().into_iter().map(|(name, view)| (name, place(view))).collect())
}

/// One mapped sample.
#[derive(Debug)]
pub struct Sample<'a> {
    manifest: &'a Manifest,
    entry: &'a SampleEntry,
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, Place>,
}

impl Sample<'_> {
    /// The manifest's line about it.
    pub fn entry(&self) -> &SampleEntry {
        self.entry
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One head's vectors `[T, D]` of a key or value state, or its sampled queries `[n_q, D]` (`head` is a query head).
    pub fn vectors(&self, layer: usize, state: State, head: usize) -> Result<Vec<f32>, DumpError> {
        self.head(&Manifest::tensor_name(layer, state), state, head)
    }

    /// The same into `out`, whose room is used again.
    pub fn vectors_into(&self, layer: usize, state: State, head: usize, out: &mut Vec<f32>) -> Result<(), DumpError> {
        self.head_into(&Manifest::tensor_name(layer, state), state, head, out)
    }

    /// Attention mass `[T]` over all queries of the prompt.
    pub fn mass(&self, layer: usize, kv_head: usize) -> Result<Vec<f32>, DumpError> {
        self.head(&Manifest::tensor_name(layer, State::Mass), State::Mass, kv_head)
    }

    /// Attention mass `[T]` over the last window of queries.
    pub fn mass_window(&self, layer: usize, kv_head: usize) -> Result<Vec<f32>, DumpError> {
        self.head(&format!("layers.{layer}.attn_mass_window"), State::Mass, kv_head)
    }

    /// Positions of the sampled queries of a layer, rising.
    pub fn query_positions(&self, layer: usize) -> Result<Vec<usize>, DumpError> {
        self.integers(&format!("layers.{layer}.q_positions"))?
            .into_iter()
            .map(|p| {
                usize::try_from(p).ok().filter(|p| *p < self.entry.n_tokens).ok_or_else(|| {
                    DumpError::inconsistent(&self.path, format!("query position {p} of {} tokens", self.entry.n_tokens))
                })
            })
            .collect()
    }

    /// The prompt's tokens.
    pub fn token_ids(&self) -> Result<Vec<u32>, DumpError> {
        self.integers("token_ids")?
            .into_iter()
            .map(|id| u32::try_from(id).map_err(|_| DumpError::inconsistent(&self.path, format!("token id {id}"))))
            .collect()
    }

    /// Class of each of the prompt's tokens; `None` when the manifest tells none. An id beyond its list is of no class.
    pub fn token_classes(&self) -> Result<Option<Vec<TokenClass>>, DumpError> {
        let Some(letters) = self.manifest.token_classes.as_deref().map(str::as_bytes) else { return Ok(None) };
        let class = |id: u32| letters.get(id as usize).copied().and_then(TokenClass::from_letter);
        Ok(Some(self.token_ids()?.into_iter().map(|id| class(id).unwrap_or(TokenClass::Other)).collect()))
    }

    /// Numbers in one head's vector.
    pub(super) fn head_dim(&self) -> usize {
        self.manifest.model.head_dim
    }

    /// Element type of a tensor, as the format names it.
    pub(super) fn element_type(&self, name: &str) -> Result<String, DumpError> {
        Ok(format!("{:?}", self.place(name)?.dtype))
    }

    /// Checks that every tensor the manifest promises is there with its shape.
    fn check(&self) -> Result<(), DumpError> {
        let model = &self.manifest.model;
        let n_tokens = self.entry.n_tokens;
        let expect = |name: &str, shape: &[Option<usize>]| {
            let found = &self.place(name)?.shape;
            let fits =
                found.len() == shape.len() && found.iter().zip(shape).all(|(got, want)| want.is_none_or(|w| w == *got));
            if fits {
                return Ok(());
            }
            let what = format!("{name} has shape {found:?}, which does not fit the manifest");
            Err(DumpError::inconsistent(&self.path, what))
        };
        let n_heads = |state: State| Some(self.manifest.n_held_heads(state));
        expect("token_ids", &[Some(n_tokens)])?;
        for layer in &self.manifest.layers {
            for state in &self.manifest.states {
                let name = Manifest::tensor_name(*layer, *state);
                match state {
                    State::Q => {
                        expect(&name, &[n_heads(*state), None, Some(model.head_dim)])?;
                        expect(&format!("layers.{layer}.q_positions"), &[None])?;
                    }
                    State::Mass => {
                        expect(&name, &[n_heads(*state), Some(n_tokens)])?;
                        expect(&format!("{name}_window"), &[n_heads(*state), Some(n_tokens)])?;
                    }
                    _ => expect(&name, &[n_heads(*state), Some(n_tokens), Some(model.head_dim)])?,
                }
            }
        }
        Ok(())
    }

    fn place(&self, name: &str) -> Result<&Place, DumpError> {
        self.tensors.get(name).ok_or_else(|| DumpError::MissingTensor { path: self.path.clone(), name: name.into() })
    }

    fn head(&self, name: &str, state: State, head: usize) -> Result<Vec<f32>, DumpError> {
        let mut out = Vec::new();
        self.head_into(name, state, head, &mut out)?;
        Ok(out)
    }

    fn head_into(&self, name: &str, state: State, head: usize, out: &mut Vec<f32>) -> Result<(), DumpError> {
        let place = self.place(name)?;
        let at = self.manifest.place_of_head(state, head).ok_or_else(|| DumpError::MissingHead {
            path: self.path.clone(),
            name: name.into(),
            head,
        })?;
        let bytes_per_head = place.bytes.len() / self.manifest.n_held_heads(state);
        let bytes = &self.map[place.bytes.start + at * bytes_per_head..][..bytes_per_head];
        let halves = bytes.as_chunks::<2>().0;
        match place.dtype {
            Dtype::F32 => {
                out.clear();
                out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
            }
            Dtype::F16 => {
                out.resize(halves.len(), 0.0);
                match bytemuck::try_cast_slice(bytes) {
                    Ok(aligned) => widen_f16(aligned, out),
                    Err(_) => out.iter_mut().zip(halves).for_each(|(x, b)| *x = f16::from_le_bytes(*b).to_f32()),
                }
            }
            Dtype::BF16 => {
                out.clear();
                out.extend(halves.iter().map(|b| bf16::from_le_bytes(*b).to_f32()));
            }
            other => {
                return Err(DumpError::inconsistent(&self.path, format!("{name} has element type {other:?}")));
            }
        }
        Ok(())
    }

    fn integers(&self, name: &str) -> Result<Vec<i64>, DumpError> {
        let place = self.place(name)?;
        let bytes = &self.map[place.bytes.clone()];
        match place.dtype {
            Dtype::I64 => Ok(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            other => Err(DumpError::inconsistent(&self.path, format!("{name} has element type {other:?}, not I64"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::ElementType;
    use crate::dump::SampleWriter;
    use crate::dump::TensorSpec;
    use crate::files::Document;
    use crate::files::ModelIdentity;
    use crate::files::Provenance;
    use crate::files::write_json;

    fn write_dump(dir: &Path, dtype: ElementType) -> Manifest {
        let spec =
            |name: &str, element, shape: &[usize]| TensorSpec { name: name.into(), element, shape: shape.to_vec() };
        let specs = vec![
            spec("token_ids", ElementType::I64, &[3]),
            spec("layers.1.k", dtype, &[2, 3, 2]),
            spec("layers.1.attn_mass", ElementType::F32, &[2, 3]),
            spec("layers.1.attn_mass_window", ElementType::F32, &[2, 3]),
        ];
        let mut writer = SampleWriter::create(&dir.join("a.safetensors"), specs, &[("format", "pt".into())]).unwrap();
        writer.write_i64("token_ids", [7i64, 8, 9].into_iter()).unwrap();
        let keys: Vec<f32> = (0..12).map(|i| i as f32 * 0.5).collect();
        writer.write_f32("layers.1.k", &keys).unwrap();
        let mass: Vec<f32> = (0..6).map(|i| i as f32 / 3.0).collect();
        writer.write_f32("layers.1.attn_mass", &mass).unwrap();
        writer.write_f32("layers.1.attn_mass_window", &mass).unwrap();
        let (sha256, bytes) = writer.finish().unwrap();
        let manifest = Manifest {
            schema: Manifest::schema_id(),
            provenance: Provenance::new("capture", 0, serde_json::json!({}), vec![]),
            model: ModelIdentity {
                name: "toy".into(),
                architecture: "LlamaForCausalLM".into(),
                fingerprint: "f".into(),
                tokenizer_sha256: None,
                n_layers: 2,
                n_q_heads: 4,
                n_kv_heads: 2,
                head_dim: 2,
                rope_theta: 1e4,
                max_positions: 16,
            },
            states: vec![State::K, State::Mass],
            layers: vec![1],
            kv_heads: None,
            dtype,
            window_tokens: 32,
            token_classes: None,
            shard: None,
            planned_samples: 1,
            samples: vec![SampleEntry {
                index: 0,
                dataset: "d".into(),
                id: "0".into(),
                n_tokens: 3,
                n_prompt_tokens: 3,
                n_tokens_full: 5,
                file: "a.safetensors".into(),
                bytes,
                sha256,
            }],
        };
        write_json(&dir.join("manifest.json"), &manifest).unwrap();
        manifest
    }

    #[test]
    fn what_is_written_is_read_back_head_by_head() {
        for dtype in [ElementType::F16, ElementType::Bf16, ElementType::F32] {
            let dir = tempfile::tempdir().unwrap();
            let manifest = write_dump(dir.path(), dtype);
            let dump = Dump::open(dir.path()).unwrap();
            assert_eq!(dump.manifest(), &manifest);
            let sample = dump.sample(0).unwrap();
            assert_eq!(sample.vectors(1, State::K, 1).unwrap(), [3.0, 3.5, 4.0, 4.5, 5.0, 5.5]);
            assert_eq!(sample.mass(1, 0).unwrap(), [0.0, 1.0 / 3.0, 2.0 / 3.0]);
            assert_eq!(sample.token_ids().unwrap(), [7, 8, 9]);
            let missing = sample.vectors(0, State::K, 0).unwrap_err();
            assert!(missing.to_string().contains("layers.0.k"), "{missing}");
            assert!(matches!(sample.vectors(1, State::K, 2), Err(DumpError::MissingHead { head: 2, .. })));
        }
    }

    #[test]
    fn a_changed_or_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = write_dump(dir.path(), ElementType::F16);
        let path = dir.path().join("a.safetensors");
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        let error = Dump::open(dir.path()).unwrap().sample(0).unwrap_err().to_string();
        assert!(error.contains("a.safetensors") && error.contains("manifest says"), "{error}");
        // The right size, but a header that claims more than there is.
        let mut bad = good.clone();
        bad[0] = 0xff;
        bad[1] = 0xff;
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(Dump::open(dir.path()).unwrap().sample(0), Err(DumpError::Damaged { .. })));
        std::fs::write(&path, good).unwrap();
        manifest.model.head_dim = 4;
        write_json(&dir.path().join("manifest.json"), &manifest).unwrap();
        let error = Dump::open(dir.path()).unwrap().sample(0).unwrap_err().to_string();
        assert!(error.contains("layers.1.k has shape [2, 3, 2]"), "{error}");
        manifest.samples[0].file = "../a.safetensors".into();
        write_json(&dir.path().join("manifest.json"), &manifest).unwrap();
        assert!(matches!(Dump::open(dir.path()), Err(DumpError::Inconsistent { .. })));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(Dump::open(empty.path()), Err(DumpError::NotADump { .. })));
        assert!(matches!(Dump::open(Path::new("/no/such/dump")), Err(DumpError::File(_))));
    }

    #[test]
    fn the_writer_holds_its_caller_to_the_declaration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let specs = || vec![TensorSpec { name: "x".into(), element: ElementType::F32, shape: vec![2] }];
        let mut writer = SampleWriter::create(&path, specs(), &[]).unwrap();
        assert!(matches!(writer.write_f32("y", &[1.0, 2.0]), Err(DumpError::OutOfTurn { .. })));
        let mut writer = SampleWriter::create(&path, specs(), &[]).unwrap();
        assert!(matches!(writer.write_f32("x", &[1.0]), Err(DumpError::Inconsistent { .. })));
        assert!(matches!(
            SampleWriter::create(&path, specs(), &[]).unwrap().finish(),
            Err(DumpError::OutOfTurn { .. })
        ));
        assert!(!path.exists());
    }
}
