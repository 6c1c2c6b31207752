//! Layers with a sliding window: what a cache holds of them, what a policy may keep, and every command on such a model.

mod kit {
    pub mod cli;
    pub mod fixtures;
    pub mod model;
    pub mod tokens;
}

use std::path::Path;

use kit::cli::{done, ends, kvscope};
use kit::fixtures::fixture;
use kit::model::model;
use kit::tokens::reference_tokens;
use kvscope::math::Float;
use kvscope::model::{KvStore, LogitRows, Model, Pass};
use kvscope::policy::{POLICIES, SlotExtras, SlotLayout};
use kvscope::runtime::{Budget, Compression, RaggedCache, prefill};
use serde_json::{Value, json};

/// Seven layers, of which all but the sixth have a window of 12; one KV head.
const MODEL: &str = "gemma3";
const WINDOW: usize = 12;
const N_LAYERS: usize = 7;
/// Tokens of the prompt.
const N: usize = 48;
/// Slots of the whole cache after the prompt.
const FULL: usize = 6 * WINDOW + N;

fn is_full(layer: usize) -> bool {
    layer == 5
}

fn after_prompt(model: &Model, compression: Option<Compression>, chunk_tokens: usize) -> RaggedCache {
    let mut cache = RaggedCache::new(model.config(), Float::F32, compression);
    prefill(&mut Pass::new(model), &reference_tokens(MODEL), &mut cache, chunk_tokens).unwrap();
    cache
}

/// Slots of each layer's head, all within its window.
fn slots(cache: &RaggedCache) -> Vec<usize> {
    let first = |layer: usize| if is_full(layer) { 0 } else { cache.n_seen() - WINDOW };
    let of_layer = |layer: usize| {
        let positions = cache.heads(layer)[0].positions.to_vec();
        positions.iter().filter(|position| **position as usize >= first(layer)).count()
    };
    (0..N_LAYERS).map(of_layer).collect()
}

#[test]
fn a_whole_cache_holds_the_windows_and_no_more() {
    let model = model(MODEL);
    for chunk_tokens in [0, 7, 1] {
        let mut cache = after_prompt(&model, None, chunk_tokens);
        for n_new in 0..40 {
            let (n_seen, n_slots) = (N + n_new, FULL + n_new);
            assert_eq!(
                slots(&cache),
                (0..N_LAYERS).map(|l| if is_full(l) { n_seen } else { WINDOW }).collect::<Vec<_>>()
            );
            let layout = SlotLayout { element: Float::F32, head_dim: 12, extras: SlotExtras::default() };
            assert_eq!((cache.n_slots(), cache.full_bytes()), (n_slots, (n_slots * layout.bytes()) as u64));
            // Room to grow: two slots a head.
            assert!(cache.bytes() <= ((n_slots + 3 * N_LAYERS) * layout.bytes()) as u64, "{}", cache.bytes());
            assert_eq!(cache.kept_fraction(), Some(1.0));
            let counters = cache.counters();
            assert_eq!((counters.seen, counters.kept, counters.merged, counters.evicted), (n_slots, n_slots, 0, 0));
            model.forward(&[5], n_seen, &mut cache, LogitRows::Last).unwrap();
        }
    }
}

#[test]
fn budgets_are_shares_of_what_the_whole_cache_holds() {
    let model = model(MODEL);
    let looks_back = |name: &str| Compression::parse(name, Budget::KeptFraction(0.5)).unwrap().policy.needs().replay();
    for entry in POLICIES.iter().filter(|entry| !entry.needs_weights() && entry.name != "full") {
        for share in [0.25, 0.5, 0.8] {
            let compression = Compression::parse(entry.name, Budget::KeptFraction(share)).unwrap();
            if looks_back(entry.name) {
                let mut cache = RaggedCache::new(model.config(), Float::F32, Some(compression));
                let error = prefill(&mut Pass::new(&model), &reference_tokens(MODEL), &mut cache, 0).unwrap_err();
                assert!(error.to_string().contains("layer 0 sees 12 tokens"), "{}: {error}", entry.name);
                continue;
            }
            let cache = after_prompt(&model, Some(compression.clone()), 0);
            let (kept, what) = (slots(&cache), format!("{} at {share}", entry.name));
            let wanted = (share * FULL as f64).round() as usize;
            assert_eq!(cache.n_slots(), kept.iter().sum::<usize>(), "{what}");
            assert_eq!(cache.n_slots(), wanted, "{what}: {kept:?}");
            let counters = cache.counters();
            assert_eq!((counters.seen, counters.kept), (FULL, wanted), "{what}");
            assert_eq!(counters.merged + counters.evicted, FULL - wanted, "{what}");
            // A recording cache gives the same.
            let mut whole = RaggedCache::recording(model.config(), Float::F32, [&compression]).unwrap();
            prefill(&mut Pass::new(&model), &reference_tokens(MODEL), &mut whole, 9).unwrap();
            assert_eq!(slots(&whole.compressed(&compression).unwrap()), kept, "{what}");
        }
    }
}

