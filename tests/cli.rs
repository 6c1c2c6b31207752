//! The program as a user meets it: the whole pipeline on a tiny model, and what it says when something is wrong.

mod kit {
    pub mod chat;
    pub mod cli;
    pub mod files;
    pub mod fixtures;
    pub mod json;
    pub mod tiny;
}

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use kit::chat::{BRACKETS, write_model};
use kit::cli::{command, done, ends, kvscope};
use kit::files::contents;
use kit::fixtures::fixture;
use kit::json;
use kit::tiny::{MODEL, texts, write_prompts};
use kvscope::files::read_json;
use kvscope::format::bench::Bench;
use serde_json::Value;

fn kvscope_reading(dir: &Path, args: &[&str], input: &str) -> Output {
    let mut child =
        command(dir, args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_pipeline_runs_from_prompts_to_compressed_text() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(6));
    let captured =
        done(kvscope(dir, &["capture", "--model", MODEL, "--prompts", "prompts.jsonl", "--out", "dumps/run"]));
    assert_eq!(captured, "dumps/run\n");
    let analysed = done(kvscope(dir, &["analyze", "dumps/run", "--maps", "1:0,1:1:v"]));
    assert!(analysed.starts_with("reports/run/analysis.json\n") && analysed.contains("even"), "{analysed}");
    let more = done(kvscope(dir, &["analyze", "dumps/run", "--maps", "1:0,1:1:v", "-v"]));
    assert!(more.len() > analysed.len() && more.contains("error of the output"), "{more}");
    done(kvscope(dir, &["analyze", "dumps/run", "--out", "reports/again"]));
    let against = ["analyze", "--compare", "reports/run", "reports/again", "reports/run", "--out", "reports/same"];
    let compared = done(kvscope(dir, &against));
    assert!(compared.contains("compared pair by pair") && compared.contains("sets per token"), "{compared}");
    assert!(["1: run", "2: again", "3: run"].iter().all(|name| compared.contains(name)), "{compared}");
    let page = done(kvscope(dir, &["report", "reports/same", "-v"]));
    assert!(page.contains("sets-by-depth.csv") && page.contains("reports/same/report.html"), "{page}");
    done(kvscope(dir, &["verify", "reports/same"]));
    ends(&kvscope(dir, &["analyze", "--compare", "reports/run"]), 2, &["2 values required", "--compare"]);
    let lines = [&analysed, &more, &compared];
    assert!(lines.iter().flat_map(|text| text.lines()).all(|line| line.chars().count() <= 100), "{lines:?}");
    let tuned = kvscope(dir, &["--json", "tune", "dumps/run", "--budget", "0.6"]);
    let tuned: Value = serde_json::from_str(&done(tuned)).unwrap();
    assert_eq!(tuned["schema"], "kvscope.tune/1");
    let kept = tuned["profiles"][0]["calibration_kept_fraction"]["estimate"].as_f64().unwrap();
    assert!(kept <= 0.605, "{kept}");
    assert_eq!(done(kvscope(dir, &["report", "reports/run"])).lines().count(), 1);
    let drawn = done(kvscope(dir, &["report", "reports/run", "-v"]));
    assert!(
        drawn.contains("figures/run/profile-thresholds.png") && drawn.contains("reports/run/report.html"),
        "{drawn}"
    );
    let profile = tuned["profiles"][0]["profile"].as_str().unwrap();
    let prompt = "the ring and then in a stone, another thing on the shore, again. the reeds and the ring";
    let generate = |more: &[&str]| {
        let fixed = ["--json", "generate", "--model", MODEL, "--prompt", prompt, "--max-new-tokens", "12"];
        let run: Value = serde_json::from_str(&done(kvscope(dir, &[&fixed[..], more].concat()))).unwrap();
        assert_eq!(run["schema"], "kvscope.generate/1");
        run
    };
    let full = generate(&[]);
    assert!(full["counters"].is_null());
    for more in [
        &["--profile", profile][..],
        &["--policy", "kvmerger", "--kept-fraction", "0.5"],
        &["--policy", "h2o", "--kept-fraction", "0.5", "--cache-dtype", "f16"],
        &["--policy", "streaming", "--kept-fraction", "0.5"],
        &["--policy", "evict", "--kept-fraction", "0.5", "--compare"],
    ] {
        let run = generate(more);
        let counters = &run["counters"];
        let count = |key: &str| counters[key].as_u64().unwrap();
        assert!(count("merged") + count("evicted") > 0, "{more:?}: {counters}");
        assert_eq!(count("kept") + count("merged") + count("evicted"), count("seen"), "{more:?}");
        assert!(run["cache_bytes"].as_u64().unwrap() < run["full_cache_bytes"].as_u64().unwrap(), "{more:?}");
        assert!(run["prompt_kept_fraction"].as_f64().unwrap() < 0.8, "{more:?}");
    }
    let everything = generate(&["--policy", "h2o", "--kept-fraction", "1"]);
    assert_eq!(everything["text"], full["text"]);
    let facts = done(kvscope(dir, &["inspect", "dumps/run"]));
    assert!(facts.contains("kvscope.dump/1") && facts.contains("row5"), "{facts}");
    assert!(done(kvscope(dir, &["inspect", profile])).contains("verdict"));
}

