//! Weights that are learned, and the policy that predicts by them.

mod kit {
    pub mod cli;
    pub mod fixtures;
    pub mod model;
    pub mod slots;
    pub mod tiny;
    pub mod tokens;
    pub mod weights;
}

use std::path::Path;

use kit::cli::{done, ends, kvscope};
use kit::fixtures::fixture;
use kit::model::model;
use kit::slots::contents;
use kit::tiny::{MODEL, texts, write_prompts};
use kit::tokens::reference_tokens;
use kit::weights::kvzap;
use kvscope::hint::Hint;
use kvscope::math::Float;
use kvscope::model::{LogitRows, Model, Pass};
use kvscope::policy::SlotLayout;
use kvscope::runtime::{Budget, Compression, RaggedCache, RuntimeError, prefill};
use serde_json::Value;

fn compression(spec: &str, kept_fraction: f64) -> Compression {
    Compression::parse(spec, Budget::KeptFraction(kept_fraction)).unwrap_or_else(|error| panic!("{spec}: {error}"))
}

/// Passes tokens one by one behind what a cache has seen.
fn decode(model: &Model, cache: &mut RaggedCache, tokens: &[u32]) -> Result<Vec<Vec<f32>>, RuntimeError> {
    let step = |token: &u32| Ok(model.forward(&[*token], cache.n_seen(), cache, LogitRows::Last)?);
    tokens.iter().map(step).collect()
}

#[test]
fn one_prefill_serves_several_weights() {
    let (model, tokens) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let (prompt, continuation) = tokens.split_at(40);
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = [0, 3].map(|shift| kvzap(&dir.path().join(format!("{shift}.safetensors")), &model, shift));
    let specs = [
        format!("{one},window=4"),
        format!("{other},window=4"),
        format!("{one},window=4,tau=-2"),
        format!("{one},window=4,allocation=equal+refit:recent=3"),
        format!("{one},window=0,fold=nearest"),
    ];
    for kind in Float::ALL {
        for chunk_tokens in [0, 7] {
            let wanted: Vec<Compression> = specs.iter().map(|spec| compression(spec, 0.4)).collect();
            let mut whole = RaggedCache::recording(model.config(), kind, &wanted).unwrap();
            prefill(&mut Pass::new(&model), prompt, &mut whole, chunk_tokens).unwrap();
            for compression in &wanted {
                for decode_slack in [None, Some(3)] {
                    let compression = Compression { decode_slack, ..compression.clone() };
                    let what = format!("{}, {kind:?}, {decode_slack:?}", compression.name);
                    let mut copy = whole.compressed(&compression).unwrap_or_else(|error| panic!("{what}: {error}"));
                    let extras = compression.policy.slot_extras();
                    let layout = SlotLayout { element: kind, head_dim: model.config().head_dim, extras };
                    let mut direct = RaggedCache::new(model.config(), kind, Some(compression));
                    prefill(&mut Pass::new(&model), prompt, &mut direct, chunk_tokens).unwrap();
                    assert_eq!(contents(&copy, model.config()), contents(&direct, model.config()), "{what}");
                    assert_eq!((copy.counters(), copy.bytes()), (direct.counters(), direct.bytes()), "{what}");
                    if decode_slack.is_none() && !what.contains("nearest") {
                        assert_eq!(copy.bytes(), (copy.n_slots() * layout.bytes()) as u64, "{what}");
                    }
                    let expected = decode(&model, &mut direct, continuation).unwrap();
                    assert_eq!(decode(&model, &mut copy, continuation).unwrap(), expected, "{what}");
                    assert_eq!(contents(&copy, model.config()), contents(&direct, model.config()), "{what}");
                }
            }
            // Two files of weights keep different tokens.
            let kept = |at: usize| contents(&whole.compressed(&wanted[at]).unwrap(), model.config());
            assert_ne!(kept(0), kept(1));
        }
    }
}

