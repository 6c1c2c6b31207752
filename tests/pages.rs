//! The page of everything that a folder may hold: each section from made-up files, present, correct and safe against hostile texts.

mod kit {
    pub mod identity;
    pub mod synthetic;
}

use std::path::{Path, PathBuf};

use kit::identity::identity;
use kit::synthetic::{add_explorer, input, profile, with_gaps};
use kvscope::files::write_json;
use kvscope::format::bench::Bench;
use kvscope::format::comparison::Comparison;
use kvscope::format::evaluation::Evaluation;
use kvscope::format::generation::Generated;
use kvscope::format::kind::{KINDS, Kind};
use kvscope::format::profile::{CurvePoint, Profile};
use kvscope::hint::Hint;
use kvscope::report::{Report, write};
use serde_json::{Value, json};

const HOSTILE: &str = "</script><script>alert(1)</script>\u{202e}\"onload='x'";

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn model() -> Value {
    json!(identity(2, 4, 2, 8))
}

fn interval(estimate: f64, low: f64, high: f64) -> Value {
    json!({ "estimate": estimate, "low": low, "high": high, "n": 6 })
}

fn provenance(command: &str) -> Value {
    json!({ "tool": "kvscope 0.1.0", "command": command, "seed": 0, "options": {}, "inputs": [] })
}

/// Two texts, two policies at 25 and 50 % of the slots, with answers.
fn evaluation() -> (Evaluation, Vec<Value>) {
    let arm = |policy: &str, budget: Option<f64>, role: &str| json!({ "policy": policy, "budget": budget, "role": role, "control": null, "params": {} });
    let arms = [
        arm("full", None, "reference"),
        arm("h2o", Some(0.25), "baseline"),
        arm("h2o", Some(0.5), "baseline"),
        arm("kvmerger:bridge=true", Some(0.25), "candidate"),
        arm("kvmerger:bridge=true", Some(0.5), "candidate"),
    ];
    let texts =
        ["t0", HOSTILE].map(|id| json!({ "task": "ruler", "dataset": "ruler_vt", "_id": id, "n_prompt_tokens": 100 }));
    let counters = json!({ "seen": 100, "kept": 50, "merged": 20, "evicted": 30 });
    let mut rows = Vec::new();
    for (t, text) in texts.iter().enumerate() {
        for (a, arm) in arms.iter().enumerate() {
            let answer = if a == 1 { format!("the reeds {t}") } else { format!("{HOSTILE} answer {a} of {t}") };
            let answer = if a == 2 { format!("{HOSTILE} answer 0 of {t}") } else { answer };
            rows.push(json!({
                "task": "ruler", "dataset": "ruler_vt", "_id": text["_id"], "policy": arm["policy"], "budget": arm["budget"],
                "n_prompt_tokens": 100, "n_new_tokens": 4, "counters": counters, "kept_fraction": 0.5, "cache_bytes": 50,
                "full_cache_bytes": 100, "metrics": { "score": 0.25 * a as f64 }, "unmet": null, "pred": answer,
                "answers": ["reeds", "rushes"],
            }));
        }
    }
    let summary = arms.each_ref().map(|arm| {
        json!({
            "task": "ruler", "dataset": null, "policy": arm["policy"], "budget": arm["budget"], "n": 2, "n_unmet": 0,
            "kept_fraction": interval(0.5, 0.4, 0.6), "cache_share": 0.5, "counters": counters,
            "metrics": { "score": interval(0.375, 0.25, 0.5) }, "score_percent": null,
        })
    });
    let evaluation = json!({
        "schema": "kvscope.eval/1", "provenance": provenance("eval"), "model": model(), "shard": null,
        "evaluated": "Each prompt is run once.", "arms": arms, "texts": texts,
        "headlines": { "ruler": { "metric": "score", "title": "score", "less_is_better": false, "beside": [] } },
        "skipped": {}, "planned_rows": 10, "rows": 10, "summary": summary, "comparisons": [], "needle": [],
        "verdict": ["merging beats evicting.", "second.", "third.", "fourth."],
    });
    (parsed(evaluation), rows)
}