#[test]
fn a_talk_keeps_its_compressed_cache_between_turns() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let folder = dir.join("chat");
    let talk = |template: Option<&str>, more: &[&str], input: &str| {
        write_model(&folder, template);
        let fixed = ["generate", "--model", "chat", "--interactive", "--ignore-eos", "--max-new-tokens", "6"];
        kvscope_reading(dir, &[&fixed[..], more].concat(), input)
    };
    let number = |turn: &Value, key: &str| turn[key].as_u64().unwrap() as usize;
    let turns = |text: String| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let input = "the ring and the stone in the reeds\n\nand then on the shore\nagain";
    for (template, turn) in [(None, "\nagain"), (Some(BRACKETS), ")(again)(")] {
        let compress = ["--json", "--policy", "h2o", "--kept-fraction", "0.5", "--decode-slack", "2"];
        let found = turns(done(talk(template, &compress, input)));
        assert_eq!(found.len(), 3, "an empty line is no turn");
        let model = kvscope::model::Model::load(&folder).unwrap();
        let in_turn = model.tokenizer().unwrap().encode(turn, kvscope::model::tokenizer::AddSpecial::No).unwrap().len();
        let mut seen = 0;
        for (i, one) in found.iter().enumerate() {
            // The last token of a turn is seen at the beginning of the next one.
            seen += number(one, "prompt_tokens") + 5;
            assert_eq!((number(one, "new_tokens"), number(one, "seen_tokens")), (6, seen), "turn {i}");
            assert_eq!(number(&one["counters"], "seen"), 4 * seen);
            assert!(number(&one["counters"], "kept") <= 2 * seen + 4 * 3, "{}", one["counters"]);
        }
        assert_eq!(number(&found[2], "prompt_tokens"), in_turn + 1, "{template:?}");
        // A prompt that is given is the first turn.
        let rest = input.split_once('\n').unwrap();
        let again = turns(done(talk(template, &[&compress[..], &["--prompt", rest.0]].concat(), rest.1)));
        let text = |turns: &[Value]| turns.iter().map(|turn| turn["text"].clone()).collect::<Vec<_>>();
        assert_eq!(text(&again), text(&found));
    }
    let shown = done(talk(None, &["--quiet"], "the ring\nand then"));
    assert!(shown.ends_with('\n') && shown.lines().count() >= 2, "{shown:?}");
    let forgetful = "{{ messages[0].content }}";
    let output = talk(Some(forgetful), &["--quiet"], "the ring\nand then");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("drops replies") && stderr(&output).contains("--raw"), "{}", stderr(&output));
}

#[test]
fn generate_takes_budgets_cadences_refit_and_stop_strings() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = "the ring and then in a stone, another thing on the shore, again. the reeds and the ring";
    let fixed = ["--json", "generate", "--model", MODEL, "--prompt", prompt, "--ignore-eos"];
    let generate = |more: &[&str]| -> Value {
        let more = [&fixed[..], &["--max-new-tokens", "24"], more].concat();
        serde_json::from_str(&done(kvscope(dir.path(), &more))).unwrap()
    };
    let number = |run: &Value, key: &str| run[key].as_u64().unwrap();
    let budget = ["--policy", "h2o", "--budget-tokens", "9"];
    let fixed_size = generate(&[&budget[..], &["--decode-slack", "0"]].concat());
    assert_eq!(number(&fixed_size["counters"], "kept"), 4 * 9);
    for layer in fixed_size["counters_by_layer"].as_array().unwrap() {
        assert_eq!(number(layer, "kept"), 2 * 9);
        assert_eq!(number(layer, "evicted") + 2 * 9, number(layer, "seen"));
    }
    let growing = generate(&budget);
    assert_eq!(number(&growing["counters"], "kept"), 4 * (9 + 23));
    let in_parts = generate(&[&budget[..], &["--compress-every", "8"]].concat());
    assert_eq!(in_parts["counters"], growing["counters"]);
    assert!(in_parts["prompt_compress_secs"].as_f64().unwrap() <= in_parts["prefill_secs"].as_f64().unwrap());
    // Every policy that compresses can be refitted, and is then compared beside the full cache.
    let named = kvscope::policy::POLICIES.iter().filter(|entry| entry.name != "full" && !entry.needs_weights());
    for entry in named {
        let spec = format!("{}+refit:recent=2,span=8", entry.name);
        let run = generate(&["--policy", &spec, "--compare"]);
        let kl = run["comparison"]["kl"].as_array().unwrap();
        assert_eq!(kl.len(), 24, "{spec}");
        assert!(kl.iter().all(|kl| kl.as_f64().unwrap() >= -1e-6), "{spec}");
        let same = run["tokens_until_first_difference"].as_u64();
        assert_eq!(same.is_none(), run["text"] == run["full"]["text"], "{spec}");
        assert!(run["full"]["decode_secs"].as_f64().unwrap() > 0.0);
    }
    let whole = generate(&[]);
    let text = whole["text"].as_str().unwrap();
    let (at, _) = text.char_indices().nth(text.chars().count() / 2).unwrap();
    let end = text[at..].chars().take(3).collect::<String>();
    let stopped = generate(&["--stop", "no such text", "--stop", &end]);
    assert_eq!(stopped["text"], text[..text.find(&end).unwrap()], "{end:?}");
    assert_eq!(stopped["stop"], "stop_string");
    let refuse = |more: &[&str], words: &[&str]| ends(&kvscope(dir.path(), &[&fixed[1..], more].concat()), 2, words);
    refuse(&["--compress-every", "8"], &["--compress-every", "--policy"]);
    refuse(&["--policy", "h2o", "--compress-every", "0"], &["--compress-every"]);
    refuse(&["--policy", "full+refit"], &["+refit"]);
    refuse(&["--policy", "h2o+refit:lambda=0"], &["lambda"]);
    refuse(&["--policy", "h2o", "--budget-tokens", "0"], &["--budget-tokens"]);
    refuse(&["--policy", "kvmerger:eps=0.5", "--budget-tokens", "9"], &["--budget-tokens"]);
    ends(&kvscope(dir.path(), &["generate", "--model", fixed[3]]), 2, &["no prompt", "--interactive"]);
}

