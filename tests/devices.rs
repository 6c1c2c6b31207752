//! The forward pass in the tensor library's operations, run on the CPU beside this crate's kernels.
//!
//! What a GPU runs is the same code on another device; nothing here needs one.

mod kit {
    pub mod capture;
    pub mod demo;
    pub mod error;
    pub mod fixtures;
    pub mod noise;
    pub mod recorder;
}

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use kit::capture::everything;
use kit::demo::demo_model;
use kit::error::relative_error;
use kit::fixtures::fixture;
use kit::noise::noise;
use kit::recorder::Recorder;
use kvscope::capture;
use kvscope::capture::{CaptureOptions, SampleInput};
use kvscope::format::dump::{Dump, State};
use kvscope::format::run::Target;
use kvscope::hint::Hint;
use kvscope::math::{Float, Rows, argmax};
use kvscope::model::{
    AttnMass, ChunkStates, Compute, Config, Decoding, HeadSlots, KvStore, LogitRows, Matmul, Model, Pass, SlotVectors,
    StoreNeeds,
};
use kvscope::runtime::{Budget, Compression, RaggedCache, prefill};

/// Bound on max |a - b| / max |b| in f32.
const TOLERANCE: f64 = 1e-5;
/// The same where weights and attention are in half precision, whose unit is 5e-4.
const HALF_TOLERANCE: f64 = 2e-2;
const N_TOKENS: usize = 48;
const WINDOW: usize = 8;

/// Every reference model, by what it is there for: MHA, GQA, biases, query and key norms, sliding window, RoPE scalings.
fn models() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(fixture(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists() || path.extension().is_some_and(|e| e == "gguf"))
        .collect();
    paths.sort();
    assert!(paths.len() > 10);
    paths
}

/// The same model for the kernels and for the tensor library.
fn both(path: &Path, dtype: Float) -> (Model, Model) {
    let candle = Compute::Candle { device: Device::Cpu, dtype };
    let kernels = Compute::Kernels { matmul: Matmul::F32 };
    (Model::load_on(path, &kernels).unwrap(), Model::load_on(path, &candle).unwrap())
}

fn tokens(model: &Model) -> Vec<u32> {
    (0..N_TOKENS as u32).map(|i| (i * i * 7 + 5) % model.config().vocab_size as u32).collect()
}

/// Largest difference of any state, mass or logit.
fn difference(kernels: &Model, candle: &Model, chunk: usize) -> f64 {
    let tokens = tokens(kernels);
    let run = |model: &Model| {
        let mut store = Recorder::new(model.config(), tokens.len() - WINDOW);
        let mut logits = Vec::new();
        for (i, part) in tokens.chunks(chunk).enumerate() {
            logits.extend(model.forward(part, i * chunk, &mut store, LogitRows::All).unwrap());
        }
        (store, logits)
    };
    let ((a, a_logits), (b, b_logits)) = (run(candle), run(kernels));
    let mut worst = relative_error(&a_logits, &b_logits);
    for (a, b) in a.layers.iter().zip(&b.layers) {
        for (a, b) in [
            (&a.k, &b.k),
            (&a.v, &b.v),
            (&a.k_pre_rope, &b.k_pre_rope),
            (&a.mass, &b.mass),
            (&a.mass_window, &b.mass_window),
        ] {
            worst = worst.max(relative_error(&a.concat(), &b.concat()));
        }
        worst = worst.max(relative_error(&a.inputs, &b.inputs));
    }
    worst
}

#[test]
fn states_masses_and_logits_are_those_of_the_kernels() {
    for path in models() {
        let (kernels, candle) = both(&path, Float::F32);
        for chunk in [N_TOKENS, 7, 1] {
            let error = difference(&kernels, &candle, chunk);
            println!("{} in chunks of {chunk}: {error:.1e}", path.file_name().unwrap().display());
            assert!(error <= TOLERANCE, "{}, chunks of {chunk}: {error:.1e}", path.display());
        }
    }
}

#[test]
fn policies_that_need_gradients_are_refused_by_name() {
    let (_, candle) = both(&fixture("llama-gqa"), Float::F32);
    let compression = Compression::parse("kvgrad", Budget::KeptFraction(0.5)).unwrap();
    let mut cache = RaggedCache::new(candle.config(), Float::F32, Some(compression));
    let error = prefill(&mut Pass::new(&candle), &tokens(&candle), &mut cache, 0).unwrap_err();
    assert!(error.to_string().contains("\"candle cpu f32\" computes no gradients"), "{error}");
    assert_eq!((error.hint().as_deref(), cache.n_seen()), (Some("use --device cpu"), 0));
}