fn generated(token_texts: bool) -> Generated {
    let (full, compressed) = (["The", " moon", HOSTILE], ["The", " sun", " sets"]);
    let of = |texts: &[&str]| token_texts.then(|| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>());
    parsed(json!({
        "schema": "kvscope.generate/1", "model": model(), "policy": "h2o", "params": {}, "prompt": HOSTILE,
        "text": compressed.concat(), "token_texts": of(&compressed), "stop": "max_new_tokens", "chat_template": false,
        "prompt_tokens": 100, "new_tokens": 3, "seen_tokens": 102, "cache_bytes": 31_159_128, "full_cache_bytes": 57_353_400,
        "kept_fraction": 0.5384, "prompt_cache_bytes": 1, "prompt_kept_fraction": 0.5, "counters": null, "counters_by_layer": null,
        "prefill_secs": 1.0, "prompt_compress_secs": 0.1, "compress_secs": 0.1, "decode_secs": 0.1, "decode_tokens_per_sec": 20.0,
        "process_bytes_grown": null,
        "full": {
            "text": full.concat(), "token_texts": of(&full), "new_tokens": 3, "prefill_secs": 1.0, "decode_secs": 0.1,
            "decode_tokens_per_sec": 10.0,
        },
        "tokens_until_first_difference": 1,
        "comparison": { "n_tokens": 3, "mean_kl": 0.7, "p95_kl": 2.0, "top1_agreement": 0.666, "kl": [0.0002, 0.02, 2.5] },
    }))
}

fn bench() -> Bench {
    let row = |policy: &str, context: usize, bytes: u64, secs: f64, speedup: Option<f64>| {
        json!({
            "policy": policy, "context_tokens": context, "kept_fraction": 0.5, "cache_bytes": bytes, "prefill_secs": 0.5,
            "compress_secs": 0.01, "decode_secs": secs, "decode_bytes_per_sec": 1e9, "speedup": speedup, "bandwidth_bound": 1.5,
            "bound_fraction": 0.8, "extra_prompt_secs": 0.01, "saved_secs_per_token": 0.001, "break_even_new_tokens": 12.3,
            "samples_secs": { "prefill": [0.5], "compress": [0.01], "decode": [secs, secs] },
        })
    };
    parsed(json!({
        "schema": "kvscope.bench/1", "model": model(), "options": { "max_new_tokens": 64, "threads": 2, "device": "cpu" },
        "weight_bytes": 96_580_000, "memory_read_bytes_per_sec": 30.8e9,
        "rows": [row("full", 512, 10_000_000, 0.008, None), row("h2o", 512, 4_000_000, 0.005, Some(1.6))],
        "break_even": [{ "policy": "h2o", "context_tokens": 352.4, "at_shortest_measured": false }],
    }))
}

fn comparison() -> Comparison {
    let id = |metric: &str| {
        let eps = if metric == "neighbour_cosine_mean" { None } else { Some(0.75) };
        json!({ "metric": metric, "state": "k", "eps": eps, "budget": null, "rule": null })
    };
    let with = |id: Value, more: Value| {
        Value::Object(id.as_object().unwrap().clone().into_iter().chain(more.as_object().unwrap().clone()).collect())
    };
    let run = |name: &str, n_layers: usize, sets: f64| {
        let layers: Vec<Value> = (0..n_layers).map(|_| interval(sets, sets - 0.05, sets + 0.05)).collect();
        let dataset = |name: &str| json!({ "dataset": name, "n_samples": 3, "mean": interval(sets, sets - 0.1, sets + 0.1), "layers": layers });
        let share = |part: f64| interval(part, part, part);
        let mut model = identity(n_layers, 4, 2, 8);
        model.fingerprint = name.into();
        json!({
            "name": name, "model": model, "layers": (0..n_layers).collect::<Vec<_>>(), "datasets": ["news", HOSTILE], "n_samples": 6,
            "n_tokens": 600, "figures": [with(id("set_ratio"), json!({ "mean": interval(sets, sets - 0.1, sets + 0.1) }))],
            "sets": {
                "datasets": [dataset("news"), dataset(HOSTILE)],
                "heads": [{ "layer": 1, "kv_head": 0, "mean": interval(sets, 0.0, 1.0) }, { "layer": 0, "kv_head": 1, "mean": interval(0.1, 0.0, 1.0) }],
                "between_datasets": interval(0.02, 0.01, 0.03), "kendall_w": interval(0.9, 0.8, 1.0), "persistent_share": interval(0.8, 0.7, 0.9),
                "variance": { "head": share(0.8), "dataset": share(0.05), "interaction": share(0.05), "sample": share(0.04), "residual": share(0.06) },
            },
        })
    };
    let figure = |metric: &str, first: f64, other: f64, ends: (f64, f64), has_heads: bool| {
        let head = |layer: usize, differs: bool| json!({ "layer": layer, "kv_head": 0, "first": first, "other": other, "difference": interval(other - first, ends.0, ends.1), "differs": differs });
        with(
            id(metric),
            json!({
                "first": first, "other": other, "difference": interval(other - first, ends.0, ends.1),
                "rank_agreement": has_heads.then(|| interval(0.93, 0.9, 0.95)), "n_differ": usize::from(has_heads),
                "heads": if has_heads { vec![head(0, true), head(1, false)] } else { Vec::new() },
            }),
        )
    };
    parsed(json!({
        "schema": "kvscope.comparison/2", "provenance": provenance("analyze"), "eps": 0.75,
        "runs": [run("first", 2, 0.4), run("same heads", 2, 0.3), run(HOSTILE, 5, 0.7)],
        "distances": { "between_datasets": interval(0.02, 0.01, 0.03), "between_runs": interval(0.2, 0.1, 0.3), "difference": interval(0.18, 0.1, 0.25) },
        "against_first": [
            { "run": 1, "paired": true, "figures": [
                figure("kept_fraction", 0.5, 0.4, (-0.15, -0.05), true), figure("set_ratio", 0.4, 0.3, (-0.2, 0.01), true),
                figure("neighbour_cosine_mean", 0.7, 0.8, (0.05, 0.15), true),
            ] },
            { "run": 2, "paired": false, "figures": [figure("set_ratio", 0.4, 0.7, (0.2, 0.4), false)] },
        ],
    }))
}