#[test]
fn a_cache_stays_within_its_budget_of_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = "the ring and then in a stone, another thing on the shore, again. the reeds and the ring";
    let fixed = ["--json", "generate", "--model", MODEL, "--raw", "--prompt", prompt, "--ignore-eos"];
    // 2 layers x 2 KV heads of dimension 8. A slot of f32 takes 64 bytes and 12 for position and masses.
    for (dtype, policy, budget) in [
        ("f32", "h2o", "6000"),
        ("f32", "kvmerger:variant=log-count", "6000"),
        ("f16", "h2o+refit", "4kB"),
        ("bf16", "kvmerger:bridge=true,variant=mass", "4kB"),
        ("f16", "snapkv:window=4", "3kB"),
    ] {
        let more = ["--max-new-tokens", "60", "--policy", policy, "--cache-dtype", dtype, "--budget-bytes", budget];
        let run: Value = serde_json::from_str(&done(kvscope(dir.path(), &[&fixed[..], &more].concat()))).unwrap();
        let (bytes, most) = (run["cache_bytes"].as_u64().unwrap(), budget.replace("kB", "000").parse().unwrap());
        assert!(bytes <= most && bytes > most / 2, "{policy}, {dtype}: {bytes} of {budget}");
        assert!(run["full_cache_bytes"].as_u64().unwrap() > most, "{policy}: the budget would hold everything");
    }
    let refuse = |more: &[&str], words: &[&str]| ends(&kvscope(dir.path(), &[&fixed[1..], more].concat()), 2, words);
    refuse(&["--policy", "h2o", "--budget-bytes", "100"], &["--budget-bytes", "at least"]);
    refuse(&["--policy", "h2o", "--budget-bytes", "1GB"], &["budget"]);
    refuse(&["--policy", "h2o", "--budget-bytes", "many"], &["--budget-bytes", "1.5GiB"]);
    refuse(&["--policy", "h2o", "--budget-bytes", "9kB", "--budget-tokens", "9"], &["--budget-tokens"]);
}

