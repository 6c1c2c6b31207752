//! `*.scorer.safetensors`: for every layer a linear map from the vector that a token's key and value are made of to the logarithm of
//! what they are worth, one number for each KV head.

use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::files::{Document, FileError, InputHash, ModelIdentity, Provenance, parse_json, read_limited, sha256_bytes};
use crate::format::FormatError;
use crate::format::dump::{DumpError, SampleWriter, TensorSpec};
use crate::format::profile::UsedSample;
use crate::hint::Hint;
use crate::math::{LinearMap, Rows, first_not_below};

/// End of the name of a scorer's file, unless another name is given.
pub const SUFFIX: &str = ".scorer.safetensors";
/// The header's word under which [`Learning`] stands.
pub const WORD: &str = "kvscope";

/// What a scorer was learned from, and how well it predicts: the header of its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learning {
    /// `kvscope.scorer/1`.
    pub schema: String,
    /// How it was made.
    pub provenance: Provenance,
    /// The model that it is for.
    pub model: ModelIdentity,
    /// Numbers in a token's vector.
    pub hidden_size: usize,
    /// Whether the samples' prompts stood in the model's chat format; `None` where a dump did not record it, and where dumps differ.
    pub chat_template: Option<bool>,
    /// Weight of the ridge, in units of each input's spread.
    pub lambda: f64,
    /// Share of the variance on held-out samples that is predicted, mean over each layer's KV heads; `None` where none were held out.
    pub held_out_r2: Vec<Option<f64>>,
    /// Samples that it was learned from.
    pub calibration: Vec<UsedSample>,
    /// Samples that had no part in it.
    pub held_out: Vec<UsedSample>,
}

impl Document for Learning {
    const NAME: &'static str = "kvscope.scorer";
    const VERSION: u32 = 1;
}

/// Why a scorer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScorerError {
    /// Its file cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It is of another model.
    #[error(
        "the weights {file} were learned for {theirs} (fingerprint {their_fingerprint:.12}), not for {ours} ({our_fingerprint:.12})"
    )]
    OtherModel {
        /// Name of the file.
        file: String,
        /// Model named in it.
        theirs: String,
        /// Its fingerprint.
        their_fingerprint: String,
        /// Model at hand.
        ours: String,
        /// Its fingerprint.
        our_fingerprint: String,
    },
}

impl From<FileError> for ScorerError {
    fn from(error: FileError) -> Self {
        Self::Format(error.into())
    }
}

impl Hint for ScorerError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Format(error) => error.hint(),
            Self::OtherModel { .. } => Some("learn weights for this model: kvscope learn DUMP --model NAME".into()),
        }
    }
}

/// A scorer that was read from a file, and checked.
#[derive(Clone, Debug)]
pub struct Scorer {
    /// What it was learned from.
    pub learning: Learning,
    /// Its file.
    pub file: InputHash,
    /// By layer.
    maps: Vec<LinearMap>,
}

impl PartialEq for Scorer {
    /// Equal files, wherever they stand.
    fn eq(&self, other: &Self) -> bool {
        self.file.sha256 == other.file.sha256
    }
}

