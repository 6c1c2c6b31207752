//! Generation with compressed caches: what is stored, what comes out, and what is refused.

mod kit {
    pub mod config;
    pub mod demo;
    pub mod fixtures;
    pub mod layer;
    pub mod model;
    pub mod noise;
    pub mod slots;
    pub mod stored;
    pub mod tokens;
}

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::OnceLock;

use kit::config::shape;
use kit::demo::demo_model;
use kit::layer::Layer;
use kit::model::model;
use kit::slots::contents;
use kit::stored::stored_as;
use kit::tokens::reference_tokens;
use kvscope::format::generation::StopReason;
use kvscope::hint::Hint;
use kvscope::math::Float;
use kvscope::merge::MergeError;
use kvscope::model::tokenizer::AddSpecial;
use kvscope::model::{Config, KvStore, Model, ModelError};
use kvscope::policy;
use kvscope::policy::POLICIES;
use kvscope::prompts::demo;
use kvscope::runtime::{
    Budget, Compression, GenerateOptions, Generation, RaggedCache, RuntimeError, Sampling, State, generate,
};

fn compression(spec: &str, kept_fraction: f64, skip_layers: &[usize]) -> Option<Compression> {
    let parsed = Compression::parse(spec, Budget::KeptFraction(kept_fraction));
    let compression = parsed.unwrap_or_else(|error| panic!("{spec}: {error}"));
    Some(Compression { skip_layers: skip_layers.iter().copied().collect(), ..compression })
}

/// Every kernel, value rule and way to form chains of KVMerger.
fn merger_variants() -> Vec<String> {
    let mut specs = Vec::new();
    for kernel in ["gaussian", "uniform", "attention", "pivot", "key-fixed"] {
        for variant in ["paper", "convex", "log-count", "mass"] {
            for bridge in [false, true] {
                specs.push(format!("kvmerger:kernel={kernel},variant={variant},bridge={bridge}"));
            }
        }
    }
    specs
}

/// Every policy that a budget rules, and every variant of KVMerger.
fn budget_specs() -> Vec<String> {
    let named = POLICIES.iter().filter(|entry| entry.name != "full" && !entry.needs_weights());
    named.map(|entry| entry.name.into()).chain(merger_variants()).collect()
}

/// Those of them that need no model to repeat the prompt.
fn specs_without_replay() -> Vec<String> {
    let needs_replay = |spec: &str| policy::parse(spec).unwrap().1.needs().replay();
    budget_specs().into_iter().filter(|spec| !needs_replay(spec)).collect()
}

fn run(
    model: &Model,
    prompt: &[u32],
    cache: &mut RaggedCache,
    options: &GenerateOptions,
) -> Result<Generation, RuntimeError> {
    generate(model, prompt, cache, options, &mut |_| ControlFlow::Continue(()))
}

fn greedy(n: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: n, ..GenerateOptions::default() }
}

/// Puts a prompt of equal layers into a cache.
fn feed(cache: &mut RaggedCache, config: &Config, layer: &Layer) -> Result<(), RuntimeError> {
    cache.begin_prompt(layer.n_tokens);
    for i in 0..config.n_layers {
        let chunk = layer.chunk(i, 0);
        cache.append(&chunk)?;
        let masses = layer.masses(cache, i);
        cache.attended(&chunk, masses)?;
    }
    cache.end_prompt()
}

/// Appends single tokens behind a prompt, as decode does.
fn decode(cache: &mut RaggedCache, config: &Config, n_prompt: usize, n_tokens: usize) {
    let token = Layer::new(config, 1, 99);
    for t in 0..n_tokens {
        for i in 0..config.n_layers {
            let chunk = token.chunk(i, n_prompt + t);
            cache.append(&chunk).unwrap();
            let masses = token.masses(cache, i);
            cache.attended(&chunk, masses).unwrap();
        }
    }
}

