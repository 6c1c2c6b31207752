//! The decoder: one forward pass for the whole Llama family, driven by [`Config`].

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::checkpoint::{CONFIG, ModelFiles, choose, instead_of_weights, model_name};
use crate::files::{FileError, ModelIdentity, read_limited};
use crate::math::{LayerRopes, Projections, Rows, dot, first_not_below, scale};
use crate::model::ModelError;
use crate::model::attention::{Geometry, attend};
use crate::model::backward::PassedChunk;
use crate::model::config::Config;
use crate::model::device::{Compute, DeviceDecoder, Ends, Mirror};
use crate::model::gguf::Gguf;
use crate::model::layer::Layer;
use crate::model::layers::{Linear, normed};
use crate::model::matrix::{Matrix, Scratch};
use crate::model::projections::add_head_grams;
use crate::model::store::{ChunkStates, ForwardError, KvStore, LogitRows};
use crate::model::tokenizer::Tokenizer;
use crate::model::weights::{Fingerprint, Weights};

/// Largest `config.json` that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

const EMBEDDING: &str = "model.embed_tokens.weight";
const OUTPUT: &str = "lm_head.weight";
const OUTPUT_BIAS: &str = "lm_head.bias";

/// What the output projections give, where it is not finite.
const PROJECTED: &str = "squares of the output projection";

/// For states that are not finite though all weights are.
const OVERFLOW_HINT: &str = "no weight is NaN or infinite: the numbers grow beyond f32, which no trained model's do; \
                             the weights or settings are damaged in another way";

/// All weights, for this crate's kernels.
#[derive(Debug)]
struct Kernels {
    embedding: Arc<Matrix>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    output: Linear,
}

impl Kernels {
    fn bytes(&self, tied_output: bool) -> u64 {
        let embedding = if tied_output { 0 } else { self.embedding.bytes() };
        let ends = embedding + self.output.bytes() + 4 * self.norm.len() as u64;
        self.layers.iter().map(Layer::bytes).sum::<u64>() + ends
    }

    /// Why a state is not finite: the first matrix with a number that is not, or else an overflow. Vectors were looked
    /// through when they were read.
    fn not_finite(&self, layer: Option<usize>, state: &'static str) -> ModelError {
        let damage = |name: String, matrix: &Matrix| {
            let (index, value) = matrix.first_not_finite()?;
            Some(ModelError::DamagedTensor { name, value, index })
        };
        let in_layer = |(index, layer): (usize, &Layer)| {
            let mut maps = layer.maps().into_iter();
            maps.find_map(|(part, map)| damage(format!("model.layers.{index}.{part}.weight"), map.weight()))
        };
        damage(EMBEDDING.into(), &self.embedding)
            .or_else(|| self.layers.iter().enumerate().find_map(in_layer))
            .or_else(|| damage(OUTPUT.into(), self.output.weight()))
            .unwrap_or_else(|| ModelError::NotFinite { layer, state, hint: OVERFLOW_HINT.into() })
    }

    fn check(&self, values: &[f32], layer: Option<usize>, state: &'static str) -> Result<(), ModelError> {
        first_not_below(values, f32::INFINITY).map_or(Ok(()), |_| Err(self.not_finite(layer, state)))
    }
}

/// The weights, where they are computed with.
#[derive(Debug)]
enum Decoder {
    Kernels(Kernels),
    Device(DeviceDecoder),
}

/// A loaded model with its tokenizer.
#[derive(Debug)]
pub struct Model {
    name: String,
    config: Config,
    fingerprint: Fingerprint,
    identity: OnceLock<ModelIdentity>,
    projections: OnceLock<Arc<Projections>>,
    tokenizer: Option<Tokenizer>,
    compute: Compute,
    decoder: Decoder,
    ropes: LayerRopes,
}

