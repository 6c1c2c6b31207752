//! Captures that are cut short, split, chunked or damaged, with real processes on a tiny model.

mod kit {
    pub mod cli;
    pub mod files;
    pub mod json;
    pub mod tiny;
}

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kit::cli::{command, done, ends, kvscope};
use kit::files::contents;
use kit::json;
use kit::tiny::{MODEL, texts, write_prompts};
use kvscope::format::dump::{Dump, State};
use kvscope::hint::Hint;
use serde_json::Value;

const SAMPLES: usize = 6;

fn capture_args<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["capture", "--model", MODEL, "--prompts", "prompts.jsonl", "--max-tokens", "100", "--out", out];
    args.extend(more);
    args
}

fn capture(dir: &Path, out: &str, more: &[&str]) {
    done(kvscope(dir, &capture_args(out, more)));
}

fn same_content(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    assert!(a.len() > 1);
    for (name, bytes) in &a {
        assert!(bytes == &b[name], "{name} differs");
    }
}

/// Starts a capture and waits until the manifest names `n_samples` finished samples, or the child has ended.
fn start_until(dir: &Path, out: &str, n_samples: usize) -> Child {
    let args = capture_args(out, &["--threads", "1"]);
    let mut child = command(dir, &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let manifest = dir.join(out).join("manifest.json");
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read(&manifest).unwrap_or_default();
        let found = serde_json::from_slice::<Value>(&text).ok();
        if found.is_some_and(|m| m["samples"].as_array().unwrap().len() >= n_samples) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the capture hangs");
        std::thread::sleep(Duration::from_micros(200));
    }
    child
}

#[test]
fn a_killed_capture_resumes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(60));
    capture(dir, "whole", &["--threads", "1"]);
    let mut cut_short = 0;
    for (moment, n_samples) in [0, 1, 17, 40, 55].into_iter().enumerate() {
        let out = format!("killed{moment}");
        let mut child = start_until(dir, &out, n_samples);
        child.kill().unwrap();
        child.wait().unwrap();
        let left = Dump::open(&dir.join(&out)).unwrap();
        cut_short += usize::from(!left.manifest().is_complete());
        done(kvscope(dir, &["verify", &out]));
        capture(dir, &out, &["--threads", "1", "--resume"]);
        same_content(&dir.join("whole"), &dir.join(&out));
    }
    assert!(cut_short >= 3, "only {cut_short} of 5 captures were killed in time");
}

