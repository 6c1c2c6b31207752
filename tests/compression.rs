//! When a cache is compressed: once after a prefill that many compressions share, between the parts of a prompt, in decode.

mod common;

use common::Reference;
use common::contents;
use common::fixture;
use common::fixtures;
use kvscope::model::LogitRows;
use kvscope::model::Model;
use kvscope::policy::POLICIES;
use kvscope::runtime::Budget;
use kvscope::runtime::CacheType;
use kvscope::runtime::Compression;
use kvscope::runtime::RaggedCache;
use kvscope::runtime::RuntimeError;
use kvscope::runtime::prefill;

const TYPES: [CacheType; 3] = [CacheType::F32, CacheType::F16, CacheType::Bf16];

fn prompt_of(name: &str) -> Vec<u32> {
    Reference::read(&fixtures().join(name).join("reference.safetensors")).ids("token_ids").to_vec()
}

fn compression(spec: &str, kept_fraction: f64) -> Compression {
    Compression::parse(spec, Budget::KeptFraction(kept_fraction)).unwrap_or_else(|error| panic!("{spec}: {error}"))
}

/// Logits after each of some further tokens.
fn decode(model: &Model, cache: &mut RaggedCache, tokens: &[u32]) -> Vec<Vec<f32>> {
    let step = |token: &u32| model.forward(&[*token], cache.n_seen(), cache, LogitRows::Last).unwrap();
    tokens.iter().map(step).collect()
}

#[test]
fn one_prefill_serves_every_compression() {
    let (model, prompt) = (fixture("llama-gqa"), prompt_of("llama-gqa"));
    let (prompt, continuation) = prompt.split_at(40);
    let names = POLICIES.iter().map(|entry| entry.name);
    let specs: Vec<&str> = names.chain(["kvmerger:variant=mass,bridge=true", "evict:eps=0.3"]).collect();
    for kind in TYPES {
        for chunk_tokens in [0, 7] {
            let wanted: Vec<Compression> =
                specs.iter().flat_map(|spec| [0.5, 0.77].map(|kept| compression(spec, kept))).collect();
            let mut whole = RaggedCache::recording(model.config(), kind, &wanted).unwrap();
            let logits = prefill(&model, prompt, &mut whole, chunk_tokens).unwrap();
            for compression in &wanted {
                for decode_slack in [None, Some(3)] {
                    let compression = Compression { decode_slack, ..compression.clone() };
                    let what = format!("{}, {:?}, {kind:?}", compression.name, compression.budget);
                    let mut copy = whole.compressed(&compression).unwrap_or_else(|error| panic!("{what}: {error}"));
                    let mut direct = RaggedCache::new(model.config(), kind, Some(compression));
                    assert_eq!(prefill(&model, prompt, &mut direct, chunk_tokens).unwrap(), logits, "{what}");
                    assert_eq!(contents(&copy, model.config()), contents(&direct, model.config()), "{what}");
                    assert_eq!((copy.counters(), copy.bytes()), (direct.counters(), direct.bytes()), "{what}");
                    let expected = decode(&model, &mut direct, continuation);
                    assert_eq!(decode(&model, &mut copy, continuation), expected, "{what}");
                    assert_eq!(copy.bytes(), direct.bytes(), "{what}");
                }
            }
            // The recording itself stays whole.
            assert_eq!(whole.n_slots(), 40 * model.config().n_layers * model.config().n_kv_heads);
        }
    }
}

#[test]
fn what_was_not_recorded_is_refused() {
    let (model, prompt) = (fixture("llama-gqa"), prompt_of("llama-gqa"));
    let record = |specs: &[&str]| {
        let wanted: Vec<Compression> = specs.iter().map(|spec| compression(spec, 0.5)).collect();
        RaggedCache::recording(model.config(), CacheType::F32, &wanted)
    };
    assert!(matches!(record(&["snapkv", "h2o", "snapkv:window=8"]), Err(RuntimeError::DifferentWindows(32, 8))));
    let mut whole = record(&["streaming", "snapkv"]).unwrap();
    prefill(&model, &prompt, &mut whole, 0).unwrap();
    let refused = |cache: &RaggedCache, compression: &Compression| {
        let error = cache.compressed(compression).unwrap_err();
        assert!(matches!(error, RuntimeError::NotRecorded { .. }) && error.hint().is_some(), "{error}");
    };
    refused(&whole, &compression("h2o", 0.5));
    refused(&whole, &compression("snapkv:window=8", 0.5));
    refused(&whole, &Compression { every_tokens: Some(16), ..compression("streaming", 0.5) });
    refused(&whole.compressed(&compression("streaming", 0.5)).unwrap(), &compression("streaming", 0.2));
    let whole_again = whole.compressed(&compression("snapkv", 0.5)).unwrap();
    assert_eq!(whole_again.kept_fraction(), Some(0.5));
    // Tokens behind the prompt were attended to by nobody that was recorded.
    decode(&model, &mut whole, &[5]);
    refused(&whole, &compression("snapkv", 0.5));
}