#[test]
fn output_projections_are_those_of_the_kernels() {
    for path in models() {
        let (kernels, candle) = both(&path, Float::F32);
        let Config { n_layers, n_q_heads, n_kv_heads, head_dim, .. } = *kernels.config();
        let x = noise(3 * head_dim, 11);
        let norms = |model: &Model| -> Vec<f32> {
            let projections = model.projections().unwrap();
            assert_eq!(projections.shape(), (n_layers * n_q_heads, head_dim));
            let group = n_q_heads / n_kv_heads;
            (0..n_layers * n_kv_heads)
                .flat_map(|head| (0..group).map(move |query_head| (head, query_head)))
                .flat_map(|(head, query_head)| {
                    projections.of_kv_head(head, group).squared_norms(Rows::new(&x, head_dim), query_head)
                })
                .collect()
        };
        let error = relative_error(&norms(&candle), &norms(&kernels));
        assert!(error <= TOLERANCE, "{}: {error:.1e}", path.display());
    }
}

#[test]
#[ignore = "needs the demo model: kvscope pull smollm2-135m"]
fn demo_model_states_masses_and_logits_are_those_of_the_kernels() {
    let (kernels, candle) = both(&demo_model(), Float::F32);
    let error = difference(&kernels, &candle, 20);
    println!("SmolLM2-135M, all layers: {error:.1e}");
    // 30 layers round where the tiny models have 2.
    assert!(error <= 10.0 * TOLERANCE, "{error:.1e}");
}

#[test]
fn half_precision_is_near() {
    for path in models() {
        let (kernels, candle) = both(&path, Float::F16);
        let error = difference(&kernels, &candle, 20);
        println!("{} in f16: {error:.1e}", path.file_name().unwrap().display());
        // Not closer than half precision either: the weights are not f32.
        assert!((1e-5..=HALF_TOLERANCE).contains(&error), "{}: {error:.1e}", path.display());
    }
}

/// Slots of one KV head.
#[derive(Clone, Default)]
struct ThinHead {
    keys: Vec<f32>,
    values: Vec<f32>,
    bias: Vec<f32>,
    positions: Vec<u32>,
}

/// A store that drops slots of each head by a fixed pattern and gives the others a bias: heads of different lengths.
struct Thinned {
    heads: Vec<Vec<ThinHead>>,
    head_dim: usize,
    has_bias: bool,
    rewrites: u64,
    /// Of every chunk in every layer.
    masses: Vec<Vec<Vec<f32>>>,
}

impl Thinned {
    fn new(model: &Model, has_bias: bool) -> Self {
        let c = model.config();
        Self {
            heads: vec![vec![ThinHead::default(); c.n_kv_heads]; c.n_layers],
            head_dim: c.head_dim,
            has_bias,
            rewrites: 0,
            masses: Vec::new(),
        }
    }

    /// Head h keeps every (h + 2)th slot and the last four.
    fn thin(&mut self) {
        let d = self.head_dim;
        for layer in &mut self.heads {
            for (h, head) in layer.iter_mut().enumerate() {
                let n = head.positions.len();
                let kept: Vec<usize> = (0..n).filter(|i| i % (h + 2) == 1 || i + 4 >= n).collect();
                let vectors =
                    |x: &[f32]| kept.iter().flat_map(|i| x[i * d..(i + 1) * d].to_vec()).collect::<Vec<f32>>();
                *head = ThinHead {
                    keys: vectors(&head.keys),
                    values: vectors(&head.values),
                    bias: noise(kept.len(), h as u64),
                    positions: kept.iter().map(|i| head.positions[*i]).collect(),
                };
            }
        }
        self.rewrites += 1;
    }
}

impl KvStore for Thinned {
    type Error = Infallible;

