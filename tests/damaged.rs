//! A table of damaged inputs of every kind, each with the words that its error must have.
//!
//! Every row is one run of the program: it ends with 2 (1 for what `verify` finds), one clear line and a hint, never with a panic, a line
//! without end, a control character or half a result.

mod kit {
    pub mod cli;
    pub mod fixtures;
    pub mod tiny;
}

use std::path::{Path, PathBuf};
use std::process::Output;

use kit::cli::{done, fault, kvscope};
use kit::fixtures::fixture;
use kit::tiny::{MODEL, texts, write_prompts};
use serde_json::{Value, json};

/// Good bytes into damaged ones.
type Damage = dyn Fn(Vec<u8>) -> Vec<u8>;

/// Good inputs in a folder: a model as folder and as GGUF, prompts, a dump, a report with profile and map, an evaluation.
struct Good(tempfile::TempDir);

impl Good {
    fn new() -> Self {
        let good = Self(tempfile::tempdir().unwrap());
        let model = good.path("model");
        std::fs::create_dir(&model).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(Path::new(MODEL).join(name), model.join(name)).unwrap();
        }
        std::fs::copy(fixture("llama-gqa-f32.gguf"), good.path("model.gguf")).unwrap();
        write_prompts(good.0.path(), &texts(3));
        for args in [
            "capture --model model --prompts prompts.jsonl --max-tokens 60 --out dump",
            "analyze dump --maps 0:0 --out report",
            "tune dump --budget 0.6 --policy h2o --policy kvmerger --out report",
            "eval --model model --prompts prompts.jsonl --context 30 --continuation 6 --policy h2o --budget 0.5 --out eval",
        ] {
            done(good.run(args));
        }
        good
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &str) -> Output {
        kvscope(self.0.path(), &args.split(' ').collect::<Vec<_>>())
    }

    /// Runs a command while a file has other bytes.
    fn with(&self, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>, args: &str) -> Output {
        let path = self.path(file);
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, change(good.clone())).unwrap();
        let output = self.run(args);
        std::fs::write(&path, good).unwrap();
        output
    }

    fn profile(&self) -> String {
        let is_profile = |path: &PathBuf| path.to_string_lossy().ends_with(".profile.json");
        let mut entries = std::fs::read_dir(self.path("report")).unwrap().map(|entry| entry.unwrap().path());
        let path = entries.find(is_profile).unwrap();
        format!("report/{}", path.file_name().unwrap().to_string_lossy())
    }
}

/// The rows that went wrong, and how many there were.
#[derive(Default)]
struct Table {
    n_rows: usize,
    faults: Vec<String>,
}

impl Table {
    fn row(&mut self, name: &str, output: &Output, code: i32, words: &[&str]) {
        self.n_rows += 1;
        self.faults.extend(fault(output, code, words).map(|fault| format!("{name}: {fault}")));
    }
}

/// A JSON document with one value changed; `null` under a key that ends with `-` takes the key away.
fn edited(text: &[u8], pointer: &str, value: Value) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(text).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer} leads nowhere"));
    match parent {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        _ => match key.strip_suffix('-') {
            Some(key) => drop(parent.as_object_mut().unwrap().remove(key)),
            None => parent[key] = value,
        },
    }
    serde_json::to_vec(&document).unwrap()
}

#[test]
fn damaged_inputs_are_refused_in_clear_words() {
    let good = Good::new();
    let mut table = Table::default();
    configurations(&good, &mut table);
    weights(&good, &mut table);
    ggufs(&good, &mut table);
    tokenizers(&good, &mut table);
    prompts(&good, &mut table);
    manifests(&good, &mut table);
    samples(&good, &mut table);
    results(&good, &mut table);
    assert!(table.faults.is_empty(), "{} of {} rows:\n{}", table.faults.len(), table.n_rows, table.faults.join("\n"));
    assert!(table.n_rows >= 100, "{} rows", table.n_rows);
}

const USE_MODEL: &str = "generate --model model --raw --prompt the --max-new-tokens 2";
const USE_GGUF: &str = "generate --model model.gguf --raw --prompt the --max-new-tokens 2";