#[test]
fn a_kill_inside_a_sample_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(SAMPLES));
    capture(dir, "whole", &[]);
    capture(dir, "cut", &[]);
    // As a kill leaves it between two writes: half a sample under its temporary name, a finished one unlisted.
    let path = dir.join("cut/manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let samples = manifest["samples"].as_array_mut().unwrap();
    let last = samples.pop().unwrap()["file"].as_str().unwrap().to_string();
    let half = &std::fs::read(dir.join("cut").join(&last)).unwrap()[..1000];
    std::fs::write(dir.join("cut").join(format!(".{last}.tmp")), half).unwrap();
    std::fs::write(dir.join("cut/.00099-gone.safetensors.tmp"), half).unwrap();
    std::fs::write(dir.join("cut/.manifest.json.tmp"), "{").unwrap();
    std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    ends(&kvscope(dir, &capture_args("cut", &[])), 2, &["holds a dump already", "--resume"]);
    capture(dir, "cut", &["--resume"]);
    same_content(&dir.join("whole"), &dir.join("cut"));
    ends(&kvscope(dir, &capture_args("cut", &["--resume", "--queries", "3"])), 2, &["another set of options"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_a_valid_dump_and_a_command_that_resumes_it() {
    let dir = tempfile::tempdir().unwrap();
    // A name that a shell would take apart.
    let dir = dir.path().join("it's $HOME here");
    std::fs::create_dir(&dir).unwrap();
    write_prompts(&dir, &texts(60));
    capture(&dir, "whole", &["--threads", "1"]);
    let child = start_until(&dir, "a dump", 2);
    done(Command::new("kill").args(["-INT", &child.id().to_string()]).output().unwrap());
    let output = child.wait_with_output().unwrap();
    ends(&output, 2, &["interrupted after", "of 60 samples", "--resume"]);
    let dump = Dump::open(&dir.join("a dump")).unwrap();
    assert!(!dump.manifest().is_complete());
    assert!(!contents(dump.dir()).keys().any(|name| name.starts_with('.')));
    done(kvscope(&dir, &["verify", "a dump"]));
    let message = String::from_utf8_lossy(&output.stderr);
    let hint = message.lines().find(|line| line.contains("--resume")).unwrap();
    done(Command::new("sh").args(["-c", hint]).current_dir(&dir).output().unwrap());
    same_content(&dir.join("whole"), &dir.join("a dump"));
}

#[test]
fn joined_shards_are_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(7));
    capture(dir, "whole", &[]);
    for (shard, out) in [("1/3", "a"), ("2/3", "b"), ("3/3", "c")] {
        capture(dir, out, &["--shard", shard]);
        done(kvscope(dir, &["verify", out]));
    }
    assert_eq!(done(kvscope(dir, &["join", "c", "a", "b", "--out", "new/one"])), "new/one\n");
    same_content(&dir.join("whole"), &dir.join("new/one"));
    done(kvscope(dir, &["verify", "new/one"]));

    ends(&kvscope(dir, &["join", "a", "b", "c", "--out", "new/one"]), 2, &["new/one exists already"]);
    ends(&kvscope(dir, &["join", "a", "c", "--out", "x"]), 2, &["shard 2 of 3 is missing", "--shard 2/3"]);
    ends(&kvscope(dir, &["join", "a", "b", "c", "b", "--out", "x"]), 2, &["are both shard 2"]);
    ends(&kvscope(dir, &["join", "a", "whole", "--out", "x"]), 2, &["whole is not a shard"]);
    capture(dir, "other", &["--shard", "2/3", "--queries", "5"]);
    ends(&kvscope(dir, &["join", "a", "other", "c", "--out", "x"]), 2, &["another set of options than a"]);
    capture(dir, "other-count", &["--shard", "2/4"]);
    ends(&kvscope(dir, &["join", "a", "other-count", "c", "--out", "x"]), 2, &["another number of shards"]);
    let changed = |key: &str, value: Value| {
        let path = dir.join("b/manifest.json");
        let good = std::fs::read(&path).unwrap();
        let mut manifest: Value = serde_json::from_slice(&good).unwrap();
        *manifest.pointer_mut(key).unwrap() = value;
        std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
        let output = kvscope(dir, &["join", "a", "b", "c", "--out", "x"]);
        std::fs::write(&path, good).unwrap();
        output
    };
    ends(&changed("/model/fingerprint", "f".into()), 2, &["another model than a"]);
    ends(&changed("/samples/0/sha256", "0".repeat(64).into()), 2, &["SHA-256", "000000000000"]);
    ends(&changed("/samples", Value::Array(vec![])), 2, &["b has 0 of the 2 samples"]);
    ends(&changed("/samples/0/index", 2.into()), 2, &["sample 2 does not belong to the shard"]);
    assert!(!dir.join("x").exists() && !dir.join(".x.join.tmp").exists());
}

/// The largest difference, over the largest value.
fn relative(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let most = a.iter().fold(1e-6f32, |most, x| most.max(x.abs()));
    a.iter().zip(b).fold(0f32, |worst, (x, y)| worst.max((x - y).abs())) / most
}

#[test]
fn chunks_give_what_one_pass_gives() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(SAMPLES));
    capture(dir, "one", &["--dtype", "f32"]);
    capture(dir, "chunks", &["--dtype", "f32", "--chunk", "7"]);
    done(kvscope(dir, &["verify", "one", "chunks"]));
    let (one, chunks) = (Dump::open(&dir.join("one")).unwrap(), Dump::open(&dir.join("chunks")).unwrap());
    let mut worst = 0f32;
    for i in 0..SAMPLES {
        let (a, b) = (one.sample(i).unwrap(), chunks.sample(i).unwrap());
        assert!(a.entry().n_tokens > 14, "a chunk of 7 is to be one of several");
        assert_eq!(a.token_ids().unwrap(), b.token_ids().unwrap());
        for layer in 0..2 {
            assert_eq!(a.query_positions(layer).unwrap(), b.query_positions(layer).unwrap());
            for state in [State::K, State::V, State::KPreRope, State::Q] {
                for head in 0..if state == State::Q { 4 } else { 2 } {
                    let vectors = |s: &kvscope::format::dump::Sample<'_>| s.vectors(layer, state, head).unwrap();
                    worst = worst.max(relative(vectors(&a).flat(), vectors(&b).flat()));
                }
            }
            for head in 0..2 {
                worst = worst.max(relative(&a.mass(layer, head).unwrap(), &b.mass(layer, head).unwrap()));
                let window = |s: &kvscope::format::dump::Sample<'_>| s.mass_window(layer, head).unwrap();
                worst = worst.max(relative(&window(&a), &window(&b)));
            }
        }
    }
    assert!(worst < 1e-3, "{worst}");
}