#[test]
fn tokens_behind_a_prompt_are_predicted_where_they_may_go() {
    let (model, tokens) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("{},window=2", kvzap(&dir.path().join("weights.safetensors"), &model, 0));
    let n_heads = model.config().n_layers * model.config().n_kv_heads;
    // In parts, in decode, and at a second prompt behind it.
    let limited = Compression { every_tokens: Some(10), decode_slack: Some(3), ..compression(&spec, 0.3) };
    let mut cache = RaggedCache::new(model.config(), Float::F32, Some(limited));
    for prompt in [&tokens[..30], &tokens[30..40]] {
        prefill(&mut Pass::new(&model), prompt, &mut cache, 0).unwrap();
        decode(&model, &mut cache, &tokens[40..48]).unwrap();
        let most = (0.3 * cache.n_seen() as f64).ceil() as usize + 3;
        assert!(cache.n_slots() <= n_heads * most, "{} slots of {} tokens", cache.n_slots(), cache.n_seen());
        let counters = cache.counters();
        assert_eq!((counters.kept + counters.evicted, counters.merged), (counters.seen, 0));
    }
    // The same tokens, whole, are worth the same.
    let mut whole = RaggedCache::new(model.config(), Float::F32, Some(compression(&spec, 1.0)));
    prefill(&mut Pass::new(&model), &tokens, &mut whole, 0).unwrap();
    assert!(!whole.counters().did_something());
    // What nobody asked to predict is not known.
    let mut other = RaggedCache::recording(model.config(), Float::F32, &[compression("streaming", 0.5)]).unwrap();
    prefill(&mut Pass::new(&model), &tokens, &mut other, 0).unwrap();
    let error = other.compressed(&compression(&spec, 0.5)).unwrap_err();
    assert!(matches!(error, RuntimeError::NotRecorded { .. }), "{error}");
}

#[test]
fn the_newest_stay_and_a_threshold_ignores_the_budget() {
    let (model, tokens) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let dir = tempfile::tempdir().unwrap();
    let weights = kvzap(&dir.path().join("weights.safetensors"), &model, 0);
    let kept = |more: &str, kept_fraction: f64| -> Vec<Vec<u32>> {
        let compression = compression(&format!("{weights},{more}"), kept_fraction);
        let mut cache = RaggedCache::new(model.config(), Float::F32, Some(compression));
        prefill(&mut Pass::new(&model), &tokens[..40], &mut cache, 0).unwrap();
        contents(&cache, model.config()).into_iter().map(|head| head.0).collect()
    };
    // Of 10 slots a head, 5 are the newest tokens'; the heads share the other ones.
    let shared = kept("window=128", 0.25);
    assert!(shared.iter().all(|head| head.ends_with(&[35, 36, 37, 38, 39])), "{shared:?}");
    assert_eq!(shared.iter().map(Vec::len).sum::<usize>(), 10 * shared.len());
    assert!(shared.iter().any(|head| head.len() != 10), "{shared:?}");
    assert_eq!(kept("window=6,tau=-2", 0.25), kept("window=6,tau=-2", 0.9));
    // What nothing reaches, the window survives.
    assert!(kept("window=6,tau=99", 0.5).iter().all(|head| *head == [34, 35, 36, 37, 38, 39]));
}

