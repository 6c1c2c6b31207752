//! What the integration tests share: reference files, a store that records everything, the demo model.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::path::PathBuf;

use half::bf16;
use half::f16;
use kvscope::hub::HubSettings;
use kvscope::hub::resolve;
use kvscope::model::ARCHITECTURES;
use kvscope::model::AttnMass;
use kvscope::model::Bias;
use kvscope::model::ChunkStates;
use kvscope::model::Compute;
use kvscope::model::Config;
use kvscope::model::HeadSlots;
use kvscope::model::KvStore;
use kvscope::model::Matmul;
use kvscope::model::Model;
use kvscope::model::RopeScaling;
use kvscope::model::SlotVectors;
use kvscope::model::StoreNeeds;
use kvscope::runtime::CacheType;
use kvscope::runtime::RaggedCache;
use proptest::test_runner::Config as ProptestConfig;
use proptest::test_runner::FileFailurePersistence;
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::SafeTensors;

/// Folder of the reference models.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models")
}

/// A reference model by the name of its folder or GGUF file.
pub fn fixture(name: &str) -> Model {
    Model::load(&fixtures().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The arithmetics of this processor, exact first.
pub fn matmuls() -> Vec<Matmul> {
    let mut all = vec![Matmul::F32];
    all.extend(Some(Matmul::fastest()).filter(|fastest| *fastest != Matmul::F32));
    all
}

/// As [`fixture`], with the arithmetic named.
pub fn fixture_with(name: &str, matmul: Matmul) -> Model {
    load_with(&fixtures().join(name), matmul)
}

/// As [`demo_model`], with the arithmetic named.
pub fn demo_model_with(matmul: Matmul) -> Model {
    load_with(&demo_model_path(), matmul)
}

fn load_with(path: &Path, matmul: Matmul) -> Model {
    let kernels = Compute::Kernels { matmul };
    Model::load_on(path, &kernels).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The demo model; a test that needs it fails where it is not in the cache.
pub fn demo_model() -> Model {
    Model::load(&demo_model_path()).unwrap()
}

/// Its file.
pub fn demo_model_path() -> PathBuf {
    resolve("smollm2-135m", &HubSettings::from_env()).unwrap_or_else(|error| {
        panic!("this test needs the demo model, run `kvscope pull smollm2-135m` first: {error}")
    })
}

/// A file of reference tensors, all read.
pub struct Reference {
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ids: BTreeMap<String, Vec<u32>>,
}

impl Reference {
    /// Reads f32 and i64 tensors; any other type is a fault of the file.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut reference = Self { floats: BTreeMap::new(), ids: BTreeMap::new() };
        for (name, view) in file.tensors() {
            match view.dtype() {
                Dtype::F32 => {
                    let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
                    reference.floats.insert(name, (view.shape().to_vec(), data));
                }
                Dtype::I64 => {
                    let data = view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32);
                    reference.ids.insert(name, data.collect());
                }
                other => panic!("{name} is {other:?}"),
            }
        }
        reference
    }

    /// A float tensor of that shape.
    pub fn floats(&self, name: &str, shape: &[usize]) -> &[f32] {
        let (found, data) = self.floats.get(name).unwrap_or_else(|| panic!("the reference has no {name}"));
        assert_eq!(found, shape, "{name}");
        data
    }

    /// Whether a float tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.floats.contains_key(name)
    }

    /// An integer tensor.
    pub fn ids(&self, name: &str) -> &[u32] {
        self.ids.get(name).unwrap_or_else(|| panic!("the reference has no {name}"))
    }
}

/// One layer as a [`Recorder`] keeps it, by KV head: vectors `[n, D]`, masses `[n]`.
#[derive(Clone, Default)]
pub struct RecordedLayer {
    pub k: Vec<Vec<f32>>,
    pub v: Vec<Vec<f32>>,
    pub k_pre_rope: Vec<Vec<f32>>,
    pub mass: Vec<Vec<f32>>,
    pub mass_window: Vec<Vec<f32>>,
    pub positions: Vec<u32>,
}