impl Model {
    /// Loads a GGUF file or a Hugging Face folder; weights stay in the type of the file.
    ///
    /// Block-quantised weights are multiplied in the arithmetic of [`Matmul::fastest`](crate::model::Matmul::fastest).
    /// A folder without any tokenizer gives a model that runs on token ids only.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        Self::load_on(path, &Compute::default())
    }

    /// As [`Model::load`], to compute where `compute` says; weights on a device are unpacked.
    pub fn load_on(path: &Path, compute: &Compute) -> Result<Self, ModelError> {
        let (config, weights, tokenizer) = if path.is_dir() { open_folder(path)? } else { open_gguf(path)? };
        Self::assemble(model_name(path), config, weights, tokenizer, compute)
    }

    fn assemble(
        name: String,
        mut config: Config,
        weights: Weights,
        tokenizer: Option<Tokenizer>,
        compute: &Compute,
    ) -> Result<Self, ModelError> {
        let Config { hidden_size, vocab_size, n_layers, .. } = config;
        if let Some(tokenizer) = &tokenizer {
            tokenizer.check_rows(vocab_size)?;
        }
        let kernel = compute.kernel()?;
        let matrix = |name: &str| weights.matrix(name, [vocab_size, hidden_size], &config, kernel).map(Arc::new);
        let (embedding, own_output) = match (weights.has(EMBEDDING), weights.has(OUTPUT)) {
            // A model that is said to share one matrix may be stored with two, and then shares them only if they are equal.
            (true, true) if config.tied_output && weights.are_equal(EMBEDDING, OUTPUT) => {
                weights.pass_over(OUTPUT);
                (matrix(EMBEDDING)?, None)
            }
            (true, false) if config.tied_output => (matrix(EMBEDDING)?, None),
            (false, true) if config.tied_output => (matrix(OUTPUT)?, None),
            _ => (matrix(EMBEDDING)?, Some(matrix(OUTPUT)?)),
        };
        let output_bias = weights.bias(OUTPUT_BIAS, vocab_size, &config, config.output_bias)?;
        let tied_output = own_output.is_none();
        let output = Linear::new(own_output.unwrap_or_else(|| embedding.clone()), output_bias)
            .times((1.0 / config.multipliers.logits_divisor) as f32);
        let norm = weights.norm("model.norm.weight", hidden_size, &config)?;
        let layers = (0..n_layers).map(|index| Layer::load(&weights, &config, kernel, index));
        let decoder = match compute {
            Compute::Kernels { .. } => {
                Decoder::Kernels(Kernels { embedding, layers: layers.collect::<Result<_, _>>()?, norm, output })
            }
            Compute::Candle { device, dtype } => {
                let ends = Ends { embedding: &embedding, norm: &norm, output: &output, tied_output };
                let mut decoder = DeviceDecoder::new(device, *dtype, ends)?;
                // One layer at a time is on the host.
                for layer in layers {
                    decoder.push(&layer?)?;
                }
                Decoder::Device(decoder)
            }
        };
        config.tied_output = tied_output;
        let ropes = config.ropes();
        let fingerprint = weights.finish(&config)?;
        let compute = compute.clone();
        let (identity, projections) = (OnceLock::new(), OnceLock::new());
        Ok(Self { name, config, fingerprint, identity, projections, tokenizer, compute, decoder, ropes })
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it computes.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Name of its folder, file or repository, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What artifacts record of it.
    ///
    /// - Cost: the first call reads all weights, for their digest
    /// - Errors: the files were changed since the model was loaded
    pub fn identity(&self) -> Result<&ModelIdentity, ModelError> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity);
        }
        let fingerprint = self.fingerprint.compute()?;
        let c = &self.config;
        Ok(self.identity.get_or_init(|| ModelIdentity {
            name: self.name.clone(),
            architecture: c.architecture.hf_name.into(),
            fingerprint,
            tokenizer_sha256: self.tokenizer.as_ref().map(|t| t.sha256().to_string()),
            chat_template_sha256: self.tokenizer.as_ref().and_then(|t| Some(t.chat_template()?.sha256())),
            n_layers: c.n_layers,
            n_q_heads: c.n_q_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            rope_theta: c.rope_theta,
            rope_frequencies: c.rope().frequencies().to_vec(),
            local_rope_frequencies: c.local_rope().map_or_else(Vec::new, |rope| rope.frequencies().to_vec()),
            layers_without_rope: c.unrotated.clone(),
            windows: if c.windows.iter().all(Option::is_none) { Vec::new() } else { c.windows.clone() },
            max_positions: c.max_positions,
        }))
    }

    /// What its output projections make of each query head's outputs.
    ///
    /// - Cost: the first call reads all output projections, O(n_layers · hidden · n_q_heads · D²)
    /// - Errors: weights that are no finite numbers, or that the device does not give back
    pub fn projections(&self) -> Result<&Arc<Projections>, ModelError> {
        if let Some(projections) = self.projections.get() {
            return Ok(projections);
        }
        let Config { n_layers, n_q_heads, head_dim, hidden_size, .. } = self.config;
        let mut grams = vec![0f32; n_layers * n_q_heads * head_dim * head_dim];
        for (layer, grams) in grams.chunks_exact_mut(n_q_heads * head_dim * head_dim).enumerate() {
            let unpack = |first: usize, out: &mut [f32]| match &self.decoder {
                Decoder::Kernels(kernels) => {
                    kernels.layers[layer].o.widen_rows(first, out);
                    Ok(())
                }
                Decoder::Device(decoder) => decoder.output_projection(layer, first, out),
            };
            add_head_grams(hidden_size, [n_q_heads, head_dim], unpack, grams)?;
            match &self.decoder {
                Decoder::Kernels(kernels) => kernels.check(grams, Some(layer), PROJECTED)?,
                Decoder::Device(decoder) => decoder.check(grams, Some(layer), PROJECTED)?,
            }
        }
        Ok(self.projections.get_or_init(|| Arc::new(Projections::new(grams, head_dim))))
    }

    /// Its tokenizer.
    ///
    /// - Errors: [`ModelError::Unreadable`] when the checkpoint came without one.
    pub fn tokenizer(&self) -> Result<&Tokenizer, ModelError> {
        self.tokenizer.as_ref().ok_or_else(|| ModelError::Unreadable {
            path: self.name.clone().into(),
            what: "has no tokenizer (tokenizer.json, tokenizer.model or GGUF metadata)".into(),
        })
    }

    /// Bytes of the weights, in the memory of the device that computes. On the CPU experts lie in their file, whose pages are
    /// in memory once a token has passed them; all are counted.
    pub fn weight_bytes(&self) -> u64 {
        match &self.decoder {
            Decoder::Kernels(kernels) => kernels.bytes(self.config.tied_output),
            Decoder::Device(decoder) => decoder.bytes(),
        }
    }

    /// Bytes of the weights that one decoded token reads: all but an embedding table that is not also the output's, and experts
    /// that the token does not pass.
    pub fn decode_bytes(&self) -> u64 {
        let (embedding, idle) = match &self.decoder {
            Decoder::Kernels(kernels) => {
                (kernels.embedding.bytes(), kernels.layers.iter().map(Layer::idle_bytes).sum::<u64>())
            }
            Decoder::Device(decoder) => (decoder.embedding_bytes(), decoder.idle_bytes()),
        };
        self.weight_bytes() - idle - if self.config.tied_output { 0 } else { embedding }
    }

    /// As [`Pass::forward`](crate::model::Pass::forward), once: a device's copy of the slots is not kept for the next call.
    pub fn forward<S: KvStore + ?Sized>(
        &self,
        tokens: &[u32],
        first_position: usize,
        store: &mut S,
        rows: LogitRows,
    ) -> Result<Vec<f32>, ForwardError<S::Error>> {
        self.forward_with(&mut Mirror::default(), tokens, first_position, tokens.len(), store, rows)
    }

    pub(super) fn forward_with<S: KvStore + ?Sized>(
        &self,
        mirror: &mut Mirror,
        tokens: &[u32],
        first_position: usize,
        chunk_tokens: usize,
        store: &mut S,
        rows: LogitRows,
    ) -> Result<Vec<f32>, ForwardError<S::Error>> {
        self.check_tokens(tokens, first_position)?;
        let c = &self.config;
        let chunk_tokens = chunk_tokens.clamp(1, tokens.len());
        match &self.decoder {
            // On a thread of the pool (the calling one if it is): its neighbours stay awake between the short regions.
            Decoder::Kernels(kernels) => {
                rayon::scope(|_| self.pass(kernels, tokens, first_position, chunk_tokens, store, rows))
            }
            Decoder::Device(decoder) => {
                decoder.forward((c, &self.ropes), tokens, first_position, chunk_tokens, (store, mirror), rows)
            }
        }
    }

    /// As [`Pass::forward_and_back`](crate::model::Pass::forward_and_back); gives the gradients by the embeddings `[T, hidden]`.
    pub(super) fn forward_and_back<S: KvStore + ?Sized>(
        &self,
        tokens: &[u32],
        first_position: usize,
        store: &mut S,
    ) -> Result<Vec<f32>, ForwardError<S::Error>> {
        self.check_tokens(tokens, first_position)?;
        let kernels = self.differentiable()?;
        rayon::scope(|_| self.pass_and_back(kernels, self.embedded(kernels, tokens), first_position, store))
    }

    /// The kernels, which know the backward pass.
    ///
    /// - Errors: a device, whose operations do not
    fn differentiable(&self) -> Result<&Kernels, ModelError> {
        match &self.decoder {
            Decoder::Kernels(kernels) => Ok(kernels),
            Decoder::Device(_) => Err(ModelError::Device {
                name: self.compute.name(),
                what: "computes no gradients, which the policy needs".into(),
                hint: "use --device cpu".into(),
            }),
        }
    }

    /// Refuses a model that computes no gradients.
    ///
    /// - Errors: [`ModelError::Device`]
    pub fn check_differentiable(&self) -> Result<(), ModelError> {
        self.differentiable().map(|_| ())
    }

    fn check_tokens(&self, tokens: &[u32], first_position: usize) -> Result<(), ModelError> {
        let c = &self.config;
        if tokens.is_empty() {
            return Err(ModelError::Empty);
        }
        c.check_length(first_position + tokens.len())?;
        match tokens.iter().copied().find(|id| *id as usize >= c.vocab_size) {
            Some(id) => Err(ModelError::BadToken { id, vocab_size: c.vocab_size }),
            None => Ok(()),
        }
    }

    fn embedded(&self, kernels: &Kernels, tokens: &[u32]) -> Vec<f32> {
        let mut x = vec![0f32; tokens.len() * self.config.hidden_size];
        for (id, row) in tokens.iter().zip(x.chunks_exact_mut(self.config.hidden_size)) {
            kernels.embedding.widen_rows(*id as usize, row);
        }
        match self.config.embedding_factor() {
            1.0 => {}
            factor => scale(&mut x, factor),
        }
        x
    }

    /// From the first layer's input `[T, hidden]` to the sum of squares of the last one's output, and back.
    fn pass_and_back<S: KvStore + ?Sized>(
        &self,
        kernels: &Kernels,
        mut x: Vec<f32>,
        first_position: usize,
        store: &mut S,
    ) -> Result<Vec<f32>, ForwardError<S::Error>> {
        let mut scratch = Scratch::default();
        let mut inputs = Vec::with_capacity(kernels.layers.len());
        for index in 0..kernels.layers.len() {
            inputs.push(x.clone());
            self.layer(kernels, index, &mut x, first_position, store, &mut scratch)?;
        }
        let mut gradients = x;
        scale(&mut gradients, 2.0);
        for (index, (layer, input)) in kernels.layers.iter().zip(&inputs).enumerate().rev() {
            let passed =
                PassedChunk { config: &self.config, rope: self.ropes.of(index), layer, index, first_position, input };
            let projected = passed.project(&mut scratch);
            passed.through_mlp(&projected, &store.heads(index), &mut gradients, &mut scratch);
            let norms = lengths(&gradients, self.config.hidden_size);
            kernels.check(&norms, Some(index), "gradients")?;
            store.sensed(&passed.states(&projected), &norms).map_err(ForwardError::Store)?;
            passed.through_attention(&projected, &store.heads(index), &mut gradients, &mut scratch);
        }
        Ok(gradients)
    }

    fn pass<S: KvStore + ?Sized>(
        &self,
        kernels: &Kernels,
        tokens: &[u32],
        first_position: usize,
        chunk_tokens: usize,
        store: &mut S,
        rows: LogitRows,
    ) -> Result<Vec<f32>, ForwardError<S::Error>> {
        let c = &self.config;
        let mut scratch = Scratch::default();
        let mut x = self.embedded(kernels, tokens);
        for index in 0..kernels.layers.len() {
            for (chunk, x) in x.chunks_mut(chunk_tokens * c.hidden_size).enumerate() {
                self.layer(kernels, index, x, first_position + chunk * chunk_tokens, store, &mut scratch)?;
            }
        }
        let x = match rows {
            LogitRows::None => return Ok(Vec::new()),
            LogitRows::Last => &x[x.len() - c.hidden_size..],
            LogitRows::All => &x,
        };
        let logits = kernels.output.forward(&normed(x, Some(&kernels.norm), c.rms_norm_eps), &mut scratch);
        kernels.check(&logits, None, "logits")?;
        Ok(logits)
    }

    fn layer<S: KvStore + ?Sized>(
        &self,
        kernels: &Kernels,
        index: usize,
        x: &mut [f32],
        first_position: usize,
        store: &mut S,
        scratch: &mut Scratch,
    ) -> Result<(), ForwardError<S::Error>> {
        let layer = &kernels.layers[index];
        self.attention_block(kernels, index, x, first_position, store, scratch)?;
        let eps = self.config.rms_norm_eps;
        let h = normed(x, layer.ffn_norm.as_ref(), eps);
        Layer::add_block(x, layer.ffn.forward(&h, scratch), layer.ffn_post_norm.as_ref(), eps);
        Ok(kernels.check(x, Some(index), "hidden states")?)
    }

    fn attention_block<S: KvStore + ?Sized>(
        &self,
        kernels: &Kernels,
        index: usize,
        x: &mut [f32],
        first_position: usize,
        store: &mut S,
        scratch: &mut Scratch,
    ) -> Result<(), ForwardError<S::Error>> {
        let (c, layer) = (&self.config, &kernels.layers[index]);
        let needs = store.needs();
        let h = normed(x, layer.attn_norm.as_ref(), c.rms_norm_eps);
        let [mut q, mut k, v] = Linear::forward_all([&layer.q, &layer.k, &layer.v], &h, scratch);
        layer.norm_heads(&mut q, &mut k, c.rms_norm_eps);
        let k_pre_rope = if needs.k_pre_rope { k.clone() } else { Vec::new() };
        self.ropes.of(index).rotate(&mut q, c.n_q_heads, first_position);
        self.ropes.of(index).rotate(&mut k, c.n_kv_heads, first_position);
        for (values, state) in [(&q, "queries"), (&k, "keys"), (&v, "values")] {
            kernels.check(values, Some(index), state)?;
        }
        let n_tokens = x.len() / c.hidden_size;
        let [q, k, k_pre_rope, v] = [&q, &k, &k_pre_rope, &v].map(|x| Rows::new(x, c.head_dim));
        let inputs = Rows::new(if needs.inputs { &h } else { &[] }, c.hidden_size);
        let chunk = ChunkStates { layer: index, first_position, n_tokens, q, k, k_pre_rope, v, inputs };
        store.append(&chunk).map_err(ForwardError::Store)?;
        let geometry = Geometry::of(c, index);
        let (attended, mass) = attend(q.flat(), &store.heads(index), geometry, first_position, needs);
        store.attended(&chunk, mass).map_err(ForwardError::Store)?;
        let given = layer.o.forward(&attended, scratch);
        Layer::add_block(x, given, layer.attn_post_norm.as_ref(), c.rms_norm_eps);
        Ok(())
    }
}