/// A copy of a model whose weights `change` has gone over; every weight is f32.
fn changed_model(name: &str, to: &Path, tensor: &str, change: impl Fn(usize, f32) -> f32) {
    copy_folder(&fixture(name), to);
    let path = to.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let range = {
        let view = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = view.tensor(tensor).unwrap().data().as_ptr_range();
        let start = bytes.as_ptr() as usize;
        data.start as usize - start..data.end as usize - start
    };
    for (i, number) in bytes[range].chunks_exact_mut(4).enumerate() {
        let new = change(i, f32::from_le_bytes(number.try_into().unwrap()));
        number.copy_from_slice(&new.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn numbers_that_are_none_stop_a_run_and_are_placed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(6));
    let prompt = "the ring and then in a stone, another thing on the shore";
    let generate = |model: &str, more: &[&str]| {
        kvscope(dir, &[&["generate", "--model", model, "--prompt", prompt, "--policy", "h2o"], more].concat())
    };
    let eval = |model: &str, more: &[&str]| {
        std::fs::remove_dir_all(dir.join("run")).ok();
        let fixed = ["eval", "--model", model, "--prompts", "prompts.jsonl", "--context", "24", "--continuation", "8"];
        kvscope(dir, &[&fixed[..], &["--policy", "h2o", "--out", "run"], more].concat())
    };
    changed_model("llama-gqa", &dir.join("key"), "model.layers.1.self_attn.k_proj.weight", |i, x| {
        if i == 9 { f32::NAN } else { x }
    });
    for output in [generate("key", &[]), generate("key", &["--compare"]), eval("key", &[])] {
        ends(&output, 2, &["model.layers.1.self_attn.k_proj.weight holds NaN", "not finite"]);
    }
    changed_model("llama-gqa", &dir.join("norm"), "model.norm.weight", |i, x| if i == 2 { f32::NAN } else { x });
    for output in [generate("norm", &[]), generate("norm", &["--temperature", "1"]), eval("norm", &[])] {
        ends(&output, 2, &["not finite"]);
    }
    // Values that f32 and bf16 hold and f16 does not.
    changed_model("llama-gqa", &dir.join("large"), "model.layers.0.self_attn.v_proj.weight", |_, x| x * 1e6);
    for output in [
        generate("large", &["--cache-dtype", "f16"]),
        generate("large", &["--cache-dtype", "f16", "--compare"]),
        eval("large", &["--cache-dtype", "f16"]),
    ] {
        ends(&output, 2, &["a value of layer 0", "infinite in a cache of f16", "65504", "bf16"]);
    }
    done(generate("large", &["--cache-dtype", "bf16", "--max-new-tokens", "3"]));
}

#[test]
fn every_number_that_an_option_cannot_take_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let of = |command: &'static str| -> Vec<&str> {
        match command {
            "generate" => vec!["generate", "--model", MODEL, "--prompt", "the ring", "--policy", "h2o"],
            "eval" | "capture" => vec![command, "--model", MODEL, "--prompts", "x.jsonl"],
            "bench" => vec!["bench", "--model", MODEL],
            "analyze" | "tune" => vec![if command == "tune" { "tune" } else { "analyze" }, "dump"],
            "validate" => vec!["tune", "dump", "--validate", "x", "--model", MODEL],
            _ => unreachable!(),
        }
    };
    let not_numbers = ["nan", "-1", "x", "inf"];
    for (command, option, more) in [
        ("generate", "temperature", &[][..]),
        ("generate", "top-p", &["1.5"]),
        ("generate", "min-p", &["1.5"]),
        ("generate", "repetition-penalty", &["0"]),
        ("generate", "top-k", &["0.5"]),
        ("generate", "kept-fraction", &["0", "1.5"]),
        ("generate", "budget-tokens", &["0"]),
        ("generate", "compress-every", &["0"]),
        ("generate", "decode-slack", &[]),
        ("generate", "max-new-tokens", &[]),
        ("generate", "chunk", &[]),
        ("generate", "threads", &["0", "300000"]),
        ("generate", "skip-layers", &["1-0", "9", "", "0-99999999999"]),
        ("eval", "budget", &["0", "1", "0.5,2"]),
        ("eval", "context", &["0"]),
        ("eval", "continuation", &["0"]),
        ("eval", "max-tokens", &["0"]),
        ("eval", "plant", &["0"]),
        ("eval", "samples", &["0"]),
        ("capture", "max-tokens", &["0"]),
        ("capture", "decode", &[]),
        ("capture", "window", &[]),
        ("capture", "queries", &[]),
        ("capture", "memory-limit", &["101%"]),
        ("bench", "kept-fraction", &["0", "1.5"]),
        ("bench", "contexts", &["0", "32,0"]),
        ("bench", "repeats", &["0"]),
        ("bench", "max-new-tokens", &["0"]),
        ("analyze", "eps", &["1", "2", "0.5,nan", ""]),
        ("analyze", "reference-eps", &["7"]),
        ("analyze", "max-lag", &["0"]),
        ("analyze", "recent", &["1.5"]),
        ("analyze", "heavy", &["1.5"]),
        ("analyze", "tolerance", &["2"]),
        ("analyze", "map-samples", &["0"]),
        ("tune", "budget", &["0", "1.5"]),
        ("tune", "min-share", &["2"]),
        ("tune", "hold-out", &["2"]),
        ("tune", "max-error", &[]),
        ("tune", "late", &["0"]),
        ("validate", "context", &["0"]),
        ("validate", "continuation", &["0"]),
        ("validate", "samples", &["0"]),
    ] {
        for value in not_numbers.iter().chain(more) {
            // A cosine may be below zero.
            if option.ends_with("eps") && *value == "-1" {
                continue;
            }
            let output = kvscope(dir.path(), &[&of(command)[..], &[&format!("--{option}"), value]].concat());
            ends(&output, 2, &[option]);
        }
    }
}