#[test]
fn a_budget_of_everything_changes_nothing() {
    for name in ["llama-gqa", "llama-mha", "mistral-window", "qwen3"] {
        let (model, prompt) = (model(name), reference_tokens(name));
        for kind in Float::ALL {
            let mut full = RaggedCache::new(model.config(), kind, None);
            let expected = run(&model, &prompt, &mut full, &greedy(64)).unwrap();
            assert_eq!((expected.tokens.len(), expected.stop), (64, StopReason::MaxNewTokens));
            for entry in POLICIES.iter().filter(|entry| !entry.needs_weights()) {
                for chunk_tokens in [0, 7] {
                    let mut cache = RaggedCache::new(model.config(), kind, compression(entry.name, 1.0, &[]));
                    let options = GenerateOptions { chunk_tokens, ..greedy(64) };
                    let found = run(&model, &prompt, &mut cache, &options).unwrap();
                    assert_eq!(found.tokens, expected.tokens, "{name}, {kind:?}, {}", entry.name);
                    assert_eq!(found.prompt_kept_fraction, Some(1.0));
                    assert!(!cache.counters().did_something());
                    assert_eq!(cache.n_slots(), full.n_slots());
                }
            }
        }
    }
}

#[test]
fn compressed_generation_runs_and_keeps_what_it_says() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let n_heads = model.config().n_layers * model.config().n_kv_heads;
    for spec in budget_specs() {
        for chunk_tokens in [0, 7] {
            let mut cache = RaggedCache::new(model.config(), Float::F32, compression(&spec, 0.5, &[]));
            let options = GenerateOptions { chunk_tokens, ..greedy(64) };
            let found = match run(&model, &prompt, &mut cache, &options) {
                Ok(found) => found,
                // Six heavy tokens in 48 may cut the chains to pieces; with bridges there is always a way.
                Err(error @ RuntimeError::Unmeetable { .. }) => {
                    assert!(!spec.contains("bridge=true"), "{spec}: {error}");
                    assert!(spec.starts_with("kvmerger") || spec == "evict", "{spec}: {error}");
                    continue;
                }
                Err(error) => panic!("{spec}: {error}"),
            };
            assert_eq!(found.tokens.len(), 64, "{spec}");
            assert_eq!(found.decode_steps, 63, "{spec}");
            assert_eq!(found.prompt_kept_fraction, Some(0.5), "{spec}");
            assert_eq!(cache.n_slots(), (prompt.len() / 2 + 63) * n_heads, "{spec}");
            assert_eq!(cache.n_seen(), prompt.len() + 63, "{spec}");
        }
    }
}

#[test]
fn stored_bytes_are_the_kept_fraction_of_a_full_cache() {
    const N_PROMPT: usize = 1500;
    /// Decode steps after which bytes are compared: at the first growth, soon after it and long after it.
    const STEPS: [usize; 4] = [0, 1, 30, 500];
    const TYPES: [Float; 2] = [Float::F32, Float::F16];
    let mut worst = [0f64; 2];
    for head_dim in [64, 128] {
        let config = shape(1, 9, 3, head_dim);
        let layer = Layer::new(&config, N_PROMPT, 11);
        for (i, kind) in TYPES.into_iter().enumerate() {
            // Bytes really allocated at every step.
            let allocated = |compression: Option<Compression>, what: &str| {
                let mut cache = RaggedCache::new(&config, kind, compression);
                feed(&mut cache, &config, &layer).unwrap_or_else(|error| panic!("{what}: {error}"));
                let mut n_decoded = 0;
                STEPS.map(|steps| {
                    decode(&mut cache, &config, N_PROMPT + n_decoded, steps - n_decoded);
                    n_decoded = steps;
                    cache.bytes() as f64
                })
            };
            let full = allocated(None, "full");
            assert_eq!(full[0], (3 * N_PROMPT * (2 * head_dim * if i == 0 { 4 } else { 2 } + 4)) as f64);
            let tolerance = if kind == Float::F32 { 0.02 } else { 0.05 };
            for spec in specs_without_replay() {
                for kept_fraction in [0.35, 0.5] {
                    let what = format!("{spec}, {kind:?}, D = {head_dim}, {kept_fraction}");
                    let found = allocated(compression(&spec, kept_fraction, &[]), &what);
                    for (n_new, (found, full)) in STEPS.iter().zip(found.iter().zip(&full)) {
                        // New tokens enter whole.
                        let kept = (kept_fraction * N_PROMPT as f64 + *n_new as f64) / (N_PROMPT + n_new) as f64;
                        let off = found / (kept * full) - 1.0;
                        assert!(off.abs() <= tolerance, "{what}: {off:+.4} after {n_new} new tokens");
                        worst[i] = worst[i].max(off.abs());
                    }
                }
            }
        }
    }
    println!("bytes off by at most {:.2?} % ({TYPES:?})", worst.map(|x| 100.0 * x));
}