#[test]
fn generated_tokens_are_captured_after_the_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(SAMPLES));
    capture(dir, "prompt", &["--dtype", "f32"]);
    capture(dir, "decode", &["--dtype", "f32", "--decode", "5"]);
    done(kvscope(dir, &["verify", "prompt", "decode"]));
    let (prompt, decode) = (Dump::open(&dir.join("prompt")).unwrap(), Dump::open(&dir.join("decode")).unwrap());
    for i in 0..SAMPLES {
        let (a, b) = (prompt.sample(i).unwrap(), decode.sample(i).unwrap());
        let n = a.entry().n_tokens;
        assert_eq!((b.entry().n_tokens, b.entry().n_prompt_tokens), (n + 5, n));
        assert_eq!(a.token_ids().unwrap(), b.token_ids().unwrap()[..n]);
        for (layer, state, head) in [(0, State::K, 0), (1, State::K, 1), (1, State::V, 0), (1, State::KPreRope, 1)] {
            let (a, b) = (a.vectors(layer, state, head).unwrap(), b.vectors(layer, state, head).unwrap());
            let (a, b) = (a.rows(), b.rows());
            assert_eq!((a.len(), b.len(), a.width()), (n, n + 5, 8));
            assert!(a == b.part(0..n), "sample {i}, layer {layer}, {state:?}");
        }
    }
}

#[test]
fn chosen_heads_are_those_of_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(SAMPLES));
    capture(dir, "whole", &["--queries", "all"]);
    capture(dir, "part", &["--heads", "1", "--layers", "last", "--queries", "all"]);
    done(kvscope(dir, &["verify", "whole", "part"]));
    let (whole, part) = (Dump::open(&dir.join("whole")).unwrap(), Dump::open(&dir.join("part")).unwrap());
    assert_eq!((&part.manifest().kv_heads, &part.manifest().layers), (&Some(vec![1]), &vec![1]));
    assert_eq!(whole.manifest().kv_heads, None);
    for i in 0..SAMPLES {
        let (a, b) = (whole.sample(i).unwrap(), part.sample(i).unwrap());
        assert!(b.entry().bytes < a.entry().bytes / 3);
        assert_eq!(b.query_positions(1).unwrap(), (0..a.entry().n_tokens).collect::<Vec<_>>());
        for (state, heads) in [(State::K, 1..2), (State::V, 1..2), (State::KPreRope, 1..2), (State::Q, 2..4)] {
            for head in heads {
                assert_eq!(a.vectors(1, state, head).unwrap(), b.vectors(1, state, head).unwrap(), "{state:?} {head}");
            }
        }
        assert_eq!(a.mass(1, 1).unwrap(), b.mass(1, 1).unwrap());
        assert_eq!(a.mass_window(1, 1).unwrap(), b.mass_window(1, 1).unwrap());
        for (state, head) in [(State::K, 0), (State::Q, 1), (State::Q, 4)] {
            let error = b.vectors(1, state, head).unwrap_err();
            assert!(error.to_string().contains("no head") && error.hint().is_some(), "{error}");
        }
    }
    let facts = done(kvscope(dir, &["--json", "inspect", "part"]));
    assert_eq!(serde_json::from_str::<Value>(&facts).unwrap()["kv_heads"], Value::from(1));

    let table = done(kvscope(dir, &["analyze", "part", "--out", "reports/part", "--maps", "1:1"]));
    assert!(table.contains("1 of 2 layers, 1 of 2 KV heads"), "{table}");
    done(kvscope(dir, &["report", "reports/part"]));
    done(kvscope(dir, &["verify", "reports/part"]));
    ends(&kvscope(dir, &["analyze", "part", "--out", "x", "--maps", "1:0"]), 2, &["KV heads [1] were captured"]);
    capture(dir, "other", &["--heads", "0", "--layers", "last", "--seed", "1"]);
    ends(
        &kvscope(dir, &["analyze", "part", "other", "--out", "x"]),
        2,
        &["other holds KV heads [0]", "part holds [1]"],
    );
    capture(dir, "all-layers", &["--heads", "1"]);
    ends(&kvscope(dir, &["tune", "all-layers", "--budget", "0.5"]), 2, &["1 of a layer's 2 KV heads", "--heads all"]);
    ends(&kvscope(dir, &capture_args("part", &["--layers", "last", "--resume"])), 2, &["another set of options"]);
    ends(&kvscope(dir, &capture_args("x", &["--heads", "2"])), 2, &["names no KV head"]);
}