#[test]
fn a_budget_that_holds_everything_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = "the ring and then in a stone, another thing on the shore";
    let fixed = ["generate", "--model", MODEL, "--policy", "h2o", "--max-new-tokens", "8"];
    let fixed = [&fixed[..], &["--ignore-eos", "--budget-tokens", "60"]].concat();
    let once = |more: &[&str]| kvscope(dir.path(), &[&fixed[..], &["--prompt", prompt], more].concat());
    ends(&once(&[]), 2, &["60 slots a head", "nothing would be compressed"]);
    ends(&once(&["--decode-slack", "0"]), 2, &["nothing would be compressed"]);
    // Where decoding outgrows the budget, it is compressed there.
    let longer = ["--decode-slack", "0", "--max-new-tokens", "60", "--json"];
    let fixed_more: Vec<&str> =
        fixed.iter().copied().filter(|word| !["--max-new-tokens", "8"].contains(word)).collect();
    let run = kvscope(dir.path(), &[&fixed_more[..], &["--prompt", prompt], &longer].concat());
    let run: Value = serde_json::from_str(&done(run)).unwrap();
    assert!(run["counters"]["evicted"].as_u64().unwrap() > 0, "{run}");
    // A talk grows.
    let talk = kvscope_reading(dir.path(), &[&fixed[..], &["--interactive", "--json"]].concat(), prompt);
    assert_eq!(talk.status.code(), Some(0), "{}", stderr(&talk));
}

#[test]
fn prompts_lose_their_byte_order_mark_wherever_they_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let fixed = ["--json", "generate", "--raw", "--max-new-tokens", "1", "--model", MODEL];
    let tokens =
        |output: Output| -> Value { serde_json::from_str::<Value>(&done(output)).unwrap()["prompt_tokens"].clone() };
    std::fs::write(dir.join("marked.txt"), "\u{feff}the ring").unwrap();
    let plain = tokens(kvscope(dir, &[&fixed[..], &["--prompt", "the ring"]].concat()));
    let file = |name: &'static str| [&fixed[..], &["--prompt-file", name]].concat();
    assert_eq!(tokens(kvscope(dir, &file("marked.txt"))), plain);
    assert_eq!(tokens(kvscope_reading(dir, &file("-"), "\u{feff}the ring")), plain);
    let wide: Vec<u8> = "the ring".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(dir.join("wide.txt"), wide).unwrap();
    ends(&kvscope(dir, &file("wide.txt")), 2, &["UTF-16", "iconv"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/dev/zero", dir.join("zero.txt")).unwrap();
        ends(&kvscope(dir, &file("zero.txt")), 2, &["zero.txt", "not a file"]);
    }
}

/// Characters that a terminal acts upon.
fn acts(text: &str) -> bool {
    text.chars().any(|c| c.is_control() && c != '\n' && c != '\t' || ('\u{202a}'..='\u{202e}').contains(&c))
}

#[test]
fn no_file_writes_to_the_terminal_what_acts_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let evil = "\x1b[2J\x07\u{9b}\u{202e}\nerror: forged";
    let row = serde_json::json!({ "context": "the ring and the stone in the reeds", "dataset": evil, "_id": evil });
    std::fs::write(dir.join("prompts.jsonl"), row.to_string()).unwrap();
    std::fs::write(dir.join("prompts.json"), "{\"\\u001b[31m\": \"no place\"}").unwrap();
    let capture = ["capture", "--model", MODEL, "--prompts", "prompts.jsonl", "--out", "dump"];
    let captured = kvscope(dir, &capture);
    let log = stderr(&captured);
    assert!(log.contains("warning: not used for templates") && !acts(&log), "{log}");
    assert!(captured.status.success());
    // Log lines are coloured when everything else is.
    let coloured = stderr(&kvscope(dir, &[&capture[..], &["--color", "always"]].concat()));
    assert!(coloured.contains("\x1b[36mwarning:\x1b[0m"), "{coloured}");
    for args in [&["inspect", "dump"][..], &["analyze", "dump"], &["verify", "dump"], &["inspect", "dump", "--json"]] {
        let output = kvscope(dir, args);
        let (out, err) = (stdout(&output), stderr(&output));
        assert!(!acts(&out) && !acts(&err), "{args:?}: {out}{err}");
    }
    let facts: Value = serde_json::from_str(&done(kvscope(dir, &["inspect", "dump", "--json"]))).unwrap();
    assert!(facts["samples"][0].as_str().unwrap().contains(evil), "JSON has every text as it is");

    let folder = dir.join("other");
    copy_folder(&fixture("llama-gqa"), &folder);
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let name = format!("\\u001b[31m\\nerror: {}", "x".repeat(100_000));
    std::fs::write(folder.join("config.json"), config.replace("LlamaForCausalLM", &name)).unwrap();
    let output = kvscope(dir, &["generate", "--model", "other", "--prompt", "x"]);
    ends(&output, 2, &["not supported"]);
    let text = stderr(&output);
    assert!(!acts(&text) && text.lines().all(|line| line.chars().count() <= 1100), "{}", text.len());
    let typed = kvscope(dir, &["inspect", "\x1b[31m"]);
    assert!(!acts(&stderr(&typed)));
    assert!(!acts(&stderr(&kvscope(dir, &["--\x1b[31m"]))));
}