impl Scorer {
    /// Reads a scorer, and checks it.
    ///
    /// - Errors: a file of another kind or of a newer version, tensors of another shape than its header says, numbers that are not
    ///   finite
    pub fn read(path: &Path) -> Result<Self, ScorerError> {
        let bytes = read_limited(path, Learning::NAME, Learning::MAX_BYTES)?;
        let damaged = |what: String| FormatError::damaged(path, what);
        let (_, header) =
            SafeTensors::read_metadata(&bytes).map_err(|e| damaged(format!("not a valid scorer: {e}")))?;
        let Some(words) = header.metadata().as_ref().and_then(|words| words.get(WORD)) else {
            let found = "no schema id".into();
            return Err(FileError::WrongSchema { path: path.into(), expected: Learning::NAME, found }.into());
        };
        let learning: Learning = parse_json(words.as_bytes(), path)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(format!("not a valid scorer: {e}")))?;
        let maps = maps(&learning, &tensors).map_err(damaged)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { learning, file: InputHash { name, sha256: sha256_bytes(&bytes) }, maps })
    }

    /// Writes a scorer; returns the digest of its file.
    ///
    /// - Errors: a number that is not finite
    pub fn write(path: &Path, learning: &Learning, maps: &[LinearMap]) -> Result<String, DumpError> {
        let json = |source| FileError::Json { path: path.into(), expected: Learning::NAME, source };
        let words = serde_json::to_string(learning).map_err(json)?;
        let all = (0..maps.len()).flat_map(|layer| specs(learning, layer)).collect();
        let mut writer = SampleWriter::create(path, all, &[(WORD, words)])?;
        for (layer, map) in maps.iter().enumerate() {
            let [weights, bias] = specs(learning, layer);
            writer.write_f32(&weights.name, &map.weights)?;
            writer.write_f32(&bias.name, &map.bias)?;
        }
        Ok(writer.finish()?.0)
    }

    /// A scorer of zeros, for tests.
    #[cfg(test)]
    pub(crate) fn toy(n_layers: usize, n_kv_heads: usize, hidden_size: usize) -> Self {
        let learning = Learning {
            schema: Learning::schema_id(),
            provenance: Provenance::new("learn", 0, serde_json::Value::Null, Vec::new()),
            model: ModelIdentity::toy(n_layers, n_kv_heads, n_kv_heads, 2),
            hidden_size,
            chat_template: None,
            lambda: 0.1,
            held_out_r2: vec![None; n_layers],
            calibration: Vec::new(),
            held_out: Vec::new(),
        };
        let map = LinearMap { weights: vec![0.0; n_kv_heads * hidden_size], bias: vec![0.0; n_kv_heads] };
        let file = InputHash { name: "toy".into(), sha256: String::new() };
        Self { learning, file, maps: vec![map; n_layers] }
    }

    /// Whether `path` is free for a scorer: nothing is there, or a scorer.
    ///
    /// - Errors: a file of another kind, which is not ours to replace
    pub fn check_replaceable(path: &Path) -> Result<(), FileError> {
        if path.symlink_metadata().is_err() || Self::read(path).is_ok() {
            return Ok(());
        }
        Err(FileError::Foreign { path: path.into(), expected: Learning::NAME })
    }

    /// Refuses a model other than its own.
    pub fn check_model(&self, model: &ModelIdentity, hidden_size: usize) -> Result<(), ScorerError> {
        let own = &self.learning.model;
        let shape = |model: &ModelIdentity| (model.n_layers, model.n_kv_heads);
        if own.fingerprint == model.fingerprint
            && (shape(own), self.learning.hidden_size) == (shape(model), hidden_size)
        {
            return Ok(());
        }
        Err(ScorerError::OtherModel {
            file: self.file.name.clone(),
            theirs: own.name.clone(),
            their_fingerprint: own.fingerprint.clone(),
            ours: model.name.clone(),
            our_fingerprint: model.fingerprint.clone(),
        })
    }

    /// The logarithm of what the keys and values of some tokens are worth, by KV head.
    ///
    /// - Shape: inputs `[n, hidden]` → `[n, n_kv_heads]`
    /// - Cost:  O(n · hidden · n_kv_heads)
    /// - Panics: a layer that its model has not, a defect of the caller
    pub fn predict(&self, layer: usize, inputs: Rows<'_>) -> Vec<f32> {
        self.maps[layer].apply(inputs)
    }
}

/// Faults of a scorer, each in words that name the file; empty when there is none.
pub fn faults(path: &Path) -> Vec<String> {
    Scorer::read(path).err().map(|error| error.to_string()).into_iter().collect()
}

/// Weights and bias of a layer.
fn specs(learning: &Learning, layer: usize) -> [TensorSpec; 2] {
    let n_kv_heads = learning.model.n_kv_heads;
    [("weight", vec![n_kv_heads, learning.hidden_size]), ("bias", vec![n_kv_heads])].map(|(part, shape)| TensorSpec {
        name: format!("layers.{layer}.{part}"),
        element: Dtype::F32,
        shape,
    })
}

fn maps(learning: &Learning, tensors: &SafeTensors<'_>) -> Result<Vec<LinearMap>, String> {
    let Learning { model, hidden_size, held_out_r2, lambda, .. } = learning;
    if model.n_layers == 0 || model.n_kv_heads == 0 || *hidden_size == 0 {
        return Err(format!("{} layers of {} KV heads and {hidden_size} inputs", model.n_layers, model.n_kv_heads));
    }
    if !(lambda.is_finite() && *lambda >= 0.0) {
        return Err(format!("lambda {lambda}"));
    }
    if held_out_r2.len() != model.n_layers || tensors.len() != model.n_layers.saturating_mul(2) {
        return Err(format!("{} tensors and {} of R² for {} layers", tensors.len(), held_out_r2.len(), model.n_layers));
    }
    if let Some(r2) = held_out_r2.iter().flatten().find(|r2| **r2 > 1.0) {
        return Err(format!("R² {r2}"));
    }
    let layers = 0..model.n_layers;
    layers
        .map(|layer| {
            let [weights, bias] = specs(learning, layer).map(|spec| numbers(tensors, &spec));
            Ok(LinearMap { weights: weights?, bias: bias? })
        })
        .collect()
}

fn numbers(tensors: &SafeTensors<'_>, spec: &TensorSpec) -> Result<Vec<f32>, String> {
    let TensorSpec { name, element, shape } = spec;
    let tensor: TensorView<'_> = tensors.tensor(name).map_err(|_| format!("holds no tensor {name}"))?;
    if tensor.dtype() != *element || tensor.shape() != shape.as_slice() {
        let (dtype, found) = (tensor.dtype(), tensor.shape());
        return Err(format!("{name} is {dtype:?} of shape {found:?}, expected {element:?} of {shape:?}"));
    }
    let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match first_not_below(&values, f32::INFINITY) {
        Some(at) => Err(format!("{name} has {}, which is not finite", values[at])),
        None => Ok(values),
    }
}