/// A folder with one of everything but an analysis, and two profiles and generations.
fn folder(dir: &Path) -> PathBuf {
    let run = dir.join("run");
    std::fs::create_dir(&run).unwrap();
    for (name, budget) in [("a.profile.json", 0.5), ("b.profile.json", 0.25)] {
        let mut profile: Profile = profile(2, 2);
        profile.target_kept_fraction = budget;
        profile.heads.iter_mut().for_each(|head| head.kept_fraction = budget);
        profile.settings[1] = HOSTILE.into();
        let errors = vec![Some(0.1), None, Some(0.2)];
        let point = CurvePoint { kept_fraction: 0.5, eps: None, errors, utility_fraction: Some(0.5) };
        profile.heads[0].curve = vec![point];
        write_json(&run.join(name), &profile).unwrap();
    }
    let (evaluation, rows) = evaluation();
    write_json(&run.join("eval.json"), &evaluation).unwrap();
    let line = |row: &Value| {
        let text = row.to_string();
        let text = text.strip_suffix('}').unwrap();
        format!("{text},\"digest\":\"{:.16}\"}}\n", kvscope::files::sha256_bytes(text.as_bytes()))
    };
    std::fs::write(run.join("rows.jsonl"), rows.iter().map(line).collect::<String>()).unwrap();
    write_json(&run.join("mine.json"), &generated(true)).unwrap();
    write_json(&run.join("older.json"), &generated(false)).unwrap();
    write_json(&run.join("speed.json"), &bench()).unwrap();
    write_json(&run.join("comparison.json"), &comparison()).unwrap();
    std::fs::write(run.join("notes.json"), "[1, 2]").unwrap();
    run
}

fn page(paths: &[PathBuf], dir: &Path) -> String {
    let report = Report::read(paths).unwrap();
    let html = dir.join("page.html");
    write(&report, &dir.join("figures"), &html, None, &mut |_| {}).unwrap();
    std::fs::read_to_string(html).unwrap()
}

fn section<'a>(html: &'a str, id: &str) -> &'a str {
    let begins = format!("<section id=\"{id}\"");
    let rest = &html[html.find(&begins).unwrap_or_else(|| panic!("no section {id}"))..];
    let end = rest[1..].find("<section id=").or_else(|| rest.find("</main>")).unwrap();
    &rest[..end]
}