#[test]
fn generated_text_cannot_act_on_the_terminal_either() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("evil");
    copy_folder(&fixture("llama-gqa"), &folder);
    // Whatever is said begins with the command that clears the screen.
    let decoder = serde_json::json!({ "type": "Replace", "pattern": { "Regex": "^" }, "content": "\u{1b}[2J" });
    json::edit(&folder.join("tokenizer.json"), |tokenizer| tokenizer["decoder"] = decoder);
    let fixed =
        ["generate", "--model", "evil", "--raw", "--prompt", "the ring", "--max-new-tokens", "3", "--ignore-eos"];
    let shown = done(kvscope(dir.path(), &fixed));
    assert!(shown.contains(r"\u{1b}[2J") && !acts(&shown), "{shown:?}");
    let exact = kvscope(dir.path(), &[&fixed[..], &["--json"]].concat());
    let exact: Value = serde_json::from_str(&done(exact)).unwrap();
    assert!(exact["text"].as_str().unwrap().contains('\u{1b}'));
}

#[test]
#[cfg(target_os = "linux")]
fn streams_that_nobody_reads_or_that_are_full_end_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let generate = ["generate", "--model", MODEL, "--prompt", "the ring", "--max-new-tokens", "3"];
    let file = fixture("llama-gqa-f32.gguf");
    let inspect = ["inspect", file.to_str().unwrap()];
    let run = |args: &[&str], out: Stdio, err: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvscope"));
        command.args(args).current_dir(dir).env("KVSCOPE_CACHE", dir.join("cache")).stdin(Stdio::null());
        command.stdout(out).stderr(err).spawn().unwrap().wait_with_output().unwrap()
    };
    let closed = || -> Stdio { std::io::pipe().unwrap().1.into() };
    let full = || -> Stdio { std::fs::File::options().write(true).open("/dev/full").unwrap().into() };
    for args in
        [&generate[..], &inspect, &["--help"], &["generate", "--help"], &["--version"], &["completions", "bash"]]
    {
        let output = run(args, full(), Stdio::piped());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("standard output"), "{args:?}: {}", stderr(&output));
        assert_eq!(run(args, closed(), Stdio::piped()).status.code(), Some(0), "{args:?}");
        assert_eq!(run(args, Stdio::null(), closed()).status.code(), Some(0), "{args:?}");
    }
    for args in [&["inspect", "nothing.gguf"][..], &["--no-such-flag"], &[]] {
        assert_eq!(run(args, Stdio::null(), closed()).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn bench_gives_medians_raw_samples_and_a_narrow_table() {
    let dir = tempfile::tempdir().unwrap();
    let fixed = ["bench", "--model", MODEL, "--contexts", "64,32", "--max-new-tokens", "5"];
    let policies = ["--policy", "h2o", "--policy", "kvmerger:variant=log-count,bridge=true", "--repeats", "2"];
    let typed = [&fixed[..], &policies].concat();
    let run: Value = serde_json::from_str(&done(kvscope(dir.path(), &[&["--json"], &typed[..]].concat()))).unwrap();
    assert_eq!(run["schema"], "kvscope.bench/1");
    let rows = run["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    assert_eq!((&rows[0]["policy"], &rows[0]["context_tokens"]), (&"full".into(), &32.into()));
    for row in rows {
        let count = |key: &str| row["samples_secs"][key].as_array().unwrap().len();
        assert_eq!([count("prefill"), count("compress"), count("decode")], [2, 2, 10], "{row}");
        let is_full = row["policy"] == "full";
        assert_eq!(row["speedup"].is_null(), is_full, "{row}");
        let kept = row["kept_fraction"].as_f64().unwrap();
        assert!(if is_full { kept == 1.0 } else { (kept - 0.5).abs() < 0.02 }, "{row}");
        assert!(is_full || row["bandwidth_bound"].as_f64().unwrap() > 1.0, "{row}");
    }
    assert_eq!(run["break_even"].as_array().unwrap().len(), 2);
    let shown = done(kvscope(dir.path(), &[&typed[..], &["--out", "bench.json"]].concat()));
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    let saved: Bench = read_json(&dir.path().join("bench.json")).unwrap();
    assert_eq!((saved.rows.len(), saved.rows[5].samples_secs.decode.len()), (6, 10));
    assert!(
        shown.ends_with("bench.json\n") && shown.contains(&format!("{:.2}", 1e3 * saved.rows[0].decode_secs.unwrap()))
    );
    done(kvscope(dir.path(), &["inspect", "bench.json"]));
    // A file of another kind is not replaced, and nothing is measured first.
    std::fs::write(dir.path().join("other.json"), "{}").unwrap();
    ends(&kvscope(dir.path(), &[&typed[..], &["--out", "other.json"]].concat()), 2, &["other.json"]);
    assert_eq!(shown.matches("break-even:").count(), 2, "{shown}");
    let long = [&fixed[..3], &["--contexts", "126", "--max-new-tokens", "5"]].concat();
    ends(&kvscope(dir.path(), &long), 2, &["126 tokens", "128"]);
}

#[test]
fn the_same_command_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(6));
    let mut runs = Vec::new();
    for (run, threads) in [("a", "1"), ("b", "2")] {
        let out = |parent: &str| format!("{run}/{parent}/run");
        done(kvscope(
            dir,
            &["capture", "--threads", threads, "--model", MODEL, "--prompts", "prompts.jsonl", "--out", &out("dumps")],
        ));
        done(kvscope(
            dir,
            &["analyze", "--threads", threads, &out("dumps"), "--out", &out("reports"), "--maps", "0:1"],
        ));
        done(kvscope(dir, &["tune", "--threads", threads, &out("dumps"), "--out", &out("reports"), "--budget", "0.6"]));
        done(kvscope(dir, &["report", "--threads", threads, &out("reports"), "--out", &out("figures")]));
        let files = contents(&dir.join(run));
        assert!(files.len() > 20, "{:?}", files.keys());
        runs.push(files);
    }
    assert_eq!(runs[0].len(), runs[1].len());
    for (a, b) in runs[0].iter().zip(&runs[1]) {
        assert_eq!(a.0, b.0);
        assert!(a.1 == b.1, "{} differs between one and two threads", a.0);
    }
}

#[test]
fn a_wrong_path_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ends(&kvscope(dir, &["generate", "--model", "no/such.gguf", "--prompt", "x"]), 2, &["no/such.gguf"]);
    ends(&kvscope(dir, &["generate", "--model", "smollm2-135m", "--prompt", "x"]), 2, &["kvscope pull smollm2-135m"]);
    ends(&kvscope(dir, &["capture", "--model", MODEL, "--prompts", "no/such.jsonl"]), 2, &["no/such.jsonl"]);
    ends(&kvscope(dir, &["generate", "--model", MODEL, "--prompt-file", "no.txt"]), 2, &["no.txt"]);
    ends(
        &kvscope(dir, &["generate", "--model", MODEL, "--prompt", "x", "--profile", "no.profile.json"]),
        2,
        &["no.profile.json"],
    );
    ends(&kvscope(dir, &["analyze", "no/dump"]), 2, &["no/dump"]);
    ends(&kvscope(dir, &["analyze", "."]), 2, &["not a dump"]);
    ends(&kvscope(dir, &["tune", "no/dump"]), 2, &["no/dump"]);
    ends(&kvscope(dir, &["report", "no/reports"]), 2, &["no/reports"]);
    ends(&kvscope(dir, &["inspect", "no.gguf"]), 2, &["no.gguf"]);
}