#[test]
fn slots_of_all_heads_sum_to_the_nearest_whole_share() {
    for n_tokens in [7usize, 47, 101, 299] {
        for (n_layers, n_kv_heads) in [(1, 1), (3, 2), (5, 3)] {
            let config = shape(n_layers, n_kv_heads, n_kv_heads, 2);
            let layer = Layer::new(&config, n_tokens, 3);
            for kept_fraction in [0.2, 0.35, 0.5, 0.77] {
                for skipped in [vec![], vec![0], vec![n_layers - 1]] {
                    let whole = skipped.len() as f64 / n_layers as f64;
                    let mut cache = RaggedCache::new(&config, Float::F32, compression("h2o", kept_fraction, &skipped));
                    let fed = feed(&mut cache, &config, &layer);
                    if whole >= kept_fraction {
                        assert!(matches!(fed, Err(RuntimeError::SkippedTooMuch { .. })), "{fed:?}");
                        continue;
                    }
                    fed.unwrap();
                    let heads = |layer: usize| -> Vec<usize> {
                        cache.heads(layer).iter().map(|head| head.positions.len()).collect()
                    };
                    for layer in &skipped {
                        assert_eq!(heads(*layer), vec![n_tokens; n_kv_heads]);
                    }
                    let rest: Vec<usize> = (0..n_layers).filter(|l| !skipped.contains(l)).flat_map(heads).collect();
                    let (low, high) = (rest.iter().min().unwrap(), rest.iter().max().unwrap());
                    assert!(*high - *low <= 1, "{rest:?}");
                    if *low > 1 {
                        let exact = kept_fraction * (n_tokens * n_layers * n_kv_heads) as f64;
                        let off = (cache.n_slots() as f64 - exact).abs();
                        assert!(off <= 0.5 + 1e-6, "{n_tokens} tokens, {kept_fraction}, {skipped:?}: {off}");
                    }
                }
            }
        }
    }
}

#[test]
fn skipped_layers_stay_whole_and_count_in_the_budget() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let mut cache = RaggedCache::new(model.config(), Float::F32, compression("streaming", 0.75, &[1]));
    run(&model, &prompt, &mut cache, &greedy(1)).unwrap();
    // Of 2 layers one is whole; the other keeps half, so that both together keep three quarters.
    let by_layer: Vec<usize> = cache.counters_by_layer().iter().map(|c| c.kept).collect();
    assert_eq!(by_layer, [48, 96]);
    // A layer that the model does not have changes nothing.
    let mut cache = RaggedCache::new(model.config(), Float::F32, compression("streaming", 0.75, &[9]));
    run(&model, &prompt, &mut cache, &greedy(1)).unwrap();
    assert_eq!(cache.n_slots(), 144);
    let mut cache = RaggedCache::new(model.config(), Float::F32, compression("streaming", 0.5, &[0]));
    let error = run(&model, &prompt, &mut cache, &greedy(1)).unwrap_err();
    assert!(matches!(error, RuntimeError::SkippedTooMuch { n_skipped: 1, n_layers: 2, .. }), "{error}");
}

#[test]
fn merged_counts_sum_to_the_tokens_seen() {
    let config = shape(2, 6, 3, 16);
    let n_tokens = 400;
    let layer = Layer::new(&config, n_tokens, 21);
    for spec in merger_variants().iter().map(String::as_str).chain(["kvmerger:eps=0.75", "kvmerger:sigma=printed"]) {
        let mut cache = RaggedCache::new(&config, Float::F32, compression(spec, 0.5, &[]));
        feed(&mut cache, &config, &layer).unwrap_or_else(|error| panic!("{spec}: {error}"));
        let mut represented = 0;
        for i in 0..config.n_layers {
            for h in 0..config.n_kv_heads {
                let counts = cache.counts(i, h);
                assert!(counts.iter().all(|count| *count >= 1), "{spec}");
                represented += counts.iter().sum::<u32>() as usize;
            }
        }
        let counters = cache.counters();
        assert_eq!(counters.seen, n_tokens * 6, "{spec}");
        // What weighs nothing in the kernel (far keys under a narrow one, or the pivot kernel) is evicted, and said to be.
        assert_eq!(represented + counters.evicted, counters.seen, "{spec}");
        assert_eq!(counters.merged, represented - counters.kept, "{spec}");
        let merges = !spec.contains("kernel=pivot");
        assert_eq!(counters.merged > 0, merges, "{spec}");
        if merges && !spec.contains("printed") {
            assert_eq!(counters.evicted, 0, "{spec}");
        }
    }
}