    fn needs(&self) -> StoreNeeds {
        StoreNeeds { mass: true, ..StoreNeeds::default() }
    }

    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), Infallible> {
        let layer = &mut self.heads[chunk.layer];
        let n_heads = layer.len();
        for (h, head) in layer.iter_mut().enumerate() {
            head.keys.extend(chunk.k.every(n_heads, h).flatten());
            head.values.extend(chunk.v.every(n_heads, h).flatten());
            head.positions.extend((chunk.first_position..chunk.first_position + chunk.n_tokens).map(|p| p as u32));
            head.bias.resize(head.positions.len(), 0.0);
        }
        Ok(())
    }

    fn heads(&self, layer: usize) -> Vec<HeadSlots<'_>> {
        let has_bias = self.has_bias && self.rewrites > 0;
        self.heads[layer]
            .iter()
            .map(|head| HeadSlots {
                keys: SlotVectors::F32(&head.keys),
                values: SlotVectors::F32(&head.values),
                logit_bias: has_bias.then_some(head.bias.as_slice()),
                positions: &head.positions,
            })
            .collect()
    }

    fn rewrites(&self, _layer: usize) -> u64 {
        self.rewrites
    }

    fn attended(&mut self, _chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), Infallible> {
        self.masses.push(mass.all);
        Ok(())
    }
}

#[test]
fn ragged_heads_with_biases_and_gaps_are_those_of_the_kernels() {
    for path in models() {
        let (kernels, candle) = both(&path, Float::F32);
        let all = tokens(&kernels);
        let (prompt, rest) = all.split_at(30);
        // What a device holds is kept from call to call, or not.
        for (has_bias, keeps) in [(true, true), (false, true), (true, false)] {
            let run = |model: &Model| {
                let mut store = Thinned::new(model, has_bias);
                let mut pass = Pass::new(model);
                let mut forward = |store: &mut Thinned, tokens: &[u32], position: usize, rows: LogitRows| {
                    if !keeps {
                        pass = Pass::new(model);
                    }
                    pass.forward(tokens, position, store, rows).unwrap()
                };
                forward(&mut store, prompt, 0, LogitRows::None);
                store.thin();
                store.masses.clear();
                // A chunk, then single tokens, the last of them after another thinning.
                let mut logits = forward(&mut store, &rest[..9], 30, LogitRows::All);
                for (i, token) in rest[9..].iter().enumerate() {
                    if i == 5 {
                        store.thin();
                    }
                    logits.extend(forward(&mut store, &[*token], 39 + i, LogitRows::Last));
                }
                (store, logits)
            };
            let ((a, a_logits), (b, b_logits)) = (run(&candle), run(&kernels));
            let name = path.file_name().unwrap().display();
            let error = relative_error(&a_logits, &b_logits);
            assert!(error <= TOLERANCE, "{name}: {error:.1e}");
            assert_eq!(a.masses.len(), b.masses.len());
            for (a, b) in a.masses.iter().zip(&b.masses) {
                // As long as the head, not as the padding; what the queries gave has gone to the head's slots.
                assert_eq!(a.iter().map(Vec::len).collect::<Vec<_>>(), b.iter().map(Vec::len).collect::<Vec<_>>());
                for (a, b) in a.iter().zip(b) {
                    let error = relative_error(a, b);
                    assert!(error <= TOLERANCE, "{name}, mass: {error:.1e}");
                    let given = a.iter().sum::<f32>() / kernels.config().group() as f32;
                    assert!((given - given.round()).abs() < 1e-4 && given > 0.5, "{name}: {given}");
                }
            }
            let lens: Vec<usize> = a.heads[0].iter().map(|head| head.positions.len()).collect();
            assert!(lens.len() == 1 || lens[0] > lens[1], "{lens:?} is not ragged");
        }
    }
}

#[test]
fn a_decode_step_uploads_what_is_new() {
    let path = fixture("llama-gqa");
    let (_, candle) = both(&path, Float::F32);
    let all = tokens(&candle);
    let n_heads = candle.config().n_layers * candle.config().n_kv_heads;
    let mut store = Thinned::new(&candle, true);
    let mut pass = Pass::new(&candle);
    // Slots that a call uploads.
    let mut uploaded = |store: &mut Thinned, tokens: std::ops::Range<usize>| {
        let before = pass.uploaded_slots();
        pass.forward(&all[tokens.clone()], tokens.start, store, LogitRows::None).unwrap();
        pass.uploaded_slots() - before
    };
    assert_eq!(uploaded(&mut store, 0..30), 30 * n_heads);
    for i in 30..34 {
        assert_eq!(uploaded(&mut store, i..i + 1), n_heads);
    }
    // Slots that were rewritten go up again, once.
    store.thin();
    let found = uploaded(&mut store, 34..35);
    let n_slots: usize = store.heads.iter().flatten().map(|head| head.positions.len()).sum();
    assert_eq!(found, n_slots);
    assert_eq!(uploaded(&mut store, 35..36), n_heads);
}