#[test]
fn a_truncated_model_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture("llama-gqa-f32.gguf")).unwrap();
    let path = dir.path().join("cut.gguf");
    for keep in [whole.len() - 1000, 300, 10] {
        std::fs::write(&path, &whole[..keep]).unwrap();
        ends(&kvscope(dir.path(), &["generate", "--model", "cut.gguf", "--prompt", "x"]), 2, &["cut.gguf"]);
    }
    let folder = dir.path().join("cut");
    copy_folder(&fixture("llama-gqa"), &folder);
    let weights = folder.join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    ends(&kvscope(dir.path(), &["generate", "--model", "cut", "--prompt", "x"]), 2, &["cut"]);
}

#[test]
fn a_prompt_beyond_the_context_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("long.txt"), "another stone in the reeds, ".repeat(40)).unwrap();
    let generate = kvscope(dir.path(), &["generate", "--model", MODEL, "--prompt-file", "long.txt"]);
    ends(&generate, 2, &["exceed the model's context of 128"]);
    let capture = kvscope(dir.path(), &["capture", "--model", MODEL, "--prompts", "long.txt"]);
    ends(&capture, 2, &["exceed the model's context of 128", "--max-tokens"]);
    done(kvscope(dir.path(), &["capture", "--model", MODEL, "--prompts", "long.txt", "--max-tokens", "100"]));
}

#[test]
fn an_unknown_architecture_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("other");
    copy_folder(&fixture("llama-gqa"), &folder);
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    std::fs::write(folder.join("config.json"), config.replace("LlamaForCausalLM", "MambaForCausalLM")).unwrap();
    let output = kvscope(dir.path(), &["generate", "--model", "other", "--prompt", "x"]);
    ends(&output, 2, &["MambaForCausalLM", "LlamaForCausalLM"]);
}

/// Writes into a file system that is really full: a small tmpfs in a mount namespace of its own.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named_and_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(6));
    let small = dir.join("small");
    std::fs::create_dir(&small).unwrap();
    // Two samples fit, and the space that the run asks for looks free until another file takes it.
    let script = r#"
        set -e
        mount -t tmpfs -o size=160k none small
        "$KVSCOPE" capture --model "$MODEL" --prompts prompts.jsonl --samples 1 --out small/first >/dev/null 2>&1
        if "$KVSCOPE" capture --model "$MODEL" --prompts prompts.jsonl --out small/all; then exit 90; else code=$?; fi
        "$KVSCOPE" inspect small/first >/dev/null 2>&1 || exit 91
        dd if=/dev/zero of=small/filler bs=1k 2>/dev/null || true
        if "$KVSCOPE" analyze small/first --out small/reports; then exit 92; else second=$?; fi
        [ "$code" = "$second" ] || exit 93
        exit "$code"
    "#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .current_dir(dir)
        .env("KVSCOPE", env!("CARGO_BIN_EXE_kvscope"))
        .env("MODEL", MODEL)
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("bytes") && text.contains("free"), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("error:")).count(), 2, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("hint:")).count(), 2, "{text}");
}