#[test]
fn heads_of_both_kinds_keep_to_budgets_in_decode() {
    let model = model(MODEL);
    for (budget, limits) in [
        (Budget::Tokens(20), [WINDOW, 20]),
        (Budget::Tokens(6), [6, 6]),
        (Budget::PerHead([0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.5].into()), [6, 22]),
    ] {
        let compression = Compression { decode_slack: Some(2), ..Compression::parse("h2o", budget).unwrap() };
        let mut cache = after_prompt(&model, Some(compression), 0);
        for step in 0..40 {
            let kept = slots(&cache);
            let limit = |layer: usize| limits[usize::from(is_full(layer))] + if step == 0 { 0 } else { 2 };
            assert!((0..N_LAYERS).all(|layer| kept[layer] <= limit(layer)), "step {step}: {kept:?}");
            assert!(kept.iter().all(|kept| *kept >= 6), "step {step}: {kept:?}");
            let counters = cache.counters();
            assert_eq!(counters.kept + counters.merged + counters.evicted, counters.seen);
            model.forward(&[step], N + step as usize, &mut cache, LogitRows::Last).unwrap();
        }
    }
}

#[test]
fn bytes_hold_whole_windows_where_there_is_room() {
    let model = model(MODEL);
    let layout = SlotLayout { element: Float::F32, head_dim: 12, extras: SlotExtras::default() };
    // Room for 30 slots in the full layer and whole windows in the others.
    let bytes = ((30 + 6 * (WINDOW + 1)) * (layout.bytes() + 8)) as u64 * 256 / 255 + 256;
    let compression = Compression::parse("h2o", Budget::KeptFraction(0.5)).unwrap();
    let mut cache = after_prompt(&model, Some(compression.within_bytes(bytes, model.config(), Float::F32).unwrap()), 0);
    assert!(slots(&cache)[5] >= 27 && slots(&cache)[0] == WINDOW, "{:?}", slots(&cache));
    for step in 0..60 {
        assert!(cache.bytes() <= bytes, "step {step}: {} of {bytes}", cache.bytes());
        model.forward(&[step], N + step as usize, &mut cache, LogitRows::Last).unwrap();
    }
}

/// A text of about 90 tokens.
fn text(seed: usize) -> String {
    const WORDS: [&str; 6] = ["the ring", " and then", " in a stone", " on the shore", " another thing", " reeds"];
    (0..14).map(|i| WORDS[(i * seed + i / 3) % WORDS.len()]).collect()
}

fn told(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&done(kvscope(dir, &[&["--json"], args].concat()))).unwrap()
}