#[test]
fn a_folder_becomes_one_page_with_a_section_for_each_thing() {
    let dir = tempfile::tempdir().unwrap();
    let html = page(&[folder(dir.path())], dir.path());
    for id in ["summary", "profile", "evaluation", "generation", "speed", "comparison", "provenance"] {
        assert!(html.contains(&format!("<li><a href=\"#{id}\">")) && !section(&html, id).is_empty(), "{id}");
    }
    for id in ["explorer", "persistence", "heads", "datasets"] {
        assert!(!html.contains(&format!("<section id=\"{id}\"")), "{id}");
    }
    // Every part is heard at the top.
    let summary = section(&html, "summary").replace('\u{a0}', " ");
    for words in ["merging beats evicting.", "same heads merges most", "A text was generated with 53.8 %"] {
        assert!(summary.contains(words), "{words}: {summary}");
    }
    // No two elements have a name in common, and each link leads somewhere.
    let ids: Vec<&str> = html.split(" id=\"").skip(1).map(|id| id.split('"').next().unwrap()).collect();
    let different: std::collections::HashSet<&&str> = ids.iter().collect();
    assert_eq!(different.len(), ids.len(), "{ids:?}");
    for target in html.split("href=\"#").skip(1).map(|target| target.split('"').next().unwrap()) {
        assert!(ids.contains(&target), "{target}");
    }
}

#[test]
fn hostile_texts_stay_text_in_every_section() {
    let dir = tempfile::tempdir().unwrap();
    let html = page(&[folder(dir.path())], dir.path());
    assert_eq!(html.matches("<script").count(), 1);
    assert!(!html.contains("\"onload") && !html.contains('\u{202e}'));
    assert!(html.matches("&lt;script&gt;alert(1)").count() > 10);
}

#[test]
fn profiles_stand_beside_each_other_with_their_curves() {
    let dir = tempfile::tempdir().unwrap();
    let html = page(&[folder(dir.path())], dir.path());
    let profiles = section(&html, "profile").replace('\u{a0}', " ");
    assert_eq!(profiles.matches("class=\"variant\"").count(), 2);
    assert!(
        profiles.contains("data-name=\"a: 50.0 % of the slots\"")
            && profiles.contains("data-name=\"b: 25.0 % of the slots\"")
    );
    assert!(profiles.contains("kvscope tune --from b.profile.json --budget 0.13"), "{profiles}");
    // Figures of the second have names of their own.
    assert!(
        profiles.contains("id=\"figure-profile-thresholds\"")
            && profiles.contains("id=\"figure-profile-thresholds-2\"")
    );
    assert!(dir.path().join("figures/profile-thresholds-2.svg").is_file());
    let data = profiles.split("data-profile=\"").nth(1).unwrap().split('"').next().unwrap();
    let plain = data
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    let curves: Value = serde_json::from_str(&plain).unwrap();
    assert_eq!((curves["budget"].as_f64(), curves["unit"].as_str()), (Some(0.5), Some("slots")));
    assert_eq!(curves["heads"].as_array().unwrap().len(), 4);
    assert_eq!(curves["heads"][3], json!([1, 1, 2, 0.5, curves["heads"][3][4], null]));
    assert_eq!(curves["curves"][0], json!([[0.5, null, 0.5, [0.1, null, 0.2]]]));
    assert!(profiles.contains("Layer 1, KV head 1: keeps 50.0 % by C, kvmerger:variant=mass, joins neighbours above"));
}

#[test]
fn an_evaluation_is_shown_text_by_text_with_its_answers() {
    let dir = tempfile::tempdir().unwrap();
    let html = page(&[folder(dir.path())], dir.path());
    let evaluation = section(&html, "evaluation").replace('\u{a0}', " ").replace("<wbr>", "");
    // A table for each budget, with the full cache beside the policies.
    assert_eq!(evaluation.matches("class=\"variant\"").count(), 2);
    assert!(evaluation.contains("data-name=\"25.0 % kept\"") && evaluation.contains("data-name=\"50.0 % kept\""));
    let half =
        evaluation.split("ruler, 50.0 % kept: score of every text").nth(1).unwrap().split("</table>").next().unwrap();
    let titles: Vec<&str> =
        half.split("scope=\"col\"").skip(1).map(|th| th.split(['>', '<']).nth(1).unwrap()).collect();
    assert_eq!(titles, ["Data set", "Text", "Tokens", "full", "h2o", "kvmerger:bridge=true"]);
    let values: Vec<&str> = half.split("data-v=\"").skip(1).map(|v| v.split('"').next().unwrap()).collect();
    assert_eq!(values, ["100.0", "0.0", "0.5", "1.0", "100.0", "0.0", "0.5", "1.0"]);
    let answers = evaluation.split("Answers side by side").nth(1).unwrap();
    assert_eq!(answers.matches("<details>").count(), 2);
    assert!(answers.contains("expected: reeds | rushes") && answers.contains("the reeds 1"));
    assert_eq!(answers.matches("as the full cache").count(), 2);
    assert_eq!(evaluation.matches("fourth.").count(), 1);
}