fn configurations(good: &Good, table: &mut Table) {
    let rows: &[(&str, Value, &str)] = &[
        ("/architectures", json!(["MambaForCausalLM"]), "MambaForCausalLM"),
        ("/architectures-", json!(null), "architecture"),
        ("/hidden_size", json!("32"), "hidden_size"),
        ("/hidden_size", json!(0), "hidden_size"),
        ("/num_hidden_layers", json!(-1), "num_hidden_layers"),
        ("/num_hidden_layers", json!(3), "layers.2"),
        ("/num_attention_heads", json!(3), "heads"),
        ("/num_key_value_heads", json!(2.5), "num_key_value_heads"),
        ("/rms_norm_eps", json!("1e-5"), "rms_norm_eps"),
        ("/rms_norm_eps", json!(-1.0), "rms_norm_eps"),
        ("/vocab_size", json!(97), "embed_tokens"),
        ("/intermediate_size", json!(7), "mlp"),
        ("/hidden_act", json!("gelu"), "hidden_act"),
        ("/rope_scaling", json!({"rope_type": "su", "factor": 4.0}), "\"su\""),
        ("/rope_scaling", json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": 0.5}), "beta_fast"),
        ("/rope_scaling", json!({"rope_type": "linear", "factor": 0.0}), "factor"),
        ("/rope_scaling", json!("linear"), "rope_scaling"),
        ("/rope_theta", json!("10000"), "rope_theta"),
        ("/head_dim", json!(7), "head_dim"),
        ("/quantization_config", json!({"quant_method": "gptq", "bits": 4}), "gptq"),
        ("/tie_word_embeddings", json!("yes"), "tie_word_embeddings"),
    ];
    for (pointer, value, word) in rows {
        // Where a newer key stands beside an older one, the damaged one must be the one that counts.
        let change = |text: Vec<u8>| {
            let text =
                if pointer.starts_with("/rope") { edited(&text, "/rope_parameters-", json!(null)) } else { text };
            edited(&text, pointer, value.clone())
        };
        let output = good.with("model/config.json", change, USE_MODEL);
        table.row(&format!("config {pointer} = {value}"), &output, 2, &[word]);
    }
    for (name, text) in
        [("empty", &b""[..]), ("cut", b"{\"architectures\": ["), ("a list", b"[]"), ("not UTF-8", b"\xff\xfe")]
    {
        let output = good.with("model/config.json", |_| text.to_vec(), USE_MODEL);
        table.row(&format!("config {name}"), &output, 2, &["config.json"]);
    }
}

fn weights(good: &Good, table: &mut Table) {
    let header = |text: &[u8]| -> (Value, Vec<u8>) {
        let n = u64::from_le_bytes(text[..8].try_into().unwrap()) as usize;
        (serde_json::from_slice(&text[8..8 + n]).unwrap(), text[8 + n..].to_vec())
    };
    let joined = |header: &Value, data: &[u8]| {
        let text = header.to_string().into_bytes();
        [&(text.len() as u64).to_le_bytes(), &text[..], data].concat()
    };
    let with_header = |change: &dyn Fn(&mut Value)| {
        good.with(
            "model/model.safetensors",
            |text| {
                let (mut head, data) = header(&text);
                change(&mut head);
                joined(&head, &data)
            },
            USE_MODEL,
        )
    };
    let norm = "model.norm.weight";
    let rename = |head: &mut Value, from: &str, to: &str| {
        let entry = head.as_object_mut().unwrap().remove(from).unwrap();
        head[to] = entry;
    };
    table.row("weights without a tensor", &with_header(&|head| rename(head, norm, "x")), 2, &[norm]);
    table.row(
        "weights of another type",
        &with_header(&|head| head[norm]["dtype"] = "F8_E4M3".into()),
        2,
        &["model.safetensors"],
    );
    table.row("weights of another shape", &with_header(&|head| head[norm]["shape"] = json!([2, 16])), 2, &[norm]);
    table.row(
        "weights with an offset beyond the end",
        &with_header(&|head| head[norm]["data_offsets"][1] = json!(1u64 << 40)),
        2,
        &["model.safetensors"],
    );
    let cut: &[(&str, &Damage)] = &[
        ("weights empty", &|_| Vec::new()),
        ("weights cut", &|text| text[..text.len() / 2].to_vec()),
        ("weights with bytes behind", &|text| [text, vec![0; 8]].concat()),
        ("weights with a header of 2^60", &|text| [&(1u64 << 60).to_le_bytes(), &text[8..]].concat()),
        ("weights as a page", &|_| b"<!DOCTYPE html><html>404</html>".to_vec()),
        ("weights as a pointer", &|_| {
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n".to_vec()
        }),
    ];
    for (name, change) in cut {
        table.row(name, &good.with("model/model.safetensors", change, USE_MODEL), 2, &["model.safetensors"]);
    }
    let nan = |text: Vec<u8>| {
        let (head, mut data) = header(&text);
        let at = head[norm]["data_offsets"][0].as_u64().unwrap() as usize;
        data[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        joined(&head, &data)
    };
    table.row("weights with NaN", &good.with("model/model.safetensors", nan, USE_MODEL), 2, &["NaN"]);
}

fn ggufs(good: &Good, table: &mut Table) {
    let put = |at: usize, bytes: &'static [u8]| {
        move |mut text: Vec<u8>| {
            text[at..at + bytes.len()].copy_from_slice(bytes);
            text
        }
    };
    // After the magic: version, number of tensors, number of keys.
    let far = &(1u64 << 60).to_le_bytes()[..];
    let far: &'static [u8] = Box::leak(far.to_vec().into_boxed_slice());
    let rows: [(&str, Box<Damage>); 12] = [
        ("empty", Box::new(|_| Vec::new())),
        ("of four bytes", Box::new(|text| text[..4].to_vec())),
        ("with another magic", Box::new(put(0, b"GGML"))),
        ("of version 1", Box::new(put(4, b"\x01\0\0\0"))),
        ("of version 99", Box::new(put(4, b"\x63\0\0\0"))),
        ("of big endian", Box::new(put(4, b"\0\0\0\x03"))),
        ("of 2^60 tensors", Box::new(put(8, far))),
        ("of 2^60 keys", Box::new(put(16, far))),
        ("with a key of 2^60 letters", Box::new(put(24, far))),
        ("cut in the keys", Box::new(|text| text[..400].to_vec())),
        ("cut in the weights", Box::new(|text| text[..text.len() - 4000].to_vec())),
        ("zero behind the head", Box::new(|text| [text[..24].to_vec(), vec![0; 1000]].concat())),
    ];
    for (name, change) in &rows {
        table.row(&format!("GGUF {name}"), &good.with("model.gguf", change, USE_GGUF), 2, &["model.gguf"]);
    }
    // A length or type inside: the first letter of a key's name tells where it stands.
    let key = |name: &'static str, skip: usize, bytes: &'static [u8]| {
        move |mut text: Vec<u8>| {
            let at = text.windows(name.len()).position(|part| part == name.as_bytes()).expect(name) + name.len() + skip;
            text[at..at + bytes.len()].copy_from_slice(bytes);
            text
        }
    };
    let rows: [(&str, Box<Damage>, &str); 6] = [
        ("of no layers", Box::new(key("llama.block_count", 4, b"\0\0\0\0")), "block_count"),
        ("of 2^32 - 1 layers", Box::new(key("llama.block_count", 4, b"\xff\xff\xff\xff")), "block_count"),
        ("with a setting of another kind", Box::new(key("llama.block_count", 0, b"\x06\0\0\0")), "block_count"),
        ("with a kind that is not known", Box::new(key("llama.block_count", 0, b"\x63\0\0\0")), "model.gguf"),
        ("with an epsilon that is none", Box::new(key("layer_norm_rms_epsilon", 4, b"\0\0\xc0\x7f")), "epsilon"),
        ("of another architecture", Box::new(key("general.architecture", 12, b"mamba")), "mamba"),
    ];
    for (name, change, word) in &rows {
        table.row(&format!("GGUF {name}"), &good.with("model.gguf", change, USE_GGUF), 2, &[word]);
    }
}

fn tokenizers(good: &Good, table: &mut Table) {
    let rows: &[(&str, &[u8])] = &[
        ("empty", b""),
        ("cut", b"{\"version\": \"1.0\", \"model\": {"),
        ("a list", b"[]"),
        ("of an unknown kind", b"{\"version\": \"1.0\", \"model\": {\"type\": \"X\", \"vocab\": {}}}"),
        ("100,000 deep", &[b'['; 100_000]),
        ("not UTF-8", b"\xff\xfe{}"),
    ];
    for (name, text) in rows {
        let output = good.with("model/tokenizer.json", |_| text.to_vec(), USE_MODEL);
        table.row(&format!("tokenizer {name}"), &output, 2, &["tokenizer.json"]);
    }
    let far = |text: Vec<u8>| {
        let mut document: Value = serde_json::from_slice(&text).unwrap();
        document["model"]["vocab"]["zzz"] = json!(4_000_000_000u64);
        serde_json::to_vec(&document).unwrap()
    };
    let frame = |text: Vec<u8>| {
        let mut document: Value = serde_json::from_slice(&text).unwrap();
        let pieces = vec![json!({ "SpecialToken": { "id": "x", "type_id": 0 } }); 2000];
        document["post_processor"] = json!({
            "type": "TemplateProcessing", "single": pieces, "pair": [],
            "special_tokens": { "x": { "id": "x", "ids": vec![1; 1000], "tokens": vec!["a"; 1000] } },
        });
        serde_json::to_vec(&document).unwrap()
    };
    let framed = good.with("model/tokenizer.json", frame, USE_MODEL);
    table.row("tokenizer with a frame of 2e6 ids", &framed, 2, &["2000000 tokens around a text"]);
    table.row("tokenizer with an id of 4e9", &good.with("model/tokenizer.json", far, USE_MODEL), 2, &["4000000000"]);
    for (name, template, word) in [
        ("unfinished", "{% for m in messages %}", "template"),
        ("with an unknown function", "{{ nothing() }}", "nothing"),
        ("that raises", "{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        (
            "without end",
            "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
            "template",
        ),
        ("that holds itself", "{% set ns = namespace(y=1) %}{% set ns.y = ns %}{{ ns }}", "namespace ns"),
        (
            "of nested lists",
            "{% set ns = namespace(y=1) %}{% for i in range(99999) %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.y|tojson }}",
            "template",
        ),
        ("of deep negations", &"{{ not X }}".replace('X', &"not ".repeat(50_000)), "template"),
    ] {
        let settings = |text: Vec<u8>| edited(&text, "/chat_template", template.into());
        let args = "generate --model model --prompt the --max-new-tokens 2";
        let output = good.with("model/tokenizer_config.json", settings, args);
        table.row(&format!("template {name}"), &output, 2, &[word]);
    }
}

fn prompts(good: &Good, table: &mut Table) {
    let rows: &[(&str, &[u8], &str)] = &[
        ("empty", b"", "prompts.jsonl"),
        ("a list in a line", b"{\"input\": \"a\"}\n[]\n", "line 2"),
        ("no text", b"{\"input\": \"a\"}\n{\"answers\": []}\n", "line 2"),
        ("a number for a text", b"{\"input\": 7}\n", "input"),
        ("a cut line", b"{\"input\": \"a\n", "line 1"),
        ("not UTF-8", b"{\"input\": \"\xff\"}\n", "line 1"),
        ("a control character", b"{\"input\": \"a\x1b[2J\"}\n", "line 1"),
        ("a length that is none", b"{\"input\": \"a\", \"length\": -1}\n", "length"),
        ("answers that are none", b"{\"input\": \"a\", \"answers\": 7}\n", "answers"),
        ("two records in a line", b"{\"input\": \"a\"} {\"input\": \"b\"}\n", "line 1"),
    ];
    for (name, text, word) in rows {
        let args = "capture --model model --prompts prompts.jsonl --out never";
        table.row(&format!("prompts: {name}"), &good.with("prompts.jsonl", |_| text.to_vec(), args), 2, &[word]);
        assert!(!good.path("never").exists(), "{name}: a refused run made its folder");
    }
}

fn manifests(good: &Good, table: &mut Table) {
    let rows: &[(&str, Value, &str)] = &[
        ("/model/n_kv_heads", json!(0), "KV heads"),
        ("/model/n_kv_heads", json!(1u64 << 40), "KV heads"),
        ("/model/n_q_heads", json!(3), "query heads"),
        ("/model/head_dim", json!(16), "shape"),
        ("/model/n_layers", json!(1), "layer 1 of a model of 1"),
        ("/layers", json!([1, 0]), "rise"),
        ("/layers", json!([0, 0]), "rise"),
        ("/states", json!(["v", "k"]), "sorted"),
        ("/dtype", json!("i64"), "i64"),
        ("/dtype", json!("bf16"), "where BF16 is due"),
        ("/window_tokens", json!(0), "window"),
        ("/kv_heads", json!([]), "kv_heads"),
        ("/planned_samples", json!(1), "planned"),
        ("/token_classes", json!("?"), "class"),
        ("/shard", json!({"number": 9, "count": 2, "total_samples": 8}), "shard"),
        ("/samples/0/file", json!("../x.safetensors"), "plain, unique name"),
        ("/samples/0/file", json!("manifest.json"), "plain, unique name"),
        ("/samples/0/file", json!("\u{1b}[31m.safetensors"), "00000"),
        ("/samples/0/index", json!(1), "rise"),
        ("/samples/0/n_tokens", json!(0), "tokens"),
        ("/samples/0/n_tokens", json!(61), "shape"),
        ("/samples/0/n_prompt_tokens", json!(1000), "tokens"),
        ("/samples/0/bytes", json!(1), "bytes"),
        ("/samples/0/sha256", json!("0"), "SHA-256"),
    ];
    for (pointer, value, word) in rows {
        let change = |text: Vec<u8>| edited(&text, pointer, value.clone());
        let word = if *word == "00000" { "safetensors" } else { word };
        let output = good.with("dump/manifest.json", change, "verify dump");
        table.row(&format!("verify: manifest {pointer} = {value}"), &output, 1, &[word]);
        let output = good.with("dump/manifest.json", change, "analyze dump --out never");
        table.row(&format!("analyze: manifest {pointer} = {value}"), &output, 2, &[word]);
        assert!(!good.path("never/analysis.json").exists(), "{pointer}: an analysis was written");
    }
}

fn samples(good: &Good, table: &mut Table) {
    // With the digest made true again, as an author of such a file would.
    let spoilt = |name: &str, bytes: &[u8]| {
        let file = "dump/00000-even.safetensors";
        let text = std::fs::read(good.path(file)).unwrap();
        let n = u64::from_le_bytes(text[..8].try_into().unwrap()) as usize;
        let head: Value = serde_json::from_slice(&text[8..8 + n]).unwrap();
        let at = 8 + n + head[name]["data_offsets"][0].as_u64().unwrap() as usize;
        let mut bad = text.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        let manifest = std::fs::read(good.path("dump/manifest.json")).unwrap();
        let sha256 = kvscope::files::sha256_bytes(&bad);
        std::fs::write(good.path(file), bad).unwrap();
        std::fs::write(good.path("dump/manifest.json"), edited(&manifest, "/samples/0/sha256", sha256.into())).unwrap();
        let analyze = "analyze dump --maps 0:0 --out never";
        let outputs = ["verify dump", analyze, "tune dump --out never"].map(|args| good.run(args));
        std::fs::write(good.path(file), text).unwrap();
        std::fs::write(good.path("dump/manifest.json"), manifest).unwrap();
        outputs
    };
    let nan = f32::NAN.to_le_bytes();
    let rows: &[(&str, &[u8], &str)] = &[
        ("layers.0.k", b"\x00\x7e", "layers.0.k has NaN in row 0 of head 0"),
        ("layers.1.v", b"\x00\x7c", "layers.1.v has inf in row 0 of head 0"),
        ("layers.0.q", b"\x00\xfc", "layers.0.q has -inf"),
        ("layers.0.attn_mass", &nan, "layers.0.attn_mass has NaN"),
        ("layers.0.attn_mass", &(-1f32).to_le_bytes(), "layers.0.attn_mass has -1"),
        ("layers.0.attn_mass", &1e30f32.to_le_bytes(), "layers.0.attn_mass of head 0 sums to"),
        ("layers.1.q_positions", &(-1i64).to_le_bytes(), "query position -1"),
        ("layers.1.q_positions", &60i64.to_le_bytes(), "q_positions"),
    ];
    for (tensor, bytes, word) in rows {
        let [verify, analyze, tune] = spoilt(tensor, bytes);
        table.row(&format!("verify: {word}"), &verify, 1, &[word]);
        table.row(&format!("analyze: {word}"), &analyze, 2, &[word]);
        table.row(&format!("tune: {word}"), &tune, 2, &[word]);
    }
    assert!(!good.path("never").exists(), "nothing is left of a run that was refused");
}

fn results(good: &Good, table: &mut Table) {
    let profile = good.profile();
    let rows: &[(&str, Value, &str)] = &[
        ("/heads", json!([]), "heads"),
        ("/heads/0/kept_fraction", json!(0.0), "kept_fraction"),
        ("/heads/0/kept_fraction", json!(1.5), "kept_fraction"),
        ("/heads/0/setting", json!(99), "setting"),
        ("/heads/0/eps", json!(3.0), "eps"),
        ("/target_kept_fraction", json!(0), "target_kept_fraction"),
        ("/schema", json!("kvscope.profile/9"), "version 9"),
    ];
    for (pointer, value, word) in rows {
        let args = format!("generate --model model --raw --prompt the --profile {profile} --max-new-tokens 2");
        let output = good.with(&profile, |text| edited(&text, pointer, value.clone()), &args);
        table.row(&format!("profile {pointer} = {value}"), &output, 2, &[word]);
    }
    let args = format!("generate --model model --raw --prompt the --profile {profile} --max-new-tokens 2");
    let other = good.with(&profile, |text| edited(&text, "/model/fingerprint", "0".into()), &args);
    table.row("profile of another model", &other, 2, &["model"]);
    let rows: &[(&str, Value, &str)] = &[
        ("/layers", json!([1, 0]), "layers"),
        ("/lags", json!([2, 1]), "lags"),
        ("/reference_eps", json!(999), "reference_eps"),
        ("/kept_fraction", json!([]), "kept fractions"),
        ("/datasets/0/similarity/0/heads/0/kv_head", json!(99), "no such head"),
        ("/datasets/0/similarity/0/histogram/0", json!(77), "histogram"),
        ("/maps/0/file", json!("../x"), "leads out"),
        ("/maps/0/sha256", json!("0"), "SHA-256"),
        ("/maps/0/n_tokens", json!(7), "7 x 7"),
        ("/table/sha256", json!("0"), "SHA-256"),
        ("/explorer/sha256", json!("0"), "SHA-256"),
        ("/explorer/name", json!("../explorer.safetensors"), "leads out"),
    ];
    for (pointer, value, word) in rows {
        let output = good.with(
            "report/analysis.json",
            |text| edited(&text, pointer, value.clone()),
            "verify report/analysis.json",
        );
        table.row(&format!("analysis {pointer} = {value}"), &output, 1, &[word]);
    }
    let cut = |text: Vec<u8>| text[..100].to_vec();
    for (file, args) in [
        ("dump/manifest.json", "verify dump"),
        ("eval/eval.json", "verify eval"),
        ("report/analysis.json", "verify report"),
        (profile.as_str(), "verify report"),
    ] {
        table.row(&format!("verify: {file} cut"), &good.with(file, cut, args), 1, &[file, "not a valid"]);
    }
    for (args, code) in [("verify report", 1), ("report report", 2)] {
        let output = good.with("report/explorer.safetensors", cut, args);
        table.row(&format!("{args}: explorer cut"), &output, code, &["explorer.safetensors", "SHA-256"]);
    }
    table.row("table cut", &good.with("report/stats.parquet", cut, "verify report"), 1, &["stats.parquet"]);
    let resume = "eval --model model --prompts prompts.jsonl --context 30 --continuation 6 --policy h2o --budget 0.5 --out eval --resume";
    let changed = |text: Vec<u8>| String::from_utf8(text).unwrap().replacen("\"kl\":0.", "\"kl\":9.", 1).into_bytes();
    table.row("a changed row", &good.with("eval/rows.jsonl", changed, resume), 2, &["was changed"]);
    table.row("verify: a changed row", &good.with("eval/rows.jsonl", changed, "verify eval"), 1, &["was changed"]);
    let twice = |text: Vec<u8>| [&text[..], &text[..]].concat();
    table.row("rows twice", &good.with("eval/rows.jsonl", twice, resume), 2, &["there twice"]);
    let binary = |text: Vec<u8>| [b"\xff\xfe\n", &text[..]].concat();
    table.row("rows that are no text", &good.with("eval/rows.jsonl", binary, resume), 2, &["line 1"]);
    table.row("evaluation cut", &good.with("eval/eval.json", cut, resume), 2, &["eval.json"]);
}