/// A folder with prompts and a dump of them.
fn captured() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_prompts(dir.path(), &texts(6));
    let capture = "capture --prompts prompts.jsonl --max-tokens 50 --queries 8 --out dump --model";
    done(kvscope(dir.path(), &[&words(capture)[..], &[MODEL]].concat()));
    dir
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_is_learned_is_used() {
    let dir = captured();
    let run = |line: &str| kvscope(dir.path(), &[&words(line)[..], &["--model", MODEL]].concat());
    let told = json(&done(run("learn dump --out a.safetensors --json")));
    assert_eq!((&told["calibration_samples"], &told["held_out_samples"]), (&4.into(), &2.into()));
    for r2 in [&told["r2_by_layer"], &told["r2_by_head"]] {
        assert!(r2.as_array().unwrap().iter().all(|r2| r2.as_f64().unwrap() <= 1.0), "{told}");
    }
    // Equal inputs give equal bytes, whatever the name.
    assert!(done(run("learn dump")).starts_with("reports/dump/llama-gqa.scorer.safetensors\n"));
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(read("a.safetensors") == read("reports/dump/llama-gqa.scorer.safetensors"));
    let sha256 = told["sha256"].as_str().unwrap();
    let about = |args: &[&str]| done(kvscope(dir.path(), args));
    assert_eq!(json(&about(&["inspect", "a.safetensors", "--json"]))["sha256"], sha256);
    assert_eq!(json(&about(&["verify", "a.safetensors", "reports/dump", "--json"]))["checked"], 2);

    let folder = dir.path().display();
    let spec = format!("kvzap:window=4,weights={folder}/a.safetensors");
    let generate = "generate --raw --prompt-file prompt.txt --max-new-tokens 4 --decode-slack 2 --kept-fraction 0.4 --json --policy";
    std::fs::write(dir.path().join("prompt.txt"), kit::tiny::words(3, 14)).unwrap();
    let generated = json(&done(run(&format!("{generate} {spec}"))));
    // The file by its name and digest, and not where it stands.
    assert_eq!(generated["policy"], "kvzap:window=4,weights=a.safetensors");
    assert_eq!(generated["params"]["weights"], serde_json::json!({ "name": "a.safetensors", "sha256": sha256 }));
    let eval = "eval --prompts prompts.jsonl --context 40 --continuation 8 --budget 0.4 --json --out eval --policy";
    let evaluated = json(&done(run(&format!("{eval} {spec} --policy {spec},tau=5 --policy {spec}+refit"))));
    let text = evaluated.to_string();
    assert!(!text.contains(&folder.to_string()) && text.contains(sha256));
    assert_eq!(evaluated["rows"], 6 * 4);
    // Other weights of the same name go on with another run only; two of one name are told apart by nothing.
    std::fs::create_dir(dir.path().join("b")).unwrap();
    done(run("learn dump --hold-out 0 --seed 3 --out b/a.safetensors"));
    let other = spec.replace("/a.safetensors", "/b/a.safetensors");
    ends(&run(&format!("{eval} {spec} --policy {other}")), 2, &["names of their own"]);
    ends(
        &run(&format!("{eval} {other} --policy {other},tau=5 --policy {other}+refit --resume")),
        2,
        &["another set of policies"],
    );
}

/// Other bytes in place of a file's own, for a while.
fn with_bytes(path: &Path, bytes: &[u8], check: impl FnOnce()) {
    let good = std::fs::read(path).unwrap();
    std::fs::write(path, bytes).unwrap();
    check();
    std::fs::write(path, good).unwrap();
}

