//! What becomes of a captured text's tokens, as `kvscope show` tells it, against what `generate` and `analyze` count.

mod kit {
    pub mod cli;
    pub mod tiny;
}

use std::path::Path;

use kit::cli::{done, ends, kvscope};
use kit::tiny::{MODEL, texts, words, write_prompts};
use serde_json::Value;

/// Layers and KV heads of the model.
const HEADS: [usize; 2] = [2, 2];

fn shown(dir: &Path, layer: usize, head: usize, more: &[&str]) -> Value {
    let (layer, head) = (layer.to_string(), head.to_string());
    let fixed = ["--json", "show", "dumps/run", "--layer", &layer, "--head", &head];
    serde_json::from_str(&done(kvscope(dir, &[&fixed[..], more].concat()))).unwrap()
}

#[test]
fn every_token_is_told_of_as_generating_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text = words(3, 20);
    std::fs::write(dir.join("prompt.txt"), &text).unwrap();
    let prompt = ["--prompts", "prompt.txt", "--window", "8", "--queries", "all"];
    done(kvscope(dir, &[&["capture", "--model", MODEL, "--out", "dumps/run"][..], &prompt].concat()));
    write_prompts(dir, &texts(6));
    done(kvscope(dir, &["capture", "--model", MODEL, "--prompts", "prompts.jsonl", "--out", "dumps/more"]));
    done(kvscope(dir, &["tune", "dumps/more", "--budget", "0.6", "--out", "profiles"]));
    let profile = std::fs::read_dir(dir.join("profiles")).unwrap().next().unwrap().unwrap().path();
    let profile = profile.to_str().unwrap();
    for [show, generate] in [
        [&["--eps", "0.3"][..], &["--policy", "kvmerger:eps=0.3"][..]],
        [&["--policy", "kvmerger:bridge=true", "--kept-fraction", "0.35"][..]; 2],
        [&["--policy", "h2o"][..]; 2],
        [&["--policy", "snapkv:window=8", "--kept-fraction", "0.35"][..]; 2],
        [&["--policy", "adakv:window=8"][..]; 2],
        [&["--policy", "expected", "--kept-fraction", "0.35"][..]; 2],
        [&["--profile", profile][..]; 2],
        [&["--profile", profile, "--kept-fraction", "0.5"][..]; 2],
    ] {
        let fixed = ["--json", "generate", "--model", MODEL, "--prompt-file", "prompt.txt", "--max-new-tokens", "1"];
        let run: Value = serde_json::from_str(&done(kvscope(dir, &[&fixed[..], generate].concat()))).unwrap();
        for layer in 0..HEADS[0] {
            let heads: Vec<Value> = (0..HEADS[1]).map(|head| shown(dir, layer, head, show)).collect();
            for key in ["seen", "kept", "merged", "evicted"] {
                let sum: u64 = heads.iter().map(|head| head["counters"][key].as_u64().unwrap()).sum();
                assert_eq!(sum, run["counters_by_layer"][layer][key], "{generate:?}, layer {layer}: {key}");
            }
            for head in &heads {
                let tokens = head["tokens"].as_array().unwrap();
                let whole: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
                assert!(whole.ends_with(&text), "{whole:?}");
                let gone = tokens.iter().filter(|token| token["fate"] == "evicted").count();
                assert_eq!(head["counters"]["evicted"], gone);
            }
        }
    }
}

#[test]
fn sets_are_those_of_the_analysis() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("prompt.txt"), words(5, 20)).unwrap();
    done(kvscope(dir, &["capture", "--model", MODEL, "--prompts", "prompt.txt", "--out", "dumps/run"]));
    done(kvscope(dir, &["analyze", "dumps/run"]));
    let text = std::fs::read_to_string(dir.join("reports/run/analysis.json")).unwrap();
    let analysis: Value = serde_json::from_str(&text).unwrap();
    let grid = analysis["eps_grid"].as_array().unwrap();
    let sparsity = &analysis["datasets"][0]["sparsity"];
    assert_eq!((sparsity.as_array().unwrap().len(), grid.len() > 5), (HEADS[0] * HEADS[1], true));
    for (at, eps) in grid.iter().enumerate().step_by(grid.len() / 5) {
        for (place, head) in sparsity.as_array().unwrap().iter().enumerate() {
            let (layer, kv_head) = (place / HEADS[1], place % HEADS[1]);
            let found = shown(dir, layer, kv_head, &["--eps", &eps.to_string()]);
            let kept = found["counters"]["kept"].as_f64().unwrap() / found["counters"]["seen"].as_f64().unwrap();
            let expected = head["kept_fraction"][at].as_f64().unwrap();
            assert!((kept - expected).abs() < 1e-9, "{eps}, layer {layer}, head {kv_head}: {kept} {expected}");
        }
    }
}

#[test]
fn hostile_text_stays_text_and_lines_fit() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text = format!("{} \u{1b}[2J <script> \u{202e} عربي 🦀\n{}", words(3, 3), words(4, 6));
    std::fs::write(dir.join("prompt.txt"), text).unwrap();
    done(kvscope(dir, &["capture", "--model", MODEL, "--prompts", "prompt.txt", "--out", "dumps/run"]));
    let show = |more: &[&str]| kvscope(dir, &[&["show", "dumps/run", "--layer", "1"][..], more].concat());
    let plain = done(show(&["--eps", "0.5", "--color", "never"]));
    assert!(plain.contains("↵\n") && plain.contains("tokens in"), "{plain}");
    assert!(plain.lines().all(|line| line.chars().count() <= 100), "{plain}");
    let coloured = String::from_utf8(show(&["--eps", "0.5", "--color", "always"]).stdout).unwrap();
    assert!(coloured.contains("\u{1b}[") && !coloured.contains("\u{1b}[2J") && !coloured.contains('\u{202e}'));
    // A dump of another program may lack what turns queries.
    let manifest = dir.join("dumps/run/manifest.json");
    let whole = std::fs::read_to_string(&manifest).unwrap();
    let mut without: Value = serde_json::from_str(&whole).unwrap();
    without["model"]["rope_frequencies"] = serde_json::json!([]);
    std::fs::write(&manifest, without.to_string()).unwrap();
    ends(&show(&["--policy", "expected"]), 2, &["rotary frequencies"]);
    std::fs::write(&manifest, whole).unwrap();
    for (more, words) in [
        (&["--eps", "0.5", "--head", "7"][..], &["--head 7", "0 to 1"][..]),
        (&["--eps", "0.5", "--sample", "9"], &["no sample", "prompt/"]),
        (&["--policy", "kvzip"], &["repetition"]),
        (&["--policy", "matching:from=replay"], &["repetition"]),
        (&["--policy", "snapkv:window=7"], &["the last 7 queries", "window=32"]),
        (&["--policy", "kvmerger:recent=0.5,heavy=0.4", "--kept-fraction", "0.1"], &["cannot keep", "more slots"]),
        (&[], &["--eps"]),
    ] {
        ends(&show(more), 2, words);
    }
}