#[test]
fn new_tokens_enter_a_compressed_cache_unmerged() {
    let config = shape(2, 6, 3, 16);
    let layer = Layer::new(&config, 400, 21);
    let token = Layer::new(&config, 1, 99);
    for kind in Float::ALL {
        for spec in specs_without_replay() {
            let mut cache = RaggedCache::new(&config, kind, compression(&spec, 0.5, &[]));
            feed(&mut cache, &config, &layer).unwrap_or_else(|error| panic!("{spec}: {error}"));
            let before = contents(&cache, &config);
            decode(&mut cache, &config, 400, 3);
            for (at, (before, after)) in before.into_iter().zip(contents(&cache, &config)).enumerate() {
                let (positions, keys, values, bias, counts) = after;
                let (l, h) = (at / 3, at % 3);
                let n = before.0.len();
                let what = format!("{spec}, {kind:?}, layer {l}, head {h}");
                assert_eq!((&positions[..n], &counts[..n]), (&before.0[..], &before.4[..]), "{what}");
                assert_eq!((&keys[..n * 16], &values[..n * 16]), (&before.1[..], &before.2[..]), "{what}");
                assert_eq!(&bias[..n], &before.3[..], "{what}");
                assert_eq!((&positions[n..], &counts[n..]), (&[400, 401, 402][..], &[1, 1, 1][..]), "{what}");
                assert_eq!(bias[n..], [0.0; 3], "{what}");
                for t in 0..3 {
                    let stored = |x: &[f32]| x[(n + t) * 16..][..16].to_vec();
                    let given = |x: &[f32]| x[h * 16..][..16].iter().map(|x| stored_as(kind, *x)).collect::<Vec<f32>>();
                    assert_eq!((stored(&keys), stored(&values)), (given(&token.k), given(&token.v)), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_compression_that_does_nothing_is_an_error() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let mut cache = RaggedCache::new(model.config(), Float::F32, compression("kvmerger:eps=1.0", 0.5, &[]));
    let error = run(&model, &prompt, &mut cache, &greedy(4)).unwrap_err();
    assert!(matches!(error, RuntimeError::NothingCompressed { n_slots: 192, .. }), "{error}");
    assert_eq!(error.to_string(), "policy kvmerger:eps=1.0 changed nothing: all 192 slots are still there");
    assert!(error.hint().unwrap().contains("eps"));
}

#[test]
fn a_share_that_is_none_is_refused() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    for bad in [0.0, -0.5, 1.5, f64::NAN, f64::INFINITY] {
        let mut cache = RaggedCache::new(model.config(), Float::F32, compression("h2o", bad, &[]));
        let error = run(&model, &prompt, &mut cache, &greedy(4)).unwrap_err();
        assert!(matches!(error, RuntimeError::BadKeptFraction(_)), "{bad}: {error}");
    }
}

#[test]
fn a_head_that_cannot_meet_its_budget_is_named() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    // 48 tokens: 24 recent and 14 heavy ones, but 24 may stay.
    let spec = "kvmerger:recent=0.5,heavy=0.3";
    let mut cache = RaggedCache::new(model.config(), Float::F32, compression(spec, 0.5, &[]));
    let error = run(&model, &prompt, &mut cache, &greedy(4)).unwrap_err();
    let RuntimeError::Unmeetable { layer: 0, kv_head, budget_tokens: 24, n_tokens: 48, ref source } = error else {
        panic!("{error}")
    };
    assert_eq!(*source, MergeError::ProtectedExceedBudget { protected: 38, budget_tokens: 24 });
    assert_eq!(
        error.to_string(),
        format!(
            "layer 0, KV head {kv_head} cannot be compressed to 24 of 48 slots: \
             38 tokens are protected but only 24 may be kept"
        )
    );
    assert!(error.hint().unwrap().contains("heavy="));
}

#[test]
fn prompts_that_cannot_be_run_are_refused() {
    let model = model("llama-gqa");
    let max_positions = model.config().max_positions;
    assert_eq!(max_positions, 128);
    for chunk_tokens in [0, 50] {
        let options = GenerateOptions { chunk_tokens, ..greedy(4) };
        let refused = |prompt: &[u32]| {
            let mut cache = RaggedCache::new(model.config(), Float::F32, None);
            let error = run(&model, prompt, &mut cache, &options).unwrap_err();
            // The refusal comes before any work.
            assert_eq!(cache.n_seen(), 0, "{error}");
            error
        };
        let error = refused(&[1; 129]);
        assert!(matches!(&error, RuntimeError::Model(ModelError::TooLong { n_tokens: 129, max_positions: 128, .. })));
        assert_eq!(error.to_string(), "129 tokens exceed the model's context of 128");
        let error = refused(&[]);
        assert!(matches!(&error, RuntimeError::Model(ModelError::Empty)), "{error}");
        let error = refused(&[3, 96, 4]);
        assert!(matches!(&error, RuntimeError::Model(ModelError::BadToken { id: 96, vocab_size: 96 })), "{error}");
    }
}

#[test]
fn decode_stops_where_the_context_ends() {
    let model = model("llama-gqa");
    for (n_prompt, n_new) in [(128, 1), (127, 2), (100, 29)] {
        for spec in ["full", "h2o"] {
            let mut cache = RaggedCache::new(model.config(), Float::F32, compression(spec, 0.5, &[]));
            let found = run(&model, &vec![5; n_prompt], &mut cache, &greedy(60)).unwrap();
            assert_eq!((found.tokens.len(), found.stop), (n_new, StopReason::ContextFull), "{n_prompt}, {spec}");
        }
    }
    let mut cache = RaggedCache::new(model.config(), Float::F32, None);
    let found = run(&model, &[5; 100], &mut cache, &greedy(29)).unwrap();
    assert_eq!((found.tokens.len(), found.stop), (29, StopReason::MaxNewTokens));
}

#[test]
fn generation_ends_when_told_to() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let fresh = || RaggedCache::new(model.config(), Float::F32, None);
    let all = run(&model, &prompt, &mut fresh(), &greedy(20)).unwrap().tokens;
    let stop = all[10];
    let first = all.iter().position(|token| *token == stop).unwrap();
    let options = GenerateOptions { stop_tokens: vec![stop], ..greedy(20) };
    let found = run(&model, &prompt, &mut fresh(), &options).unwrap();
    assert_eq!((found.tokens.as_slice(), found.stop), (&all[..first], StopReason::StopToken));
    let mut left = 5;
    let found = generate(&model, &prompt, &mut fresh(), &greedy(20), &mut |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(StopReason::Interrupted) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!((found.tokens.as_slice(), found.stop), (&all[..5], StopReason::Interrupted));
    let found = run(&model, &prompt, &mut fresh(), &greedy(0)).unwrap();
    assert_eq!((found.tokens.len(), found.decode_steps), (0, 0));
    assert_eq!(found.decode_tokens_per_sec(), None);
}

#[test]
fn a_second_turn_goes_on_where_the_first_ended() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let (first, second) = prompt.split_at(30);
    let mut cache = RaggedCache::new(model.config(), Float::F32, None);
    let reply = run(&model, first, &mut cache, &greedy(10)).unwrap();
    assert_eq!((reply.decode_steps, cache.n_seen()), (9, 39));
    let next = [&reply.tokens[reply.decode_steps..], second].concat();
    let found = run(&model, &next, &mut cache, &greedy(20)).unwrap();
    let everything = [first, &reply.tokens, second].concat();
    let mut fresh = RaggedCache::new(model.config(), Float::F32, None);
    assert_eq!(found.tokens, run(&model, &everything, &mut fresh, &greedy(20)).unwrap().tokens);
    assert_eq!(cache.n_seen(), fresh.n_seen());
    // Compressed, the second turn's budget is of all tokens seen.
    for spec in budget_specs() {
        let mut cache = RaggedCache::new(model.config(), Float::F32, compression(&spec, 0.5, &[]));
        let turns = |cache: &mut RaggedCache| -> Result<Generation, RuntimeError> {
            let reply = run(&model, first, cache, &greedy(10))?;
            run(&model, &[&reply.tokens[reply.decode_steps..], second].concat(), cache, &greedy(20))
        };
        match turns(&mut cache) {
            Ok(found) => assert_eq!(found.prompt_kept_fraction, Some(0.5), "{spec}"),
            Err(RuntimeError::Unmeetable { .. }) => assert!(!spec.contains("bridge=true"), "{spec}"),
            Err(error) => panic!("{spec}: {error}"),
        }
        let counters = cache.counters();
        assert_eq!(counters.kept + counters.merged + counters.evicted, counters.seen, "{spec}");
    }
}

#[test]
fn sampling_is_reproducible_by_its_seed() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let sampled = |sampling: Sampling| {
        let mut cache = RaggedCache::new(model.config(), Float::F32, compression("h2o", 0.5, &[]));
        run(&model, &prompt, &mut cache, &GenerateOptions { sampling, ..greedy(40) }).unwrap().tokens
    };
    let greedy_tokens = sampled(Sampling::default());
    for (top_k, top_p) in [(None, None), (Some(20), None), (None, Some(0.95)), (Some(20), Some(0.95))] {
        let with = |seed: u64| Sampling { temperature: 1.5, top_k, top_p, seed, ..Sampling::default() };
        let first = sampled(with(1));
        assert_eq!(first, sampled(with(1)));
        let others: BTreeSet<Vec<u32>> = (2..6).map(|seed| sampled(with(seed))).collect();
        assert!(!others.contains(&first) && others.len() == 4, "{top_k:?} {top_p:?}: seeds do not matter");
        assert_ne!(first, greedy_tokens);
    }
    // One candidate leaves no choice.
    let hot = Sampling { temperature: 1.5, seed: 1, ..Sampling::default() };
    assert_eq!(sampled(Sampling { top_k: Some(1), ..hot }), greedy_tokens);
    assert_eq!(sampled(Sampling { min_p: Some(1.0), ..hot }), greedy_tokens);
    assert_eq!(sampled(Sampling { min_p: Some(0.0), repetition_penalty: Some(1.0), ..hot }), sampled(hot));
    // Tokens under a tenth of the likeliest one's probability are many in a model that was never trained.
    assert_ne!(sampled(Sampling { min_p: Some(0.1), ..hot }), sampled(hot));
    // A penalty beyond all bounds leaves nothing to say twice.
    let unrepeated = sampled(Sampling { repetition_penalty: Some(1e9), ..Sampling::default() });
    let distinct: BTreeSet<u32> = unrepeated.iter().copied().collect();
    assert_eq!(distinct.len(), 40, "{unrepeated:?}");
    assert!(prompt.iter().all(|token| !distinct.contains(token)));
    // What other programs mean by these: no choice, all tokens, refused.
    assert_eq!(sampled(Sampling { top_p: Some(0.0), ..hot }), greedy_tokens);
    assert_eq!(sampled(Sampling { top_k: Some(0), top_p: Some(1.0), ..hot }), sampled(hot));
    let faulty = GenerateOptions { sampling: Sampling { top_p: Some(1.5), ..hot }, ..greedy(4) };
    let mut cache = RaggedCache::new(model.config(), Float::F32, None);
    assert!(matches!(run(&model, &prompt, &mut cache, &faulty), Err(RuntimeError::Sampling { option: "top-p", .. })));
}

#[test]
fn a_number_that_a_cache_cannot_hold_is_placed() {
    let config = shape(2, 4, 2, 8);
    let fed = |kind: Float, at: usize, x: f32| {
        let mut cache = RaggedCache::new(&config, kind, compression("h2o", 0.5, &[]));
        let mut layer = Layer::new(&config, 12, 3);
        layer.v[at] = x;
        feed(&mut cache, &config, &layer)
    };
    // Token 0 has the values of KV head 0 in numbers 0 to 7, of KV head 1 in 8 to 15.
    let overflow = fed(Float::F16, 9, 7e4).unwrap_err();
    assert!(
        matches!(overflow, RuntimeError::Overflow { state: State::Value, layer: 0, kv_head: 1, kind: Float::F16, .. }),
        "{overflow}"
    );
    assert!(overflow.hint().unwrap().contains("--cache-dtype"));
    assert!(fed(Float::F16, 9, 65_504.0).is_ok() && fed(Float::Bf16, 9, 7e4).is_ok());
    assert!(matches!(fed(Float::Bf16, 0, f32::MAX), Err(RuntimeError::Overflow { kv_head: 0, .. })));
    for kind in Float::ALL {
        for x in [f32::NAN, f32::INFINITY] {
            let error = fed(kind, 3, x).unwrap_err();
            assert!(matches!(error, RuntimeError::NotFinite { state: State::Value, layer: 0, kv_head: 0 }), "{error}");
        }
    }
}

const DEMO_SPECS: [&str; 11] = [
    "evict",
    "h2o",
    "kvmerger:kernel=attention,variant=mass",
    "kvmerger:kernel=key-fixed,variant=convex",
    "kvmerger:variant=convex",
    "kvmerger:variant=log-count",
    "kvmerger:variant=mass",
    "kvmerger:variant=paper",
    "random",
    "snapkv",
    "streaming",
];

/// The demo model and 1,500 tokens of the built-in texts.
fn demo_prompt() -> &'static (Model, Vec<u32>) {
    static LOADED: OnceLock<(Model, Vec<u32>)> = OnceLock::new();
    LOADED.get_or_init(|| {
        let model = Model::load(&demo_model()).unwrap();
        let text: Vec<String> = demo().into_iter().take(4).map(|prompt| prompt.text).collect();
        let mut tokens = model.tokenizer().unwrap().encode(&text.join("\n\n"), AddSpecial::Yes).unwrap();
        assert!(tokens.len() > 1500);
        tokens.truncate(1500);
        (model, tokens)
    })
}