#[test]
fn too_low_a_memory_limit_is_refused_with_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(SAMPLES));
    let output = kvscope(dir, &capture_args("dump", &["--memory-limit", "1kB"]));
    ends(&output, 2, &["tokens need", "MB of memory", "weights", "the limit is 1 MB", "raise --memory-limit to"]);
    assert!(output.stdout.is_empty());
    assert!(!dir.join("dump").exists());
    capture(dir, "dump", &["--memory-limit", "2GB"]);
}

/// Where a tensor's data lies in a safetensors file.
fn data_of(file: &[u8], tensor: &str) -> usize {
    let n = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + n]).unwrap();
    8 + n + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize
}

#[test]
fn verify_finds_what_was_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(SAMPLES));
    capture(dir, "dump", &["--dtype", "f32"]);
    assert_eq!(done(kvscope(dir, &["verify", "dump"])), "1 checked, no fault\n");
    let manifest_path = dir.join("dump/manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(&manifest_path).unwrap()).unwrap();
    let name = manifest["samples"][1]["file"].as_str().unwrap();
    let path = dir.join("dump").join(name);
    let good = std::fs::read(&path).unwrap();
    let finds = |words: &[&str]| ends(&kvscope(dir, &["verify", "dump"]), 1, &[words, &[name]].concat());
    // Writes the bytes and their own digest, so that only the content is wrong.
    let write = |bytes: &[u8]| {
        let mut manifest = manifest.clone();
        manifest["samples"][1]["sha256"] = kvscope::files::sha256_bytes(bytes).into();
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(&manifest_path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    };

    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    assert_eq!(finds(&["SHA-256"]).lines().count(), 1);

    let put = |tensor: &str, index: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[data_of(&good, tensor) + index * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
        write(&file);
    };
    put("layers.1.k", 19, &f32::NAN.to_le_bytes());
    assert_eq!(finds(&["layers.1.k has NaN in row 2 of head 0"]).lines().count(), 1);
    put("layers.0.attn_mass", 0, &3000f32.to_le_bytes());
    finds(&["layers.0.attn_mass of head 0 sums to", "group x queries"]);
    put("layers.0.attn_mass_window", 1, &(-0.25f32).to_le_bytes());
    finds(&["layers.0.attn_mass_window has -0.25 at token 1"]);
    put("layers.0.q_positions", 0, &50i64.to_le_bytes());
    finds(&["layers.0.q_positions do not rise"]);
    put("token_ids", 0, &(-1i64).to_le_bytes());
    finds(&["token id -1"]);
    write(&good);
    assert_eq!(done(kvscope(dir, &["verify", "dump"])), "1 checked, no fault\n");
    std::fs::write(&path, &good[..good.len() - 4]).unwrap();
    finds(&["the manifest says"]);
    let json = kvscope(dir, &["--json", "verify", "dump"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["schema"], json["faults"].as_array().unwrap().len()), (&"kvscope.verify/1".into(), 1));
    std::fs::remove_file(&path).unwrap();
    finds(&["cannot open"]);
    ends(&kvscope(dir, &["verify", "nothing"]), 2, &["nothing does not exist"]);
}

#[test]
fn verify_knows_profiles_and_analyses() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(SAMPLES));
    capture(dir, "dumps/run", &[]);
    done(kvscope(dir, &["analyze", "dumps/run", "--out", "reports/run", "--maps", "0:1"]));
    let tuned: Value =
        serde_json::from_str(&done(kvscope(dir, &["--json", "tune", "dumps/run", "--budget", "0.6"]))).unwrap();
    let profile = PathBuf::from(tuned["profiles"][0]["profile"].as_str().unwrap());
    let analysis = "reports/run/analysis.json";
    done(kvscope(dir, &["verify", "dumps/run", profile.to_str().unwrap(), analysis]));
    for (path, key, value, word) in [
        (profile.as_path(), "/heads/1/kept_fraction", Value::from(1.5), "kept_fraction 1.5 of layer 0 head 1"),
        (profile.as_path(), "/heads/0/eps", Value::from(-2.0), "eps -2"),
        (Path::new(analysis), "/reference_eps", Value::from(999), "threshold number 999"),
        (Path::new(analysis), "/datasets/0/similarity/0/histogram/0", Value::from(77), "in the histogram"),
        (Path::new(analysis), "/maps/0/file", Value::from("../x"), "the map ../x: its name leads out"),
    ] {
        let good = std::fs::read(dir.join(path)).unwrap();
        json::edit(&dir.join(path), |document| *document.pointer_mut(key).unwrap() = value);
        ends(&kvscope(dir, &["verify", path.to_str().unwrap()]), 1, &[word]);
        std::fs::write(dir.join(path), good).unwrap();
    }
}