#[test]
fn generations_are_coloured_by_divergence_and_marked_where_they_part() {
    let dir = tempfile::tempdir().unwrap();
    let html = page(&[folder(dir.path())], dir.path());
    let both = section(&html, "generation").replace('\u{a0}', " ");
    let (mine, older) = both.split_once("data-name=\"older.json: h2o\"").unwrap();
    assert!(mine.contains("share their first 1 tokens and then part"));
    assert!(mine.contains("<span class=\"kl-0\" title=\"token 0: KL 0.00020 nats\">The</span><mark><span class=\"kl-2\" title=\"token 1: KL 0.02000 nats\"> moon</span></mark><span class=\"kl-5\""));
    assert!(mine.contains("The<mark> sun</mark> sets"), "{mine}");
    assert!(mine.contains("31.16 MB") && mine.contains("57.35 MB") && mine.contains("50.0 %"));
    // Files of earlier versions do not tell tokens apart: the text is whole and the colours stand below.
    assert!(older.contains("The<mark> sun</mark> sets") && older.contains("tokens, one after the other"), "{older}");
}

#[test]
fn speed_and_comparison_say_what_their_numbers_mean() {
    let dir = tempfile::tempdir().unwrap();
    let html = page(&[folder(dir.path())], dir.path());
    let speed = section(&html, "speed").replace('\u{a0}', " ");
    assert!(speed.contains("At 512 tokens h2o decodes 1.60 times as fast as the full cache, with 40.0 % of its bytes. It pays with 64 new tokens from 352 tokens of context on."), "{speed}");
    assert!(speed.contains("--bar:40") && speed.contains(">13<"));
    let compared = section(&html, "comparison").replace("<wbr>", "");
    for words in [
        "same heads merges most, with 0.300 (0.200 to 0.400) sets per unprotected token at eps 0.75, before first with 0.400",
        "The models differ more than the data sets do: at equal depth, two data sets of one model lie 0.020 (0.010 to 0.030) apart, two models on one data set 0.200 (0.100 to 0.300); of the variance of a run, heads account for 80 % in first",
        "Head by head against first: same heads differs in 1 of 2, by -0.200 to 0.010 on average (no difference is shown), and orders them alike (rank correlation 0.93); heads of ",
        "(5 layers x 2 heads) are not compared one by one with those of first (2 layers x 2 heads).",
        "no head of one is compared with a head of the other",
        "merges more in same heads",
        "figure-sets-by-depth",
    ] {
        assert!(compared.contains(words), "{words}: {compared}");
    }
    assert!(compared.contains("Share of the slots that stay at threshold 0.75, protected tokens included"));
}

#[test]
fn files_are_taken_one_by_one_and_what_is_no_report_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = folder(dir.path());
    let html = page(&[run.join("speed.json"), run.join("mine.json")], dir.path());
    assert!(
        html.contains("<section id=\"speed\"")
            && html.contains("<section id=\"generation\"")
            && !html.contains("<section id=\"evaluation\"")
    );
    let error = |paths: &[PathBuf]| {
        let error = Report::read(paths).unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    };
    assert!(error(&[run.join("notes.json")]).contains("notes.json is nothing that a report shows"));
    assert!(error(&[run.clone(), run.join("eval.json")]).contains("two evaluations"));
    std::fs::write(run.join("a.profile.json"), "{").unwrap();
    assert!(error(std::slice::from_ref(&run)).contains("a.profile.json"));
}

#[test]
fn figures_of_an_earlier_run_are_replaced_and_other_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let run = folder(dir.path());
    page(std::slice::from_ref(&run), dir.path());
    let figures = dir.path().join("figures");
    let foreign = ["policies-mine.svg", "policies-mine.png", "notes.svg"];
    foreign.iter().for_each(|name| std::fs::write(figures.join(name), "<svg>").unwrap());
    assert!(figures.join("profile-quality-2.png").is_file() && figures.join("policies.svg").is_file());
    std::fs::remove_file(run.join("b.profile.json")).unwrap();
    std::fs::remove_file(run.join("eval.json")).unwrap();
    page(&[run], dir.path());
    for gone in ["profile-quality-2.png", "profile-quality-2.svg", "policies.svg", "policies.png"] {
        assert!(!figures.join(gone).exists(), "{gone}");
    }
    assert!(figures.join("profile-quality.png").is_file() && foreign.iter().all(|name| figures.join(name).is_file()));
}