/// A store that keeps everything the forward pass can tell.
pub struct Recorder {
    pub layers: Vec<RecordedLayer>,
    head_dim: usize,
    n_kv_heads: usize,
    needs: StoreNeeds,
}

impl Recorder {
    /// For a model, with the observation window starting at a position.
    pub fn new(config: &Config, mass_from_position: usize) -> Self {
        let layer = RecordedLayer {
            k: vec![Vec::new(); config.n_kv_heads],
            v: vec![Vec::new(); config.n_kv_heads],
            k_pre_rope: vec![Vec::new(); config.n_kv_heads],
            mass: vec![Vec::new(); config.n_kv_heads],
            mass_window: vec![Vec::new(); config.n_kv_heads],
            positions: Vec::new(),
        };
        Self {
            layers: vec![layer; config.n_layers],
            head_dim: config.head_dim,
            n_kv_heads: config.n_kv_heads,
            needs: StoreNeeds { k_pre_rope: true, mass: true, mass_from_position: Some(mass_from_position) },
        }
    }
}

impl KvStore for Recorder {
    type Error = Infallible;

    fn needs(&self) -> StoreNeeds {
        self.needs
    }

    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), Infallible> {
        let layer = &mut self.layers[chunk.layer];
        for token in 0..chunk.n_tokens {
            for head in 0..self.n_kv_heads {
                let range = (token * self.n_kv_heads + head) * self.head_dim..;
                layer.k[head].extend_from_slice(&chunk.k[range.clone()][..self.head_dim]);
                layer.v[head].extend_from_slice(&chunk.v[range.clone()][..self.head_dim]);
                layer.k_pre_rope[head].extend_from_slice(&chunk.k_pre_rope[range][..self.head_dim]);
            }
            layer.positions.push((chunk.first_position + token) as u32);
        }
        Ok(())
    }

    fn heads(&self, layer: usize) -> Vec<HeadSlots<'_>> {
        let layer = &self.layers[layer];
        layer
            .k
            .iter()
            .zip(&layer.v)
            .map(|(k, v)| HeadSlots {
                keys: SlotVectors::F32(k),
                values: SlotVectors::F32(v),
                logit_bias: None,
                positions: &layer.positions,
            })
            .collect()
    }

    fn attended(&mut self, chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), Infallible> {
        let layer = &mut self.layers[chunk.layer];
        for (sums, new) in [(&mut layer.mass, &mass.all), (&mut layer.mass_window, &mass.window)] {
            assert_eq!(new.len(), self.n_kv_heads);
            for (sum, new) in sums.iter_mut().zip(new) {
                assert_eq!(new.len(), layer.positions.len());
                sum.resize(new.len(), 0.0);
                sum.iter_mut().zip(new).for_each(|(sum, x)| *sum += x);
            }
        }
        Ok(())
    }
}

/// Largest difference over the largest expected magnitude.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|x| x.is_finite()));
    let largest = expected.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
    assert!(largest > 0.0, "the reference is all zero");
    let difference = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0.0, f64::max);
    difference / largest
}

/// A configuration for stores that are fed by hand: no weights belong to it.
pub fn shape(n_layers: usize, n_q_heads: usize, n_kv_heads: usize, head_dim: usize) -> Config {
    Config {
        architecture: ARCHITECTURES[0],
        hidden_size: n_q_heads * head_dim,
        ffn_size: 4,
        n_layers,
        n_q_heads,
        n_kv_heads,
        head_dim,
        vocab_size: 2,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        max_positions: 1 << 20,
        windows: vec![None; n_layers],
        tied_output: true,
        qkv_bias: Bias::None,
        o_bias: Bias::None,
        mlp_bias: Bias::None,
        output_bias: Bias::None,
    }
}

/// Settings of property tests: what once failed is kept beside the test's source and tried first.
pub fn property_cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

/// `n` numbers in (-1, 1).
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| random.random_range(-1f32..1.0)).collect()
}

