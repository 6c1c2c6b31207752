//! Evaluations on a tiny model: what is measured, what is written, what happens when a run is cut short or split.

mod kit {
    pub mod cli;
    pub mod files;
    pub mod fixtures;
    pub mod model;
    pub mod tiny;
}

use std::path::Path;
use std::sync::atomic::AtomicBool;

use kit::cli::{done, ends, kvscope};
use kit::files::contents;
use kit::model::model;
use kit::tiny::{MODEL, texts, words, write_prompts};
use kvscope::eval;
use kvscope::eval::task::task;
use kvscope::eval::{Plan, Settings};
use kvscope::files::read_json;
use kvscope::format::evaluation::{Evaluation, FULL, Question, ROWS_FILE, Row};
use kvscope::format::run::{Run, Target};
use kvscope::math::Float;
use kvscope::model::tokenizer::AddSpecial;
use kvscope::prompts::Prompt;
use kvscope::runtime::{Budget, Compression, RaggedCache, compare};
use serde_json::{Value, json};

fn eval_args<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args =
        vec!["eval", "--model", MODEL, "--prompts", "prompts.jsonl", "--context", "60", "--continuation", "12"];
    args.extend(["--out", out]);
    args.extend(more);
    args
}

fn rows(dir: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(dir.join(ROWS_FILE)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const POLICIES: [&str; 8] =
    ["--policy", "kvmerger:bridge=true", "--policy", "h2o", "--policy", "snapkv:window=8", "--policy", "random"];

#[test]
fn a_run_has_every_row_once_with_counters_and_a_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let mut texts = texts(4);
    texts.push(json!({ "context": words(3, 2), "dataset": "odd", "_id": "short" }));
    write_prompts(dir.path(), &texts);
    let shown = done(kvscope(dir.path(), &eval_args("run", &[&POLICIES[..], &["-v"]].concat())));
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    done(kvscope(dir.path(), &["report", "run", "--out", "figures"]));
    let curves = std::fs::read_to_string(dir.path().join("figures/policy-budgets.svg")).unwrap();
    for words in ["evict:bridge=true", "snapkv:window=8", "Slots kept, %", "Divergence from the full cache"] {
        assert!(curves.contains(words), "{words}");
    }
    let run = dir.path().join("run");
    let evaluation: Evaluation = read_json(&run.join(Evaluation::FILE)).unwrap();
    // Full once, five policies at two budgets: evict came by itself.
    assert_eq!(evaluation.arms.len(), 11);
    assert_eq!((evaluation.rows, evaluation.planned_rows), (44, 44));
    assert_eq!(evaluation.skipped["kl/odd"], 1);
    for row in rows(&run) {
        assert_eq!((row.n_prompt_tokens, row.n_new_tokens), (60, 12));
        let counters = row.counters;
        // 4 heads of 60 tokens.
        assert_eq!((counters.seen, counters.kept + counters.merged + counters.evicted), (240, 240), "{row:?}");
        let (bytes, kept, kl) = (row.cache_bytes.unwrap(), row.kept_fraction.unwrap(), row.metrics["kl"]);
        if row.policy == FULL {
            assert_eq!(
                (kept, kl, row.metrics["top1_agreement"], row.metrics["perplexity_ratio"]),
                (1.0, 0.0, 1.0, 1.0)
            );
            continue;
        }
        let budget = row.budget.unwrap();
        assert!((kept - budget).abs() < 1e-9 && kl > 0.0, "{row:?}");
        assert!((bytes as f64 / row.full_cache_bytes as f64) < budget + 0.12, "{row:?}");
        assert!(row.metrics["kl_p50"] <= row.metrics["kl_max"]);
    }
    let asked = |question| evaluation.comparisons.iter().filter(|c| c.question == question).count();
    assert_eq!(asked(Question::MergeOrEvict), 2);
    assert_eq!(asked(Question::BestBaselineOrNext), 2);
    assert!(evaluation.verdict.iter().any(|line| line.contains("evicting the same tokens (evict:bridge=true)")));
    assert!(evaluation.verdict.iter().any(|line| line.contains("4 texts show no direction")));
    assert!(evaluation.comparisons.iter().all(|entry| entry.result.direction().is_none()));
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(evaluation.verdict.iter().all(|sentence| shown.contains(sentence.as_str())), "{shown}");
    let few = "there are too few texts to tell merging (kvmerger:bridge=true) from evicting the same tokens \
        (evict:bridge=true): a sign test on 4 texts cannot reach 5 %, as at least 6 are needed: ratio of mean KL";
    assert!(shown.contains(few), "{shown}");
    ends(&kvscope(dir.path(), &eval_args("run", &POLICIES)), 2, &["holds an evaluation already", "--resume"]);
    ends(&kvscope(dir.path(), &eval_args("run", &["--resume", "--policy", "h2o"])), 2, &["another set of policies"]);
}

#[test]
fn a_resumed_and_a_sharded_run_end_as_an_unbroken_one() {
    let dir = tempfile::tempdir().unwrap();
    write_prompts(dir.path(), &texts(5));
    done(kvscope(dir.path(), &eval_args("whole", &POLICIES)));
    let whole = contents(&dir.path().join("whole"));
    // What kill -9 leaves: the plan, some rows, and one that is half written.
    let broken = dir.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    done(kvscope(dir.path(), &eval_args("other", &[&POLICIES[..], &["--shard", "1/5"]].concat())));
    let plan: Evaluation = read_json(&dir.path().join("whole").join(Evaluation::FILE)).unwrap();
    let unmeasured = Evaluation {
        rows: 0,
        summary: Vec::new(),
        comparisons: Vec::new(),
        needle: Vec::new(),
        verdict: Vec::new(),
        ..plan
    };
    kvscope::files::write_json(&broken.join(Evaluation::FILE), &unmeasured).unwrap();
    let lines = &whole[ROWS_FILE];
    let end = lines.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(16).unwrap().0;
    std::fs::write(broken.join(ROWS_FILE), &lines[..end + 60]).unwrap();
    done(kvscope(dir.path(), &eval_args("broken", &[&POLICIES[..], &["--resume"]].concat())));
    assert_eq!(contents(&broken), whole);
    done(kvscope(dir.path(), &eval_args("broken", &[&POLICIES[..], &["--resume"]].concat())));
    assert_eq!(contents(&broken), whole);

    for shard in ["1/2", "2/2"] {
        done(kvscope(
            dir.path(),
            &eval_args(&format!("part{}", &shard[..1]), &[&POLICIES[..], &["--shard", shard]].concat()),
        ));
    }
    done(kvscope(dir.path(), &["join", "part2", "part1", "--out", "joined"]));
    assert_eq!(contents(&dir.path().join("joined")), whole);
    ends(&kvscope(dir.path(), &["join", "part1", "--out", "half"]), 2, &["shard 2 of 2 is missing"]);
    ends(&kvscope(dir.path(), &["join", "part1", "part1", "--out", "half"]), 2, &["are both shard 1"]);
}

#[test]
fn what_did_nothing_and_what_cannot_be_scored_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_prompts(dir.path(), &texts(2));
    let refused = |more: &[&str], words: &[&str]| drop(ends(&kvscope(dir.path(), &eval_args("run", more)), 2, words));
    // The full cache's row was measured before, and goes with the text.
    refused(&["--policy", "kvmerger:eps=1"], &["kvmerger:eps=1 on text row0 of even", "changed nothing"]);
    assert!(!dir.path().join("run").exists());
    refused(&["--policy", "full"], &["changes nothing"]);
    refused(&["--budget", "0.5,1"], &["share in (0, 1)"]);
    refused(&["--task", "kl,bleu"], &["no task family \"bleu\"", "zeroscrolls"]);
    refused(&["--task", "ruler"], &["no prompt belongs"]);
    assert!(!dir.path().join("run").exists(), "nothing is left of a run that was refused");
    write_prompts(dir.path(), &[json!({ "context": words(2, 3), "dataset": "d", "_id": "1" })]);
    refused(&[], &["1 were too short"]);
    write_prompts(
        dir.path(),
        &[json!({ "context": words(2, 9), "dataset": "dureader", "_id": "1", "answers": ["x"] })],
    );
    refused(&["--task", "longbench"], &["cannot score dureader", "Chinese"]);
    let record = |dataset: &str, more: Value| {
        let mut record = json!({ "context": words(2, 9), "dataset": dataset, "_id": "1" });
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        record
    };
    for (task, dataset, more, why) in [
        ("ruler", "ruler_vt", json!({}), "has no reference answer"),
        ("ruler", "ruler_vt", json!({ "outputs": [] }), "has no reference answer"),
        ("needle", "needle", json!({ "answers": [" "] }), "has no reference answer"),
        ("longbench", "hotpotqa", json!({ "answers": null }), "has no reference answer"),
        ("longbench", "trec", json!({ "answers": ["Date"] }), "all_classes"),
        ("longbench", "trec", json!({ "answers": ["Date"], "all_classes": [] }), "all_classes"),
        ("longbench", "trec", json!({ "answers": ["Date"], "all_classes": ["Place"] }), "all_classes"),
        ("longbench", "passage_retrieval_en", json!({ "answers": ["3"] }), "Paragraph N"),
        ("longbench", "passage_count", json!({ "answers": ["three"] }), "a number"),
        ("zeroscrolls", "quality", json!({ "answers": ["yes"] }), "letter A to D"),
        ("zeroscrolls", "space_digest", json!({ "answers": ["60"] }), "percentage"),
        ("zeroscrolls", "book_sum_sort", json!({ "answers": ["3"] }), "order"),
    ] {
        write_prompts(dir.path(), &[record(dataset, more)]);
        refused(&["--task", task, "--policy", "h2o"], &[&format!("{task} cannot score text 1 of {dataset}"), why]);
    }
    // One answer of a data set is known, so that the other is missing and not withheld.
    let mut second = record("quality", json!({}));
    second["_id"] = "2".into();
    write_prompts(dir.path(), &[record("quality", json!({ "answers": ["(A)"] })), second]);
    refused(&["--task", "zeroscrolls"], &["text 2 of quality"]);
    write_prompts(dir.path(), &texts(2));
    let kl = |context: &str| {
        let fixed = ["eval", "--model", MODEL, "--prompts", "prompts.jsonl", "--out", "run", "--continuation", "20"];
        ends(
            &kvscope(dir.path(), &[&fixed[..], &["--context", context]].concat()),
            2,
            &["context of 128", "--context"],
        );
    };
    kl("120");
    kl("18446744073709551615");
    assert!(!dir.path().join("run").exists());
    // What is done before a later text is refused stays, and is told.
    let long = json!({ "context": words(2, 9), "dataset": "needle", "_id": "1", "answers": ["reeds"] });
    let short = json!({ "input": "the ring", "dataset": "ruler_vt", "_id": "2", "outputs": ["reeds"] });
    write_prompts(dir.path(), &[long, short]);
    let merging = ["--task", "needle,ruler", "--policy", "kvmerger:eps=0.6"];
    refused(&merging, &["on text 2 of ruler_vt", "what is done stays in run", "with --resume"]);
    let of_both = rows(&dir.path().join("run"));
    let of_both: Vec<_> = of_both.iter().map(|row| (row.id.as_str(), row.policy.as_str())).collect();
    assert_eq!(of_both, [("1", FULL), ("1", "kvmerger:eps=0.6"), ("1", "evict:eps=0.6"), ("2", FULL)]);
}