#[test]
fn the_persistence_matrix_has_every_head_and_data_set() {
    let dir = tempfile::tempdir().unwrap();
    let with_table = |gaps: bool| {
        let mut input = input(30, 3, &["news", "code", "dialogue"], dir.path());
        input.analysis.table = None;
        let input = if gaps { with_gaps(input) } else { input };
        let html = dir.path().join("page.html");
        write(&input.report(), &dir.path().join("figures"), &html, None, &mut |_| {}).unwrap();
        let html = std::fs::read_to_string(html).unwrap();
        section(&html, "persistence").to_string()
    };
    let persistence = with_table(false);
    assert_eq!(persistence.matches("<tr>").count(), 1 + 30 * 3);
    assert!([">news</th>", ">dialogue</th>", "figure-persistence"].iter().all(|text| persistence.contains(text)));
    assert!(persistence.contains("Without intervals: the table stats.parquet"));
    // All heads of one data set are unknown, and a layer of another.
    assert_eq!(
        with_table(true).matches("class=\"n none\"").count(),
        persistence.matches("class=\"n none\"").count() + 90 + 3
    );
}

#[test]
fn the_explorer_stands_behind_the_summary_and_leaves_room_for_all_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut input = input(5, 2, &["news", "code"], dir.path());
    add_explorer(&mut input.analysis, dir.path(), 2500, &|token| format!("{token} "));
    let mut report = Report::read(&[folder(dir.path())]).unwrap();
    report.analysis = input.report().analysis;
    report.page_bytes = 1_500_000;
    let html = dir.path().join("page.html");
    write(&report, &dir.path().join("figures"), &html, None, &mut |_| {}).unwrap();
    let html = std::fs::read_to_string(html).unwrap();
    let sections: Vec<&str> = html
        .split("<section id=\"")
        .skip(1)
        .map(|s| s.split('"').next().unwrap())
        .filter(|id| !id.starts_with("x-"))
        .collect();
    let expected =
        "summary explorer persistence profile evaluation generation speed comparison figures datasets heads provenance";
    assert_eq!(sections.join(" "), expected);
    assert!(html.len() <= report.page_bytes && html.contains("data-part=\"0.texts\""), "{} bytes", html.len());
}

#[test]
fn every_kind_is_told_by_its_schema_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let run = folder(dir.path());
    for (file, what) in [
        ("a.profile.json", "a profile"),
        ("eval.json", "an evaluation"),
        ("rows.jsonl", "an evaluation's rows"),
        ("mine.json", "a generation"),
        ("speed.json", "a measurement of speed and memory"),
        ("comparison.json", "a comparison"),
    ] {
        let kind = Kind::of(&run.join(file)).unwrap().unwrap();
        assert_eq!((kind.what, (kind.faults)(&run.join(file))), (what, Vec::new()), "{file}");
    }
    assert!(Kind::of(&run.join("notes.json")).unwrap().is_none());
    let mut schemas: Vec<_> = KINDS.iter().map(|kind| (kind.schema, kind.name)).collect();
    schemas.sort_unstable();
    schemas.dedup();
    assert_eq!(schemas.len(), KINDS.len());
    // One number that cannot be, of each.
    let spoilt = |file: &str, pointer: &str, value: Value, words: &str| {
        let path = run.join(file);
        let mut document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        *document.pointer_mut(pointer).unwrap() = value;
        std::fs::write(&path, document.to_string()).unwrap();
        let faults = (Kind::of(&path).unwrap().unwrap().faults)(&path);
        assert!(faults.len() == 1 && faults[0].contains(words) && faults[0].contains(file), "{faults:?}");
    };
    spoilt("speed.json", "/rows/1/decode_secs", json!(-0.5), "h2o at 512 tokens took -0.5 s");
    spoilt("comparison.json", "/against_first/0/figures/0/n_differ", json!(2), "1 heads differ where it says 2");
    spoilt("mine.json", "/comparison/kl", json!([0.1]), "the KL of 1 tokens where it says 3");
    spoilt("older.json", "/kept_fraction", json!(1.5), "1.5 of the slots are kept");
}