#[test]
fn weights_that_cannot_be_used_are_refused() {
    let dir = captured();
    let path = dir.path().join("weights.safetensors");
    kvzap(&path, &model("llama-gqa"), 0);
    let generate = |policy: &str, more: &[&str]| {
        let fixed = words("generate --raw --prompt the --max-new-tokens 2 --policy");
        kvscope(dir.path(), &[&fixed[..], &[policy, "--model", MODEL], more].concat())
    };
    let refused = |policy: &str, says: &[&str]| {
        ends(&generate(policy, &[]), 2, says);
    };
    refused("kvzap", &["none are named", "kvscope learn DUMP --model NAME", "kvzap:weights=FILE"]);
    refused("kvzap:weights=nowhere.safetensors", &["nowhere.safetensors", "No such file"]);
    refused("kvzap:weights=prompts.jsonl", &["prompts.jsonl", "not a valid scorer"]);
    let weights = fixture("llama-gqa").join("model.safetensors");
    refused(&format!("kvzap:weights={}", weights.display()), &["no schema id", "kvscope.scorer"]);
    let spec = "kvzap:weights=weights.safetensors";
    refused(&format!("{spec},tau=-1,allocation=layer"), &["decides sizes itself"]);
    ends(&generate(&format!("{spec},tau=-1"), &["--kept-fraction", "0.5"]), 2, &["by a threshold", "tau="]);
    let tune = kvscope(dir.path(), &["tune", "dump", "--policy", &format!("{spec},allocation=equal")]);
    ends(&tune, 2, &["cannot be tuned", "a dump does not hold"]);

    let good = std::fs::read(&path).unwrap();
    let edited = |from: &str, to: &str| {
        let mut places = good.windows(from.len());
        let at = places.position(|bytes| bytes == from.as_bytes()).unwrap_or_else(|| panic!("{from} is not there"));
        assert_eq!(from.len(), to.len());
        [&good[..at], to.as_bytes(), &good[at + to.len()..]].concat()
    };
    let fingerprint = model("llama-gqa").identity().unwrap().fingerprint.clone();
    let n = good.len();
    let mut nan = good.clone();
    nan[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    for (bytes, says) in [
        (edited(&fingerprint, &"0".repeat(64)), "were learned for"),
        (nan, "layers.1.bias has NaN"),
        (good[..n - 8].to_vec(), "not a valid scorer"),
        (edited("kvscope.scorer/1", "kvscope.scorer/2"), "version 2"),
        (edited("layers.0.bias", "layers.9.bias"), "no tensor layers.0.bias"),
        (edited(r#"\"n_kv_heads\":2"#, r#"\"n_kv_heads\":3"#), "expected F32 of [3,"),
        (edited(r#"\"n_layers\":2"#, r#"\"n_layers\":9"#), "for 9 layers"),
        (edited(r#"\"lambda\":0.01"#, r#"\"lambda\":-9.0"#), "lambda"),
        (Vec::new(), "not a valid scorer"),
    ] {
        with_bytes(&path, &bytes, || {
            refused(spec, &[says]);
            if says != "were learned for" {
                ends(&kvscope(dir.path(), &["verify", "weights.safetensors"]), 1, &[says]);
            }
        });
    }
    // A library's cache is held to it, too.
    let other = model("llama-mha");
    let compression = compression(&format!("kvzap:weights={}", path.display()), 0.5);
    let mut cache = RaggedCache::new(other.config(), Float::F32, Some(compression));
    let error = prefill(&mut Pass::new(&other), &[1, 2, 3], &mut cache, 0).unwrap_err();
    assert!(error.hint().unwrap().contains("kvscope learn") && cache.n_seen() == 0, "{error}");
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let dir = captured();
    let learn = |model: &str, more: &str| {
        let fixed = ["learn", "dump", "--model", model];
        kvscope(dir.path(), &[&fixed[..], &words(more)].concat())
    };
    let other = fixture("llama-mha");
    ends(&learn(&other.display().to_string(), "--seed 1"), 2, &["the dumps are of llama-gqa", "that was captured"]);
    ends(&learn(MODEL, "--out prompts.jsonl"), 2, &["is there already"]);
    ends(&learn(MODEL, "--hold-out 1"), 2, &["no sample to learn from"]);
    // The toy model's context does not hold a long prompt and what asks for its repetition.
    let capture = words("capture --prompts prompts.jsonl --out long --model");
    write_prompts(dir.path(), &[serde_json::json!({ "context": kit::tiny::words(3, 20), "_id": "a" })]);
    done(kvscope(dir.path(), &[&capture[..], &[MODEL]].concat()));
    let long = kvscope(dir.path(), &["learn", "long", "--model", MODEL]);
    ends(&long, 2, &["repeating the prompt", "--max-tokens"]);
}