#[test]
fn the_runtimes_cache_generates_the_same_on_both() {
    for path in models() {
        let (kernels, candle) = both(&path, Float::F32);
        let prompt = tokens(&kernels);
        let n_heads = kernels.config().n_layers * kernels.config().n_kv_heads;
        for spec in ["full", "streaming"] {
            let run = |model: &Model| {
                // Streaming looks at positions only, so that both plan alike to the last slot.
                let compression = Compression {
                    decode_slack: Some(4),
                    ..Compression::parse(spec, Budget::KeptFraction(0.6)).unwrap()
                };
                let compression = (spec != "full").then_some(compression);
                let mut cache = RaggedCache::new(model.config(), Float::F32, compression);
                let mut pass = Pass::new(model);
                let logits = prefill(&mut pass, &prompt, &mut cache, 20).unwrap();
                let mut decoding = Decoding::new(&mut pass, &mut cache, prompt.len(), logits);
                let step = |_| {
                    let token = argmax(decoding.logits()) as u32;
                    decoding.feed(token).unwrap();
                    token
                };
                let tokens: Vec<u32> = (0..23).map(step).collect();
                (tokens, cache, pass.uploaded_slots())
            };
            let ((a, a_cache, uploaded), (b, b_cache, _)) = (run(&candle), run(&kernels));
            assert_eq!(a, b, "{}, {spec}", path.display());
            assert_eq!(a_cache.n_slots(), b_cache.n_slots());
            // Every token's slots once, and those that a rewriting left: by compression, or of a window that went on.
            let once = a_cache.n_seen() * n_heads;
            let is_rewritten = spec != "full" || kernels.config().windows.iter().any(Option::is_some);
            assert!(if is_rewritten { uploaded > once } else { uploaded == once }, "{spec}: {uploaded}, {once}");
        }
    }
}

#[test]
fn a_capture_is_that_of_the_kernels() {
    for name in ["llama-gqa", "mistral-window", "qwen3", "gemma3-layer-types", "qwen3-moe-steps"] {
        let (kernels, candle) = both(&fixture(name), Float::F32);
        let tokens = tokens(&kernels);
        let inputs = [SampleInput { dataset: "d".into(), id: "0".into(), n_tokens_full: tokens.len(), tokens }];
        let dumps = [&kernels, &candle].map(|model| {
            let dir = tempfile::tempdir().unwrap();
            let options =
                CaptureOptions { window_tokens: WINDOW, chunk_tokens: 20, decode_tokens: 3, ..everything(model) };
            let target = Target::new(dir.path());
            capture::run(model, &inputs, &[], &options, &target, &AtomicBool::new(false), &mut |_| {}).unwrap();
            (Dump::open(dir.path()).unwrap(), dir)
        });
        let [(kernels_dump, _a), (candle_dump, _b)] = &dumps;
        assert_eq!(kernels_dump.manifest().provenance.options["device"], "cpu f32");
        assert_eq!(candle_dump.manifest().provenance.options["device"], "candle cpu f32");
        let (a, b) = (candle_dump.sample(0).unwrap(), kernels_dump.sample(0).unwrap());
        assert_eq!(a.token_ids().unwrap(), b.token_ids().unwrap());
        for layer in &kernels_dump.manifest().layers {
            for state in [State::K, State::V, State::KPreRope, State::Q] {
                for head in kernels_dump.manifest().held_heads(state) {
                    let vectors = |s: &kvscope::format::dump::Sample<'_>| s.vectors(*layer, state, head).unwrap();
                    assert!(relative_error(vectors(&a).flat(), vectors(&b).flat()) <= TOLERANCE, "{name} {state:?}");
                }
            }
            for head in kernels_dump.manifest().held_kv_heads() {
                assert!(relative_error(&a.mass(*layer, head).unwrap(), &b.mass(*layer, head).unwrap()) <= TOLERANCE);
                let window = |s: &kvscope::format::dump::Sample<'_>| s.mass_window(*layer, head).unwrap();
                assert!(relative_error(&window(&a), &window(&b)) <= TOLERANCE);
            }
        }
    }
}