#[test]
fn every_command_counts_windows_by_layer() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = fixture("gemma3-f32.gguf");
    let model = model.to_str().unwrap();
    let rows: Vec<String> =
        (0..6).map(|i| json!({ "context": text(i + 2), "dataset": "d", "_id": format!("{i}") }).to_string()).collect();
    std::fs::write(dir.join("prompts.jsonl"), rows.join("\n")).unwrap();
    let all = ["--window", "8", "--queries", "all", "--out", "dump"];
    done(kvscope(dir, &[&["capture", "--model", model, "--prompts", "prompts.jsonl"][..], &all].concat()));
    let seen = told(dir, &["inspect", "dump"]);
    assert_eq!(seen["model"]["windows"], "all tokens in 1 of 7 layers, 12 tokens in 6 of 7 layers");
    done(kvscope(dir, &["analyze", "dump", "--maps", "0:0,5:0", "--out", "analysis"]));
    let analysis: Value = serde_json::from_slice(&std::fs::read(dir.join("analysis/analysis.json")).unwrap()).unwrap();
    let n_tokens = analysis["datasets"][0]["n_tokens"].as_u64().unwrap() / 6;
    for map in analysis["maps"].as_array().unwrap() {
        let windowed = map["layer"] == 0;
        assert_eq!(map["n_tokens"].as_u64().unwrap(), if windowed { 12 } else { map["n_tokens"].as_u64().unwrap() });
        assert!(windowed || map["n_tokens"].as_u64().unwrap() > n_tokens / 2);
        assert_eq!(map.get("first_token").is_some(), windowed);
    }
    let tune = ["tune", "dump", "--budget", "0.5", "--late", "6", "--out", "profiles"];
    done(kvscope(dir, &tune));
    let profile = std::fs::read_dir(dir.join("profiles")).unwrap().next().unwrap().unwrap().path();
    let profile = profile.to_str().unwrap();
    let document: Value = serde_json::from_slice(&std::fs::read(profile).unwrap()).unwrap();
    let share = |layer: usize| document["heads"][layer]["kept_fraction"].as_f64().unwrap();
    let windowed: f64 = (0..N_LAYERS).filter(|layer| !is_full(*layer)).map(share).sum();
    assert!((windowed / 6.0 - 0.5).abs() < 1e-3 && (share(5) - 0.5).abs() < 1e-3, "{windowed} {}", share(5));
    done(kvscope(dir, &["verify", "dump", "analysis", profile]));
    done(kvscope(dir, &["tune", "dump", "--budget", "0.5", "--late", "6", "--model", model, "--out", "chosen"]));

    std::fs::write(dir.join("prompt.txt"), text(2)).unwrap();
    done(kvscope(dir, &["capture", "--model", model, "--prompts", "prompt.txt", "--window", "8", "--out", "one"]));
    for how in [&["--policy", "h2o", "--kept-fraction", "0.5"][..], &["--profile", profile]] {
        let fixed = ["generate", "--model", model, "--prompt-file", "prompt.txt", "--max-new-tokens", "1"];
        let run = told(dir, &[&fixed[..], how].concat());
        for layer in 0..N_LAYERS {
            let (number, fixed) = (layer.to_string(), ["show", "one", "--layer"]);
            let shown = told(dir, &[&fixed[..], &[&number], how].concat());
            let tokens = shown["tokens"].as_array().unwrap();
            let passed = tokens.iter().filter(|token| token["fate"] == "passed").count();
            assert_eq!(passed, if is_full(layer) { 0 } else { tokens.len() - WINDOW });
            for key in ["seen", "kept", "merged", "evicted"] {
                assert_eq!(
                    shown["counters"][key], run["counters_by_layer"][layer][key],
                    "{how:?}, layer {layer}: {key}"
                );
            }
        }
        assert!((run["kept_fraction"].as_f64().unwrap() - 0.5).abs() < 0.02, "{}", run["kept_fraction"]);
    }
    let longer = ["generate", "--model", model, "--prompt-file", "prompt.txt", "--policy", "kvzip"];
    ends(&kvscope(dir, &longer), 2, &["sees 12 tokens", "looks at no repetition"]);
    let eval = ["eval", "--model", model, "--prompts", "prompts.jsonl", "--policy", "h2o", "--profile", profile];
    done(kvscope(
        dir,
        &[&eval[..], &["--budget", "0.5", "--context", "40", "--continuation", "8", "--out", "evaluation"]].concat(),
    ));
    done(kvscope(dir, &["verify", "evaluation"]));
    done(kvscope(dir, &["report", "analysis", "--out", "page"]));
    let page = std::fs::read_to_string(dir.join("analysis/report.html")).unwrap();
    assert!(page.contains("6 of 7 layers have windows shorter than a text here"));
    done(kvscope(dir, &["report", "evaluation", "--out", "page2"]));
}