/// Lengths of vectors `[n, width]`.
fn lengths(x: &[f32], width: usize) -> Vec<f32> {
    x.chunks_exact(width).map(|row| dot(row, row).sqrt()).collect()
}

/// A Hugging Face folder, or one that holds a single GGUF model.
fn open_folder(dir: &Path) -> Result<(Config, Weights, Option<Tokenizer>), ModelError> {
    let entries = std::fs::read_dir(dir).map_err(|e| FileError::io("list", dir, e))?;
    let names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let files = choose(names.iter().map(String::as_str))
        .map_err(|found| ModelError::Unreadable { path: dir.into(), what: format!("has {found}") })?;
    let weights = match files {
        ModelFiles::Gguf(parts) => return open_gguf(&dir.join(parts.first().map_or("", String::as_str))),
        // Settings first: what is wrong with them says more than what is missing among the weights.
        ModelFiles::Safetensors(file) => {
            read_config(dir).map(|config| (Weights::of_safetensors(dir, &file, &config), config))
        }
        ModelFiles::Sharded => read_config(dir).map(|config| (Weights::of_shards(dir, &config), config)),
    };
    let (weights, config) = weights?;
    let has_tokenizer = ["tokenizer.json", "tokenizer.model"].iter().any(|name| dir.join(name).exists());
    let tokenizer = if has_tokenizer { Some(Tokenizer::from_hf_folder(dir)?) } else { None };
    Ok((config, weights?, tokenizer))
}

fn open_gguf(path: &Path) -> Result<(Config, Weights, Option<Tokenizer>), ModelError> {
    let gguf = Gguf::open_model(path)?;
    let config = Config::from_gguf(&gguf)?;
    let has_tokenizer = gguf.metadata().contains_key("tokenizer.ggml.model");
    let tokenizer = if has_tokenizer { Some(Tokenizer::from_gguf(&gguf)?) } else { None };
    let weights = Weights::of_gguf(gguf, &config)?;
    Ok((config, weights, tokenizer))
}

fn read_config(dir: &Path) -> Result<Config, ModelError> {
    let path = dir.join(CONFIG);
    let text = read_limited(&path, "configuration", MAX_CONFIG_BYTES)?;
    let json = serde_json::from_slice(&text).map_err(|e| match instead_of_weights(&text) {
        Some(what) => ModelError::StandIn { path: path.clone(), what },
        None => ModelError::Unreadable { path: path.clone(), what: format!("is no valid JSON: {e}") },
    })?;
    Config::from_hf(&json)
}