/// Keys and values `[T, n_kv_heads, D]` of one layer, and both masses by KV head `[T]`, all synthetic.
///
/// Keys drift, so that neighbours are alike and merging has something to join.
pub struct Layer {
    pub n_tokens: usize,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub mass: AttnMass,
}

impl Layer {
    /// A layer of that shape.
    pub fn new(config: &Config, n_tokens: usize, seed: u64) -> Self {
        let width = config.n_kv_heads * config.head_dim;
        let mut k = noise(n_tokens * width, seed);
        for i in width..k.len() {
            k[i] = 0.9 * k[i - width] + 0.3 * k[i];
        }
        let by_head = |seed: u64| -> Vec<Vec<f32>> {
            (0..config.n_kv_heads as u64)
                .map(|head| noise(n_tokens, seed.wrapping_mul(31) + head).iter().map(|x| x * x * x * x).collect())
                .collect()
        };
        let mass = AttnMass { all: by_head(seed + 1), window: by_head(seed + 2) };
        Self { n_tokens, k, v: noise(n_tokens * width, seed + 3), mass }
    }

    /// The same with KV head h in the place of `order`'s h-th entry.
    pub fn permuted(&self, config: &Config, order: &[usize]) -> Self {
        let heads = |x: &[f32]| -> Vec<f32> {
            x.chunks_exact(config.n_kv_heads * config.head_dim)
                .flat_map(|row| order.iter().flat_map(|h| row[h * config.head_dim..][..config.head_dim].to_vec()))
                .collect()
        };
        let masses = |x: &[Vec<f32>]| order.iter().map(|h| x[*h].clone()).collect();
        Self {
            n_tokens: self.n_tokens,
            k: heads(&self.k),
            v: heads(&self.v),
            mass: AttnMass { all: masses(&self.mass.all), window: masses(&self.mass.window) },
        }
    }

    /// What the forward pass would hand over.
    pub fn chunk(&self, layer: usize, first_position: usize) -> ChunkStates<'_> {
        ChunkStates { layer, first_position, n_tokens: self.n_tokens, q: &[], k: &self.k, k_pre_rope: &[], v: &self.v }
    }

    /// The masses that a store asked for.
    pub fn wanted_mass(&self, needs: StoreNeeds) -> AttnMass {
        let pick = |wanted: bool, mass: &[Vec<f32>]| if wanted { mass.to_vec() } else { Vec::new() };
        AttnMass {
            all: pick(needs.mass, &self.mass.all),
            window: pick(needs.mass_from_position.is_some(), &self.mass.window),
        }
    }
}

/// Vectors as f32, whatever their type.
pub fn widened(vectors: SlotVectors<'_>) -> Vec<f32> {
    match vectors {
        SlotVectors::F32(x) => x.to_vec(),
        SlotVectors::F16(x) => x.iter().map(|x| x.to_f32()).collect(),
        SlotVectors::Bf16(x) => x.iter().map(|x| x.to_f32()).collect(),
    }
}

/// A number as a cache of that type keeps it.
pub fn stored_as(kind: CacheType, x: f32) -> f32 {
    match kind {
        CacheType::F32 => x,
        CacheType::F16 => f16::from_f32(x).to_f32(),
        CacheType::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

/// Everything stored: positions, keys, values, biases and counts of every head.
pub type Contents = Vec<(Vec<u32>, Vec<f32>, Vec<f32>, Vec<f32>, Vec<u32>)>;

pub fn contents(cache: &RaggedCache, config: &Config) -> Contents {
    (0..config.n_layers)
        .flat_map(|layer| {
            cache.heads(layer).into_iter().enumerate().map(move |(h, head)| {
                let bias = head.logit_bias.map_or_else(|| vec![0.0; head.positions.len()], <[f32]>::to_vec);
                let (keys, values) = (widened(head.keys), widened(head.values));
                (head.positions.to_vec(), keys, values, bias, cache.counts(layer, h))
            })
        })
        .collect()
}
