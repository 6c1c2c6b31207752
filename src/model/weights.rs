//! Weights by their Hugging Face names, as f32 tensors, whatever the file's format, order or element type.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use candle_core::safetensors::MmapedSafetensors;
use serde_json::Value;

use crate::files::FileError;
use crate::files::Sha256;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::gguf::Gguf;

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

    /// The tensor of that Hugging Face name in f32, checked against the shape that the configuration implies.
    pub(crate) fn get(&self, name: &str, shape: &[usize], config: &Config) -> Result<Tensor, ModelError> {
        let found = match self {
            Self::Gguf(gguf) => {
                let tensor = gguf.tensor(&gguf_name(name))?;
                match heads_of(name, config) {
                    Some(n_heads) if config.architecture.gguf_interleaved => half_split(&tensor, n_heads)?,
                    _ => tensor,
                }
            }
            Self::Safetensors(tensors) => {
                let view = tensors.get(name).map_err(|_| ModelError::MissingTensor { name: name.into() })?;
                // The shape is checked before the data is converted: a stranger's header must not decide what is allocated.
                check_shape(name, view.shape(), shape)?;
                tensors.load(name, &Device::Cpu)?.to_dtype(DType::F32)?
            }
        };
        check_shape(name, found.shape().dims(), shape)?;
        Ok(found)
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

/// Reorders rows from interleaved rotation (pairs 2i, 2i + 1) to half-split rotation (pairs i, i + D/2).
fn half_split(tensor: &Tensor, n_heads: usize) -> Result<Tensor, ModelError> {
    let shape = tensor.shape().clone();
    let rows = *shape.dims().first().unwrap_or(&0);
    if n_heads == 0 || !rows.is_multiple_of(2 * n_heads) {
        return Err(ModelError::Shape {
            name: "q or k projection".into(),
            found: shape.dims().to_vec(),
            expected: vec![n_heads],
        });
    }
    let width = shape.elem_count() / rows;
    let pairs = tensor.reshape((n_heads, rows / n_heads / 2, 2, width))?;
    Ok(pairs.transpose(1, 2)?.contiguous()?.reshape(shape)?)
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
        let rows = Tensor::arange(0f32, 8.0, &Device::Cpu).unwrap().reshape((8, 1)).unwrap();
        let split = half_split(&rows, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(split, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }
}
