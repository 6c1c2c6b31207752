//! The decoder: one forward pass for the whole Llama family, driven by [`Config`].

use std::path::Path;
use std::sync::Arc;

use crate::files::FileError;
use crate::files::ModelIdentity;
use crate::model::ModelError;
use crate::model::attention::Geometry;
use crate::model::attention::attend;
use crate::model::config::Config;
use crate::model::device::Compute;
use crate::model::device::DeviceDecoder;
use crate::model::device::Ends;
use crate::model::gguf::Gguf;
use crate::model::layers::Linear;
use crate::model::layers::add;
use crate::model::layers::gate_with;
use crate::model::layers::rms_norm;
use crate::model::matrix::Kernel;
use crate::model::matrix::Matrix;
use crate::model::matrix::Scratch;
use crate::model::rope::Rope;
use crate::model::store::ChunkStates;
use crate::model::store::KvStore;
use crate::model::tokenizer::Tokenizer;
use crate::model::weights::Weights;

/// Largest `config.json` that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Which logits a forward pass computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// None: states only.
    None,
    /// Those of the last token, `[1, vocab]`.
    Last,
    /// Those of every token, `[T, vocab]`.
    All,
}

/// One layer's weights on the host.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attn_norm: Vec<f32>,
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) q_norm: Option<Vec<f32>>,
    pub(super) k_norm: Option<Vec<f32>>,
    pub(super) o: Linear,
    pub(super) ffn_norm: Vec<f32>,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Layer {
    fn load(weights: &Weights, config: &Config, kernel: Option<Kernel>, index: usize) -> Result<Self, ModelError> {
        let Config { hidden_size, ffn_size, head_dim, .. } = *config;
        let (q_width, kv_width) = (config.n_q_heads * head_dim, config.n_kv_heads * head_dim);
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let matrix = |name: &str, shape: [usize; 2]| weights.matrix(name, shape, config, kernel).map(Arc::new);
        let vector = |name: &str, n: usize| weights.vector(name, n, config);
        let linear = |part: &str, n_out: usize, n_in: usize| {
            Ok::<_, ModelError>(Linear::new(matrix(&name(part), [n_out, n_in])?, None))
        };
        let projection = |part: &str, n_out: usize| {
            let weight = matrix(&name(part), [n_out, hidden_size])?;
            let bias_name = format!("model.layers.{index}.{part}.bias");
            let bias = if config.qkv_bias { Some(vector(&bias_name, n_out)?) } else { None };
            Ok::<_, ModelError>(Linear::new(weight, bias))
        };
        let head_norm = |part: &str| {
            Ok::<_, ModelError>(if config.architecture.qk_norm { Some(vector(&name(part), head_dim)?) } else { None })
        };
        Ok(Self {
            attn_norm: vector(&name("input_layernorm"), hidden_size)?,
            q: projection("self_attn.q_proj", q_width)?,
            k: projection("self_attn.k_proj", kv_width)?,
            v: projection("self_attn.v_proj", kv_width)?,
            q_norm: head_norm("self_attn.q_norm")?,
            k_norm: head_norm("self_attn.k_norm")?,
            o: linear("self_attn.o_proj", hidden_size, q_width)?,
            ffn_norm: vector(&name("post_attention_layernorm"), hidden_size)?,
            gate: linear("mlp.gate_proj", ffn_size, hidden_size)?,
            up: linear("mlp.up_proj", ffn_size, hidden_size)?,
            down: linear("mlp.down_proj", hidden_size, ffn_size)?,
        })
    }

    /// Bytes in memory.
    fn bytes(&self) -> u64 {
        let norms = [Some(&self.attn_norm), self.q_norm.as_ref(), self.k_norm.as_ref(), Some(&self.ffn_norm)];
        let maps = [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down];
        maps.iter().map(|map| map.bytes()).sum::<u64>()
            + norms.into_iter().flatten().map(|norm| 4 * norm.len() as u64).sum::<u64>()
    }
}

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
    config: Config,
    identity: ModelIdentity,
    tokenizer: Option<Tokenizer>,
    compute: Compute,
    decoder: Decoder,
    rope: Rope,
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
        let (config, weights, tokenizer) = if path.is_dir() {
            let config = read_config(path)?;
            let has_tokenizer = ["tokenizer.json", "tokenizer.model"].iter().any(|name| path.join(name).exists());
            let tokenizer = if has_tokenizer { Some(Tokenizer::from_hf_folder(path)?) } else { None };
            (config, Weights::open_folder(path)?, tokenizer)
        } else {
            let gguf = Gguf::open(path)?;
            let config = Config::from_gguf(&gguf)?;
            let has_tokenizer = gguf.metadata().contains_key("tokenizer.ggml.model");
            let tokenizer = if has_tokenizer { Some(Tokenizer::from_gguf(&gguf)?) } else { None };
            (config, Weights::Gguf(Box::new(gguf)), tokenizer)
        };
        let name = path.file_stem().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        Self::assemble(name, config, &weights, tokenizer, compute)
    }

    fn assemble(
        name: String,
        config: Config,
        weights: &Weights,
        tokenizer: Option<Tokenizer>,
        compute: &Compute,
    ) -> Result<Self, ModelError> {
        let Config { hidden_size, head_dim, vocab_size, n_layers, tied_output, .. } = config;
        if let Some(tokenizer) = &tokenizer {
            tokenizer.check_rows(vocab_size)?;
        }
        let kernel = compute.kernel()?;
        let matrix = |name: &str| weights.matrix(name, [vocab_size, hidden_size], &config, kernel).map(Arc::new);
        let embedding = matrix("model.embed_tokens.weight")?;
        let output = Linear::new(if tied_output { embedding.clone() } else { matrix("lm_head.weight")? }, None);
        let norm = weights.vector("model.norm.weight", hidden_size, &config)?;
        let layers = (0..n_layers).map(|index| Layer::load(weights, &config, kernel, index));
        let decoder = match compute {
            Compute::Kernels { .. } => {
                Decoder::Kernels(Kernels { embedding, layers: layers.collect::<Result<_, _>>()?, norm, output })
            }
            Compute::Candle { device, dtype } => {
                let ends = Ends { embedding: &embedding, norm: &norm, output: (!tied_output).then_some(&output) };
                let mut decoder = DeviceDecoder::new(device, *dtype, ends)?;
                // One layer at a time is on the host.
                for layer in layers {
                    decoder.push(&layer?)?;
                }
                Decoder::Device(decoder)
            }
        };
        let identity = ModelIdentity {
            name,
            architecture: config.architecture.hf_name.into(),
            fingerprint: weights.fingerprint(&config)?,
            tokenizer_sha256: tokenizer.as_ref().map(|t| t.sha256().to_string()),
            n_layers: config.n_layers,
            n_q_heads: config.n_q_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim,
            rope_theta: config.rope_theta,
            max_positions: config.max_positions,
        };
        let rope = Rope::new(&config);
        Ok(Self { config, identity, tokenizer, compute: compute.clone(), decoder, rope })
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it computes.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// What artifacts record of it.
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// Its tokenizer.
    ///
    /// - Errors: [`ModelError::Unreadable`] when the checkpoint came without one.
    pub fn tokenizer(&self) -> Result<&Tokenizer, ModelError> {
        self.tokenizer.as_ref().ok_or_else(|| ModelError::Unreadable {
            path: self.identity.name.clone().into(),
            what: "has no tokenizer (tokenizer.json, tokenizer.model or GGUF metadata)".into(),
        })
    }

    /// Bytes of the weights, in the memory of the device that computes.
    pub fn weight_bytes(&self) -> u64 {
        match &self.decoder {
            Decoder::Kernels(kernels) => kernels.bytes(self.config.tied_output),
            Decoder::Device(decoder) => decoder.bytes(),
        }
    }

    /// Bytes of the weights that one decoded token reads: all but an embedding table that is not also the output's.
    pub fn decode_bytes(&self) -> u64 {
        let embedding = match (&self.decoder, &self.compute) {
            _ if self.config.tied_output => 0,
            (Decoder::Kernels(kernels), _) => kernels.embedding.bytes(),
            (Decoder::Device(_), Compute::Candle { dtype, .. }) => {
                (self.config.vocab_size * self.config.hidden_size * dtype.size_in_bytes()) as u64
            }
            (Decoder::Device(_), Compute::Kernels { .. }) => 0,
        };
        self.weight_bytes() - embedding
    }

    /// Runs a chunk of tokens that starts at `first_position`; keys and values go through `store`.
    ///
    /// - Shape: tokens `[T]` → logits `[rows, vocab]` in f32, empty for [`LogitRows::None`]
    /// - Errors: a token outside the vocabulary, a position beyond the model's context, or the store's own
    pub fn forward(
        &self,
        tokens: &[u32],
        first_position: usize,
        store: &mut dyn KvStore,
        rows: LogitRows,
    ) -> Result<Vec<f32>, ModelError> {
        self.forward_by_layer(tokens, first_position, tokens.len(), store, rows)
    }

    /// As [`Model::forward`], with each layer passing over all tokens, `chunk_tokens` at a time, before the next begins.
    ///
    /// A layer's keys and values are complete before the next layer's come, so a store need never hold two layers; the
    /// activations are those of one chunk, beside the residual stream of all tokens.
    pub fn forward_by_layer(
        &self,
        tokens: &[u32],
        first_position: usize,
        chunk_tokens: usize,
        store: &mut dyn KvStore,
        rows: LogitRows,
    ) -> Result<Vec<f32>, ModelError> {
        let c = &self.config;
        if tokens.is_empty() {
            return Err(ModelError::Empty);
        }
        if first_position + tokens.len() > c.max_positions {
            let n_tokens = first_position + tokens.len();
            return Err(ModelError::TooLong { n_tokens, max_positions: c.max_positions });
        }
        if let Some(id) = tokens.iter().copied().find(|id| *id as usize >= c.vocab_size) {
            return Err(ModelError::BadToken { id, vocab_size: c.vocab_size });
        }
        let chunk_tokens = chunk_tokens.clamp(1, tokens.len());
        match &self.decoder {
            // On a thread of the pool (the calling one if it is): its neighbours stay awake between the short regions.
            Decoder::Kernels(kernels) => {
                rayon::scope(|_| self.pass(kernels, tokens, first_position, chunk_tokens, store, rows))
            }
            Decoder::Device(decoder) => {
                decoder.forward_by_layer((c, &self.rope), tokens, first_position, chunk_tokens, store, rows)
            }
        }
    }

    fn pass(
        &self,
        kernels: &Kernels,
        tokens: &[u32],
        first_position: usize,
        chunk_tokens: usize,
        store: &mut dyn KvStore,
        rows: LogitRows,
    ) -> Result<Vec<f32>, ModelError> {
        let c = &self.config;
        let mut scratch = Scratch::default();
        let mut x = vec![0f32; tokens.len() * c.hidden_size];
        for (id, row) in tokens.iter().zip(x.chunks_exact_mut(c.hidden_size)) {
            kernels.embedding.widen_rows(*id as usize, row);
        }
        for (i, layer) in kernels.layers.iter().enumerate() {
            for (chunk, x) in x.chunks_mut(chunk_tokens * c.hidden_size).enumerate() {
                self.attention_block(i, layer, x, first_position + chunk * chunk_tokens, store, &mut scratch)?;
                let h = self.normed(x, &layer.ffn_norm);
                let [mut inner, up] = Linear::forward_all([&layer.gate, &layer.up], &h, &mut scratch);
                gate_with(&mut inner, &up);
                add(x, &layer.down.forward(&inner, &mut scratch));
            }
        }
        let x = match rows {
            LogitRows::None => return Ok(Vec::new()),
            LogitRows::Last => &x[x.len() - c.hidden_size..],
            LogitRows::All => &x,
        };
        Ok(kernels.output.forward(&self.normed(x, &kernels.norm), &mut scratch))
    }

    fn attention_block(
        &self,
        index: usize,
        layer: &Layer,
        x: &mut [f32],
        first_position: usize,
        store: &mut dyn KvStore,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let c = &self.config;
        let needs = store.needs();
        let h = self.normed(x, &layer.attn_norm);
        let [mut q, mut k, v] = Linear::forward_all([&layer.q, &layer.k, &layer.v], &h, scratch);
        if let (Some(q_norm), Some(k_norm)) = (&layer.q_norm, &layer.k_norm) {
            rms_norm(&mut q, q_norm, c.rms_norm_eps);
            rms_norm(&mut k, k_norm, c.rms_norm_eps);
        }
        let k_pre_rope = if needs.k_pre_rope { k.clone() } else { Vec::new() };
        self.rope.rotate(&mut q, c.n_q_heads, first_position);
        self.rope.rotate(&mut k, c.n_kv_heads, first_position);
        let n_tokens = x.len() / c.hidden_size;
        let chunk =
            ChunkStates { layer: index, first_position, n_tokens, q: &q, k: &k, k_pre_rope: &k_pre_rope, v: &v };
        store.append(&chunk).map_err(ModelError::Store)?;
        let geometry = Geometry {
            n_q_heads: c.n_q_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            sliding_window: c.sliding_window,
        };
        let (attended, mass) = attend(&q, &store.heads(index), geometry, first_position, needs);
        store.attended(&chunk, mass).map_err(ModelError::Store)?;
        add(x, &layer.o.forward(&attended, scratch));
        Ok(())
    }

    fn normed(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let mut h = x.to_vec();
        rms_norm(&mut h, weight, self.config.rms_norm_eps);
        h
    }
}

fn read_config(dir: &Path) -> Result<Config, ModelError> {
    let path = dir.join("config.json");
    let unreadable = |what: String| ModelError::Unreadable { path: dir.into(), what };
    if !path.exists() {
        return Err(unreadable("has no config.json".into()));
    }
    let bytes = std::fs::metadata(&path).map_err(|e| FileError::io("read", &path, e))?.len();
    if bytes > MAX_CONFIG_BYTES {
        return Err(unreadable(format!("has a config.json of {bytes} bytes")));
    }
    let text = std::fs::read(&path).map_err(|e| FileError::io("read", &path, e))?;
    let json = serde_json::from_slice(&text).map_err(|e| unreadable(format!("has a damaged config.json: {e}")))?;
    Config::from_hf(&json)
}
