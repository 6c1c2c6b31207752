//! Weights by their Hugging Face names and in their order, whatever the file's format, in the type of the file.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use candle_core::quantized::GgmlDType;
use candle_core::safetensors::MmapedSafetensors;
use safetensors::Dtype;
use serde_json::Value;

use crate::files::FileError;
use crate::files::Sha256;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::gguf::Gguf;
use crate::model::matrix::Kernel;
use crate::model::matrix::Matrix;

/// An opened checkpoint.
pub(crate) enum Weights {
    /// A GGUF file.
    Gguf(Box<Gguf>),
    /// One or many safetensors files.
    Safetensors(MmapedSafetensors),
}

/// Bytes of each tensor that go into the fingerprint: enough to tell a fine-tune, without reading the whole file.
const FINGERPRINT_BYTES: usize = 4096;

impl Weights {
    /// Maps the safetensors files of a folder: those of the index, or the single one.
    pub(crate) fn open_folder(dir: &Path) -> Result<Self, ModelError> {
        let files = shard_paths(dir)?;
        #[expect(unsafe_code, reason = "mapping files; the reader checks every offset against their length")]
        let tensors = unsafe { MmapedSafetensors::multi(&files) }
            .map_err(|source| ModelError::Unreadable { path: dir.into(), what: first_line(&source) })?;
        Ok(Self::Safetensors(tensors))
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

    /// The vector of that Hugging Face name in f32.
    pub(crate) fn vector(&self, name: &str, n: usize, config: &Config) -> Result<Vec<f32>, ModelError> {
        let (dtype, bytes) = self.bytes(name, &[n], config)?;
        let row = Matrix::new(dtype, bytes, [1, n], None)
            .ok_or_else(|| ModelError::UnsupportedType { name: name.into(), dtype: format!("{dtype:?}") })?;
        let mut values = vec![0f32; n];
        row.widen_rows(0, &mut values);
        Ok(values)
    }

    /// Type and bytes of a tensor, checked against the shape that the configuration implies, rows in half-split order.
    fn bytes(&self, name: &str, shape: &[usize], config: &Config) -> Result<(GgmlDType, Vec<u8>), ModelError> {
        // The shape is checked before anything is copied: a stranger's header must not decide what is allocated.
        match self {
            Self::Gguf(gguf) => {
                let gguf_name = gguf_name(name);
                let info = gguf.tensor_info(&gguf_name)?;
                check_shape(name, &info.shape, shape)?;
                let bytes = gguf.tensor_bytes(&gguf_name)?;
                let bytes = match heads_of(name, config) {
                    Some(n_heads) if config.architecture.gguf_interleaved => half_split(bytes, shape, n_heads)?,
                    _ => bytes.to_vec(),
                };
                Ok((info.dtype, bytes))
            }
            Self::Safetensors(tensors) => {
                let view = tensors.get(name).map_err(|_| ModelError::MissingTensor { name: name.into() })?;
                check_shape(name, view.shape(), shape)?;
                let dtype = match view.dtype() {
                    Dtype::F32 => GgmlDType::F32,
                    Dtype::F16 => GgmlDType::F16,
                    Dtype::BF16 => GgmlDType::BF16,
                    other => {
                        return Err(ModelError::UnsupportedType { name: name.into(), dtype: format!("{other:?}") });
                    }
                };
                Ok((dtype, view.data().to_vec()))
            }
        }
    }

    /// SHA-256 over the configuration and, of every tensor in order of name, name, type, shape and first bytes.
    pub(crate) fn fingerprint(&self, config: &Config) -> Result<String, ModelError> {
        let mut hash = Sha256::default();
        hash.update(format!("{config:?}").as_bytes());
        let mut add = |name: &str, kind: String, shape: &[usize], data: &[u8]| {
            hash.update(format!("\n{name} {kind} {shape:?} ").as_bytes());
            hash.update(&data[..data.len().min(FINGERPRINT_BYTES)]);
        };
        match self {
            Self::Gguf(gguf) => {
                for (name, info) in gguf.tensors() {
                    add(name, format!("{:?}", info.dtype), &info.shape, gguf.tensor_bytes(name)?);
                }
            }
            Self::Safetensors(tensors) => {
                let mut views = tensors.tensors();
                views.sort_by(|a, b| a.0.cmp(&b.0));
                for (name, view) in &views {
                    add(name, format!("{:?}", view.dtype()), view.shape(), view.data());
                }
            }
        }
        Ok(hash.hex())
    }
}

fn check_shape(name: &str, found: &[usize], expected: &[usize]) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    Err(ModelError::Shape { name: name.into(), found: found.to_vec(), expected: expected.to_vec() })
}

/// The safetensors files of a model folder, in order of name.
fn shard_paths(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let unreadable = |what: String| ModelError::Unreadable { path: dir.into(), what };
    let index = dir.join("model.safetensors.index.json");
    let single = dir.join("model.safetensors");
    if !index.exists() {
        if single.exists() {
            return Ok(vec![single]);
        }
        return Err(unreadable("has neither model.safetensors nor model.safetensors.index.json".into()));
    }
    let text = std::fs::read(&index).map_err(|e| FileError::io("read", &index, e))?;
    let json: Value = serde_json::from_slice(&text).map_err(|e| unreadable(format!("has a damaged index: {e}")))?;
    let map = json["weight_map"].as_object().ok_or_else(|| unreadable("has an index without weight_map".into()))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let mut paths = Vec::new();
    for name in names {
        if Path::new(name).components().count() != 1 || name.starts_with('.') {
            return Err(unreadable(format!("has an index that leads out of it: {name:?}")));
        }
        let path = dir.join(name);
        if !path.exists() {
            return Err(unreadable(format!("lacks the shard {name}; the download is incomplete")));
        }
        paths.push(path);
    }
    Ok(paths)
}

/// `model.layers.3.self_attn.q_proj.weight` → `blk.3.attn_q.weight`.
fn gguf_name(name: &str) -> String {
    const PARTS: &[(&str, &str)] = &[
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
    ];
    PARTS.iter().fold(name.to_string(), |name, (hf, gguf)| name.replace(hf, gguf))
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
    fn names_of_gguf_tensors() {
        assert_eq!(gguf_name("model.layers.3.self_attn.q_proj.weight"), "blk.3.attn_q.weight");
        assert_eq!(gguf_name("model.layers.0.post_attention_layernorm.weight"), "blk.0.ffn_norm.weight");
        assert_eq!(gguf_name("model.layers.11.input_layernorm.weight"), "blk.11.attn_norm.weight");
        assert_eq!(gguf_name("model.embed_tokens.weight"), "token_embd.weight");
        assert_eq!(gguf_name("model.norm.weight"), "output_norm.weight");
        assert_eq!(gguf_name("lm_head.weight"), "output.weight");
    }

    #[test]
    fn interleaved_rows_become_half_split() {
        // Two heads of D = 4: within each, rows 0 1 2 3 are pairs (0,1), (2,3) and become 0 2 1 3.
        let rows: Vec<u8> = (0..8).flat_map(|row| [row, row]).collect();
        let split = half_split(&rows, &[8, 1], 2).unwrap();
        assert_eq!(split, [0, 0, 2, 2, 1, 1, 3, 3, 4, 4, 6, 6, 5, 5, 7, 7]);
        assert!(half_split(&rows, &[8, 1], 3).is_err());
    }
}