#[test]
#[ignore = "needs the demo model: kvscope pull smollm2-135m"]
fn demo_model_with_a_budget_of_everything_generates_the_same() {
    let (model, prompt) = demo_prompt();
    let mut full = RaggedCache::new(model.config(), Float::F32, None);
    let options = GenerateOptions { chunk_tokens: 512, ..greedy(32) };
    let expected = run(model, prompt, &mut full, &options).unwrap();
    for entry in POLICIES.iter().filter(|entry| !entry.needs_weights()) {
        let mut cache = RaggedCache::new(model.config(), Float::F32, compression(entry.name, 1.0, &[]));
        assert_eq!(run(model, prompt, &mut cache, &options).unwrap().tokens, expected.tokens, "{}", entry.name);
    }
}

#[test]
#[ignore = "needs the demo model: kvscope pull smollm2-135m"]
fn demo_model_stores_the_kept_fraction_of_its_full_cache() {
    let (model, prompt) = demo_prompt();
    let n_heads = model.config().n_layers * model.config().n_kv_heads;
    for (kind, kept_fraction, tolerance) in [(Float::F32, 0.35, 0.02), (Float::F16, 0.5, 0.05)] {
        let mut full = RaggedCache::new(model.config(), kind, None);
        let full_bytes = run(model, prompt, &mut full, &greedy(1)).unwrap().prompt_cache_bytes as f64;
        // A prompt of this length takes seconds: half precision is tried on merging only.
        for spec in DEMO_SPECS.into_iter().filter(|spec| kind == Float::F32 || spec.contains("variant")) {
            let merges = spec.starts_with("kvmerger");
            let mut cache = RaggedCache::new(model.config(), kind, compression(spec, kept_fraction, &[]));
            let found = run(model, prompt, &mut cache, &greedy(8)).unwrap();
            let off = found.prompt_cache_bytes as f64 / (kept_fraction * full_bytes) - 1.0;
            println!("{spec:28} {kind:?} {kept_fraction}: {:+.2} %", 100.0 * off);
            assert!(off.abs() <= tolerance, "{spec}, {kind:?}, {kept_fraction}: {off:+.4}");
            let counters = cache.counters();
            let n_new = 7 * n_heads;
            assert_eq!(counters.seen, prompt.len() * n_heads + n_new, "{spec}");
            let kept = (kept_fraction * (prompt.len() * n_heads) as f64).round() as usize;
            assert_eq!(counters.kept, kept + n_new, "{spec}");
            assert_eq!(counters.kept + counters.merged + counters.evicted, counters.seen, "{spec}");
            assert_eq!(counters.merged > 0, merges, "{spec}");
        }
    }
}