#[test]
fn contradictions_in_the_arguments_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let generate = |more: &[&str]| {
        let fixed = ["generate", "--model", MODEL, "--prompt", "the ring and the stone"];
        kvscope(dir.path(), &[&fixed[..], more].concat())
    };
    ends(&generate(&["--policy", "h3o"]), 2, &["h3o", "kvmerger"]);
    ends(&generate(&["--policy", "kvmerger:epsilon=0.5"]), 2, &["epsilon"]);
    ends(&generate(&["--policy", "kvmerger:eps=0.5", "--kept-fraction", "0.5"]), 2, &["--kept-fraction"]);
    ends(&generate(&["--kept-fraction", "0.5"]), 2, &["--policy"]);
    ends(&generate(&["--compare"]), 2, &["--compare"]);
    ends(&generate(&["--policy", "kvmerger:eps=1"]), 2, &["changed nothing"]);
    ends(&generate(&["--device", "tpu"]), 2, &["tpu"]);
    ends(&generate(&["--compute-dtype", "f16"]), 2, &["computes in f32"]);
    #[cfg(not(feature = "cuda"))]
    ends(&generate(&["--device", "cuda:1"]), 2, &["not in this build", "--features cuda"]);
    ends(&kvscope(dir.path(), &["--threads", "0", "inspect", "x.gguf"]), 2, &["--threads"]);
}

#[test]
fn a_profile_is_for_its_model() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(6));
    done(kvscope(dir, &["capture", "--model", MODEL, "--prompts", "prompts.jsonl", "--out", "dumps/run"]));
    done(kvscope(dir, &["tune", "dumps/run", "--budget", "0.6"]));
    let profile = std::fs::read_to_string(dir.join("reports/run/llama-gqa.profile.json")).unwrap();
    let digest = profile.split("\"fingerprint\": \"").nth(1).unwrap()[..64].to_string();
    std::fs::write(dir.join("other.profile.json"), profile.replace(&digest, &"0".repeat(64))).unwrap();
    let args = [
        "generate",
        "--model",
        MODEL,
        "--prompt",
        "the ring and the stone in the reeds",
        "--profile",
        "other.profile.json",
    ];
    ends(&kvscope(dir, &args), 2, &["tuned for llama-gqa", "--force"]);
    done(kvscope(dir, &[&args[..], &["--force", "--max-new-tokens", "4"]].concat()));
    std::fs::write(dir.join("new.profile.json"), profile.replace("kvscope.profile/1", "kvscope.profile/9")).unwrap();
    let args = ["generate", "--model", MODEL, "--prompt", "x", "--profile", "new.profile.json"];
    ends(&kvscope(dir, &args), 2, &["version 9", "up to version 1"]);
    let bench = |profile: &str| {
        let sizes = ["--contexts", "64", "--max-new-tokens", "4", "--repeats", "1"];
        kvscope(dir, &[&["--json", "bench", "--model", MODEL, "--profile", profile][..], &sizes].concat())
    };
    let run: Value = serde_json::from_str(&done(bench("reports/run/llama-gqa.profile.json"))).unwrap();
    assert_eq!(run["rows"][2]["policy"], "profile");
    assert!((run["rows"][2]["kept_fraction"].as_f64().unwrap() - 0.6).abs() < 0.05, "{run}");
    ends(&bench("other.profile.json"), 2, &["tuned for llama-gqa"]);
}

#[test]
fn help_and_completions_go_to_stdout() {
    let dir = tempfile::tempdir().unwrap();
    let help = done(kvscope(dir.path(), &["--help"]));
    for command in ["demo", "pull", "capture", "analyze", "tune", "report", "generate", "inspect"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is missing in {help}");
        let own = done(kvscope(dir.path(), &[command, "--help"]));
        assert!(own.contains("--json"), "{own}");
    }
    let generate = done(kvscope(dir.path(), &["generate", "--help"]));
    assert!(kvscope::policy::POLICIES.iter().all(|entry| generate.contains(entry.name)), "{generate}");
    assert!(done(kvscope(dir.path(), &["completions", "bash"])).contains("_kvscope"));
    assert!(done(kvscope(dir.path(), &["man", "capture"])).contains(".TH"));
    assert!(done(kvscope(dir.path(), &["--version"])).starts_with("kvscope "));
    assert_eq!(kvscope(dir.path(), &["--no-such-flag"]).status.code(), Some(2));
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    contents(from).into_iter().for_each(|(name, bytes)| std::fs::write(to.join(name), bytes).unwrap());
}