#[test]
fn answers_come_under_rulers_name_and_may_be_withheld_where_predictions_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let record =
        |dataset: &str, more: Value| json!({ "input": words(2, 9), "dataset": dataset, "index": 0, "outputs": more });
    let run = |task: &str| {
        std::fs::remove_dir_all(dir.path().join("run")).ok();
        let output = kvscope(dir.path(), &eval_args("run", &["--task", task, "--policy", "h2o", "--budget", "0.5"]));
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8_lossy(&output.stderr).into_owned(), rows(&dir.path().join("run")))
    };
    write_prompts(dir.path(), &[record("ruler_vt", json!(["12", "13"]))]);
    let (_, scored) = run("ruler");
    assert!(scored.iter().all(|row| row.metrics.contains_key("score") && row.answers == ["12", "13"]));
    write_prompts(dir.path(), &[record("quality", Value::Null)]);
    let (said, unscored) = run("zeroscrolls");
    assert!(said.contains("zeroscrolls/quality: texts without a reference answer: 1"), "{said}");
    assert!(unscored.iter().all(|row| row.metrics.is_empty() && row.pred.is_some()));
}

#[test]
fn answers_are_written_as_the_benchmarks_take_them() {
    let dir = tempfile::tempdir().unwrap();
    let record = |dataset: &str, id: &str, text: String, answer: &str| {
        json!({ "context": text, "input": "", "answers": [answer], "dataset": dataset, "_id": id, "length": 9,
                "all_classes": null, "language": "en" })
    };
    write_prompts(
        dir.path(),
        &[
            record("hotpotqa", "q1", words(2, 14), "the ring"),
            record("hotpotqa", "q2", words(3, 40), "reeds"),
            record("quality", "z1", words(4, 12), "(A) a"),
            record("needle_toy", "n1", words(5, 10), "in a stone"),
            record("ruler_vt", "r1", words(6, 10), "reeds"),
        ],
    );
    let more = ["--task", "longbench,zeroscrolls,needle,ruler", "--policy", "kvmerger:bridge=true", "--budget", "0.5"];
    let shown = done(kvscope(dir.path(), &eval_args("run", &more)));
    assert!(shown.contains("longbench/hotpotqa") && shown.contains("zeroscrolls, all data sets"), "{shown}");
    let run = dir.path().join("run");
    let evaluation: Evaluation = read_json(&run.join(Evaluation::FILE)).unwrap();
    assert_eq!(evaluation.rows, 15);
    for policy in ["full", "kvmerger-bridge=true-0.5", "evict-bridge=true-0.5"] {
        let folder = run.join("predictions").join(policy);
        let text = std::fs::read_to_string(folder.join("hotpotqa.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{policy}");
        assert_eq!((&lines[1]["_id"], &lines[1]["answers"]), (&json!("q2"), &json!(["reeds"])));
        assert_eq!((&lines[1]["length"], &lines[1]["all_classes"]), (&json!(9), &Value::Null));
        assert!(lines[1]["pred"].is_string());
        let map: Value = serde_json::from_slice(&std::fs::read(folder.join("preds_quality.json")).unwrap()).unwrap();
        assert!(map["z1"].is_string(), "{policy}");
    }
    let rows = rows(&run);
    // 128 positions less 32 for the answer: the middle of the long prompt went.
    assert!(rows.iter().filter(|row| row.id == "q2").all(|row| row.n_prompt_tokens == 96));
    // What the runner says of the full cache is what generation gives.
    let model = model("llama-gqa");
    let row = rows.iter().find(|row| row.id == "q1" && row.policy == "full").unwrap();
    let prompt = model.tokenizer().unwrap().encode(&words(2, 14), AddSpecial::Yes).unwrap();
    let stop_tokens = model.tokenizer().unwrap().eos().to_vec();
    let options = kvscope::runtime::GenerateOptions { max_new_tokens: 32, stop_tokens, ..Default::default() };
    let mut cache = RaggedCache::new(model.config(), Float::F32, None);
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    let generation = kvscope::runtime::generate(&model, &prompt, &mut cache, &options, go_on).unwrap();
    assert_eq!((row.n_prompt_tokens, row.n_new_tokens), (prompt.len(), generation.tokens.len()));
    let drawn = done(kvscope(dir.path(), &["report", "run", "--out", "figures", "-v"]));
    for name in ["policies.png", "policies-zeroscrolls.svg", "needle-grid.png", "run/report.html"] {
        assert!(drawn.contains(name), "{name}: {drawn}");
    }
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(
        page.contains(">Evaluation<")
            && page.contains("Answers side by side")
            && page.contains("evict:bridge=true")
            && page.contains("figure-needle-grid")
    );
    let grid = std::fs::read_to_string(dir.path().join("figures/needle-grid.svg")).unwrap();
    assert!(grid.contains("Depth of the needle, %") && grid.contains("evict:bridge=true, 50 %"), "{grid}");
    // One needle, of 2 policies beside the full cache.
    assert_eq!(evaluation.needle.len(), 2);
    assert_eq!((evaluation.needle[0].cells.len(), evaluation.needle[0].cells[0].n), (1, 1));
}

#[test]
fn a_hidden_question_is_read_behind_the_compressed_context() {
    let dir = tempfile::tempdir().unwrap();
    let record = |id: &str, context: String, input: &str| json!({ "context": context, "input": input, "answers": ["reeds"], "dataset": "ruler_vt", "_id": id });
    write_prompts(dir.path(), &[record("a", words(2, 10), "the ring and"), record("b", words(3, 11), "a stone")]);
    let more = ["--task", "ruler", "--policy", "h2o", "--budget", "0.5", "--raw"];
    done(kvscope(dir.path(), &eval_args("seen", &more)));
    done(kvscope(dir.path(), &eval_args("hidden", &[&more[..], &["--hide-question"]].concat())));
    let of = |run: &str, policy: &str| -> Vec<Row> {
        rows(&dir.path().join(run)).into_iter().filter(|row| row.policy == policy).collect()
    };
    let predictions = |rows: &[Row]| rows.iter().map(|row| row.pred.clone().unwrap()).collect::<Vec<_>>();
    // The full cache answers alike, whenever it reads the question.
    assert_eq!(predictions(&of("seen", FULL)), predictions(&of("hidden", FULL)));
    let model = model("llama-gqa");
    for (row, words) in of("hidden", "h2o").iter().zip([words(2, 10), words(3, 11)]) {
        let context = model.tokenizer().unwrap().encode(&words, AddSpecial::Yes).unwrap();
        let heads = model.config().n_layers * model.config().n_kv_heads;
        assert_eq!(row.counters.seen, context.len() * heads, "{}", row.id);
        assert!(row.n_prompt_tokens > context.len());
    }
    let hidden: Evaluation = read_json(&dir.path().join("hidden").join(Evaluation::FILE)).unwrap();
    assert!(hidden.evaluated.contains("before the question"), "{}", hidden.evaluated);
    // Nothing to hide.
    let asks_nothing = eval_args("none", &["--hide-question", "--policy", "h2o"]);
    ends(&kvscope(dir.path(), &asks_nothing), 2, &["asks nothing"]);
    write_prompts(dir.path(), &[record("c", words(2, 10), "")]);
    ends(
        &kvscope(dir.path(), &eval_args("none", &[&more[..], &["--hide-question"]].concat())),
        2,
        &["no question behind"],
    );
    assert!(!dir.path().join("none").exists());
}

fn prompt(id: &str, text: String) -> Prompt {
    Prompt {
        dataset: "d".into(),
        id: id.into(),
        text,
        earlier: Vec::new(),
        context_bytes: None,
        answers: Vec::new(),
        all_classes: None,
        language: None,
        length: None,
        source_name: "-".into(),
    }
}

#[test]
fn needles_are_planted_at_every_length_and_depth() {
    let model = model("llama-gqa");
    let prompts = [prompt("short", words(2, 90)), prompt("long", words(3, 400))];
    let grid = eval::NeedleGrid { lengths: vec![300, 700], depths: vec![0, 50, 100], per_cell: 2 };
    let planted = eval::plant(&model, &prompts, &grid, 1).unwrap();
    assert_eq!(planted.len(), 12);
    assert_eq!(planted, eval::plant(&model, &prompts, &grid, 1).unwrap());
    let cells = [(300, 0), (300, 50), (300, 100), (700, 0), (700, 50), (700, 100)].repeat(2);
    for (prompt, (length, depth)) in planted.iter().zip(cells) {
        assert!(prompt.id.starts_with(&format!("{length}-{depth}-")), "{}", prompt.id);
        let tokens = model.tokenizer().unwrap().encode(&prompt.text, AddSpecial::No).unwrap().len();
        // A text cut within a word may be some tokens longer or shorter than it was.
        assert!(tokens.abs_diff(length) <= 4, "{tokens} of {length}");
        let text = prompt.text.split("\n\nQuestion:").next().unwrap();
        let at = 100.0 * text.find(&format!("is {}.", prompt.answers[0])).unwrap() as f64 / text.len() as f64;
        // The words end sentences about every seventh part.
        assert!((at - f64::from(depth)).abs() < 30.0, "{} stands at {at:.0} %", prompt.id);
    }
    let ids: std::collections::BTreeSet<&String> = planted.iter().map(|prompt| &prompt.id).collect();
    assert_eq!(ids.len(), 12);
    let dir = tempfile::tempdir().unwrap();
    write_prompts(dir.path(), &texts(2));
    let too_long = ["--task", "needle", "--plant", "900"];
    ends(&kvscope(dir.path(), &eval_args("other", &too_long)), 2, &["no text has the 900 tokens"]);
}

#[test]
fn divergences_are_those_of_decoding_token_by_token() {
    let model = model("llama-gqa");
    let text = words(4, 14);
    let prompt = prompt("1", text.clone());
    let settings = Settings {
        context_tokens: 60,
        continuation_tokens: 12,
        max_prompt_tokens: None,
        chat_template: false,
        hide_question: false,
        cache_type: Float::F32,
        seed: 1,
    };
    let (items, skipped) = eval::items(&model, &[prompt], &[task("kl").unwrap()], &settings).unwrap();
    let arms = eval::arms(&["h2o".into(), "snapkv:window=8".into(), "snapkv:window=4".into()], &[0.4]).unwrap();
    let plan = Plan::new(model.identity().unwrap(), &items, skipped, &arms, &settings, Vec::new());
    let dir = tempfile::tempdir().unwrap();
    let target = Target::new(dir.path());
    let mut seen = Vec::new();
    let on_row = &mut |row: &Row| seen.push(row.clone());
    eval::run(&model, &items, &arms, plan, &target, &AtomicBool::new(false), on_row).unwrap();
    let tokens = model.tokenizer().unwrap().encode(&text, AddSpecial::Yes).unwrap();
    assert_eq!(seen.len(), 4);
    for row in &seen[1..] {
        let compression = Compression::parse(&row.policy, Budget::KeptFraction(0.4)).unwrap();
        let mut full = RaggedCache::new(model.config(), Float::F32, None);
        let mut compressed = RaggedCache::new(model.config(), Float::F32, Some(compression));
        let expected = compare(&model, &tokens[..60], &tokens[60..72], &mut full, &mut compressed, 0).unwrap();
        let (found, wanted) = (row.metrics["kl"], expected.mean_kl.unwrap());
        assert!((found - wanted).abs() < 1e-5 * wanted.max(1e-3), "{}: {found} instead of {wanted}", row.policy);
        assert_eq!(row.metrics["top1_agreement"], expected.top1_agreement.unwrap());
        assert_eq!(row.counters.kept, 4 * 24);
    }
}
