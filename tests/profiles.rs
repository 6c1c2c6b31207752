//! Profiles as a user makes them: valid against their schema, solved again for another budget, and honest about failure.

mod kit {
    pub mod chat;
    pub mod cli;
    pub mod demo;
    pub mod files;
    pub mod fixtures;
    pub mod tiny;
}

use std::path::Path;
use std::sync::Arc;

use kit::chat::{BRACKETS, write_model};
use kit::cli::{done, ends, kvscope};
use kit::demo::demo_model;
use kit::fixtures::fixture;
use kit::tiny::{MODEL, texts, write_prompts};
use kvscope::files::read_json;
use kvscope::format::dump::Dump;
use kvscope::format::profile::{Profile, Tried};
use kvscope::hint::Hint;
use kvscope::math::Projections;
use kvscope::model::Model;
use kvscope::model::tokenizer::AddSpecial;
use kvscope::tune::{TuneOptions, evicting, tune};
use serde_json::{Value, json};

/// A text that the tiny tokenizer can spell.
const PROMPT: &str = "the ring and then in a stone, another thing on the shore, again. the reeds and the ring";

/// Twelve texts of two data sets that the tiny tokenizer can spell, captured.
fn captured(dir: &Path, more: &[&str]) {
    write_prompts(dir, &texts(12));
    let fixed = ["capture", "--model", MODEL, "--prompts", "prompts.jsonl", "--out", "dumps/run", "--queries", "24"];
    done(kvscope(dir, &[&fixed[..], more].concat()));
}

/// A profile that stands in its schema.
fn valid(path: &Path) -> Profile {
    let schema: Value = serde_json::from_str(include_str!("../docs/schema/profile.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let faults: Vec<String> = validator.iter_errors(&document).map(|fault| fault.to_string()).collect();
    assert_eq!(faults, [""; 0], "{}", path.display());
    let mut broken = document.clone();
    broken["heads"][0]["kept_fraction"] = json!(1.5);
    assert!(!validator.is_valid(&broken));
    let profile: Profile = read_json(path).unwrap();
    profile.check().unwrap();
    profile
}

/// What has the least KL of all that was tried.
fn best(profile: &Profile) -> &Tried {
    let kl = |tried: &&Tried| tried.kl.map_or(f64::INFINITY, |kl| kl.estimate);
    profile.tried.iter().min_by(|a, b| kl(a).total_cmp(&kl(b))).unwrap()
}

fn mean_share(profile: &Profile) -> f64 {
    profile.heads.iter().map(|head| head.kept_fraction).sum::<f64>() / profile.heads.len() as f64
}

#[test]
fn budgets_are_met_exactly_and_other_ones_are_solved_from_the_curves() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    done(kvscope(dir, &["tune", "dumps/run", "--budget", "0.6,0.4", "--refit", "lambda=0.2"]));
    let first = dir.join("reports/run/llama-gqa-0.6.profile.json");
    let profile = valid(&first);
    assert!((mean_share(&profile) - 0.6).abs() < 1e-9);
    assert_eq!((profile.calibration.len(), profile.held_out.len(), profile.refit.unwrap().lambda), (8, 4, 0.2));
    // No document is on both sides, and every data set on each.
    assert!(profile.held_out.iter().all(|sample| profile.calibration.iter().all(|other| other.id != sample.id)));
    let kept = profile.held_out_kept_fraction.unwrap().estimate;
    assert!((kept - 0.6).abs() < 0.02, "{kept}");
    assert_eq!(profile.quality[0].rule, "tuned");
    assert_eq!(profile.tried.iter().map(|tried| tried.search.as_str()).collect::<Vec<_>>().len(), 5);
    valid(&dir.join("reports/run/llama-gqa-0.4.profile.json"));
    let shown = done(kvscope(dir, &["inspect", first.to_str().unwrap()]));
    assert!(shown.contains("settings") && shown.contains("kept_fraction_of_heads"), "{shown}");

    // The same search on the same curves at 0.4 gives what the dumps gave.
    let from = ["tune", "--from", first.to_str().unwrap(), "--budget", "0.4,0.5", "--search", "hull", "--out", "again"];
    done(kvscope(dir, &from));
    let solved = valid(&dir.join("again/llama-gqa-0.4.profile.json"));
    done(kvscope(
        dir,
        &["tune", "dumps/run", "--budget", "0.6,0.4", "--refit", "lambda=0.2", "--search", "hull", "--out", "hull"],
    ));
    let measured = valid(&dir.join("hull/llama-gqa-0.4.profile.json"));
    let choices = |profile: &Profile| -> Vec<(usize, f64)> {
        profile.heads.iter().map(|head| (head.setting, head.kept_fraction)).collect()
    };
    assert_eq!(choices(&solved), choices(&measured));
    assert!(
        solved.quality.is_empty() && solved.held_out_kept_fraction.is_none() && solved.verdict.contains("Solved on")
    );
    assert!((mean_share(&valid(&dir.join("again/llama-gqa-0.5.profile.json"))) - 0.5).abs() < 1e-9);
    // Byte for byte the same again.
    let bytes = std::fs::read(&first).unwrap();
    done(kvscope(dir, &["tune", "dumps/run", "--budget", "0.6,0.4", "--refit", "lambda=0.2", "--threads", "1"]));
    assert_eq!(std::fs::read(&first).unwrap(), bytes);

    // What the profile says is what the runtime does.
    let args = ["--json", "generate", "--model", MODEL, "--prompt", PROMPT, "--max-new-tokens", "2", "--profile"];
    let run: Value =
        serde_json::from_slice(&kvscope(dir, &[&args[..], &[first.to_str().unwrap()]].concat()).stdout).unwrap();
    assert!((run["prompt_kept_fraction"].as_f64().unwrap() - 0.6).abs() < 0.02, "{run}");
}

#[test]
fn a_budget_of_bytes_counts_what_merging_stores_beside_the_slots() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    let merging = ["--policy", "kvmerger:bridge=true,variant=log-count", "--budget", "0.6", "--refit", "none"];
    for (unit, n_bytes) in [("f16", 2.0), ("f32", 4.0)] {
        done(kvscope(dir, &[&["tune", "dumps/run", "--budget-unit", unit, "--out", unit], &merging[..]].concat()));
        let path = dir.join(unit).join("llama-gqa.profile.json");
        let profile = valid(&path);
        assert_eq!((profile.budget_unit.as_str(), profile.target_kept_fraction), (unit, 0.6));
        // Keys, values and a position; beside them a count and a bias.
        let full = 2.0 * n_bytes * profile.model.head_dim as f64 + 4.0;
        let share = 0.6 * full / (full + 6.0);
        assert!(
            mean_share(&profile) <= share && mean_share(&profile) > share - 2e-4,
            "{unit}: {}",
            mean_share(&profile)
        );
        // What the cache then holds of its bytes, but for the rounding of slots.
        let args =
            ["--json", "generate", "--model", MODEL, "--prompt", PROMPT, "--max-new-tokens", "1", "--cache-dtype"];
        let run = done(kvscope(dir, &[&args[..], &[unit, "--profile", path.to_str().unwrap()]].concat()));
        let run: Value = serde_json::from_str(&run).unwrap();
        let held = run["cache_bytes"].as_f64().unwrap() / run["full_cache_bytes"].as_f64().unwrap();
        assert!((held - 0.6).abs() < 0.005, "{unit}: {held}");
        // The same from the curves.
        let from =
            ["tune", "--from", path.to_str().unwrap(), "--budget", "0.6", "--budget-unit", unit, "--out", "again"];
        done(kvscope(dir, &from));
        let solved = valid(&dir.join("again/llama-gqa-0.6.profile.json"));
        assert!((mean_share(&solved) - mean_share(&profile)).abs() < 2e-4);
    }
    ends(&kvscope(dir, &["tune", "dumps/run", "--budget-unit", "f8"]), 2, &["choose one of slots"]);
}

#[test]
fn a_profile_that_is_worse_than_a_plain_policy_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    // Random tokens do worse than those of largest attention: told, and no file.
    let chance = ["--policy", "random", "--refit", "none", "--budget", "0.3", "--model", MODEL, "--out", "chance"];
    let words = ["the profile for 0.3 is not written", "nats, that of"];
    ends(&kvscope(dir, &[&["tune", "dumps/run"], &chance[..]].concat()), 1, &words);
    assert!(!dir.join("chance/llama-gqa.profile.json").exists());
    // Whatever is written, at any budget, is no worse on the held-out samples than the policies that need no tuning.
    let run = kvscope(dir, &["tune", "dumps/run", "--budget", "0.5,0.2,0.1,0.05", "--model", MODEL, "--out", "run"]);
    let mut n_written = 0;
    for budget in ["0.5", "0.2", "0.1", "0.05"] {
        let path = dir.join(format!("run/llama-gqa-{budget}.profile.json"));
        if !path.exists() {
            let said =
                String::from_utf8_lossy(&run.stderr).contains(&format!("the profile for {budget} is not written"));
            assert!(said && run.status.code() == Some(1), "{budget}");
            continue;
        }
        n_written += 1;
        let profile = valid(&path);
        let of = |name: &str| profile.held_out_kl.iter().find(|way| way.policy == name).unwrap().kl.estimate;
        assert!(["h2o", "equal sizes", "LU-KV sizes"].iter().all(|plain| of("tuned") <= of(plain)), "{budget}");
        assert_eq!(profile.held_out_kl[0].kl.n, 4);
        // What the end of the prompt attends to has a share beside every head's own score.
        assert_eq!(profile.beside.as_deref(), Some("window,share=0.25"));
        let policy = profile.policy_of(&profile.heads[0]);
        assert_eq!(
            policy.strip_prefix(profile.setting_of(&profile.heads[0])).unwrap()[1..],
            *"beside=window,share=0.25"
        );
    }
    assert!(n_written > 0);
    let beside = |typed: &str| {
        let run = ["tune", "dumps/run", "--budget", "0.5", "--probe", "0", "--model", MODEL, "--out", "beside"];
        kvscope(dir, &[&run[..], &["--beside", typed]].concat())
    };
    done(beside("none"));
    assert_eq!(valid(&dir.join("beside/llama-gqa.profile.json")).beside, None);
    done(beside("recency,share=0.5"));
    let own = Some("recency,share=0.5".to_string());
    assert_eq!(valid(&dir.join("beside/llama-gqa.profile.json")).beside, own);
    ends(&beside("luck"), 2, &["there is no score \"luck\"", "window"]);
    // Another budget keeps it.
    done(kvscope(dir, &["tune", "--from", "beside/llama-gqa.profile.json", "--budget", "0.4", "--out", "beside"]));
    assert_eq!(valid(&dir.join("beside/llama-gqa-0.4.profile.json")).beside, own);
    // A profile alone has no samples to run.
    let from = ["tune", "--from", "run/llama-gqa-0.5.profile.json", "--budget", "0.4", "--model", MODEL];
    ends(&kvscope(dir, &from), 2, &["no samples to run the model over", "--validate"]);
}

#[test]
fn a_merge_that_loses_to_its_own_eviction_is_not_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    let tuned = |policies: &[&str], out: &str| {
        let run = ["tune", "dumps/run", "--budget", "0.5", "--refit", "none", "--model", MODEL, "--out", out];
        done(kvscope(dir, &[&run[..], policies].concat()));
        dir.join(out).join("llama-gqa.profile.json")
    };
    // The published rule takes from merged tokens their part of attention.
    let path = tuned(&["--policy", "kvmerger:variant=paper,bridge=true"], "paper");
    let profile = valid(&path);
    let least = best(&profile);
    assert!(least.evicting && least.search == profile.search && least.kl.unwrap().n == 4, "{:?}", profile.tried);
    assert_eq!(profile.settings, ["evict:bridge=true"]);
    assert!(profile.verdict.contains("No head merges") && profile.verdict.contains("on 4 calibration texts"));
    let policies: Vec<&str> = profile.held_out_kl.iter().map(|line| line.policy.as_str()).collect();
    assert_eq!(policies, ["tuned", "h2o", "equal sizes", "LU-KV sizes"]);
    // What these evictions cost at another budget is not known.
    ends(&kvscope(dir, &["tune", "--from", path.to_str().unwrap(), "--budget", "0.4"]), 1, &["no setting meets"]);

    // What was measured of the control is the evicting profile's own; other settings stay as they are.
    done(kvscope(dir, &["tune", "dumps/run", "--budget", "0.4", "--search", "hull", "--out", "hull"]));
    let merging = valid(&dir.join("hull/llama-gqa.profile.json"));
    let evicts = evicting(&merging).unwrap().unwrap();
    evicts.check().unwrap();
    assert_eq!((&evicts.settings[..2], evicts.quality[0].rule.as_str()), (&merging.settings[..2], "tuned"));
    assert_eq!(evicts.quality[0].calibration, merging.quality[1].calibration);
    let costs =
        |profile: &Profile| -> Vec<bool> { (0..3).map(|i| profile.heads[0].curve[5].errors[i].is_some()).collect() };
    assert_eq!((costs(&merging), costs(&evicts)), (vec![true; 3], vec![true, true, false]));
    assert_eq!(evicting(&evicts).unwrap(), None);
}

#[test]
fn sizes_of_lukv_are_a_profile_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    let tune = ["tune", "dumps/run", "--search", "lukv", "--refit", "none", "--budget", "0.6,0.4"];
    for policy in ["expected:span=16", "h2o:recent=0", "evict:bridge=true"] {
        done(kvscope(dir, &[&tune[..], &["--policy", policy, "--out", "run"]].concat()));
        let path = dir.join("run/llama-gqa-0.6.profile.json");
        let profile = valid(&path);
        assert_eq!(
            (profile.search.as_str(), &profile.settings[..], profile.refit),
            ("lukv", &[policy.into()][..], None)
        );
        assert!((mean_share(&profile) - 0.6).abs() < 1e-9);
        let shares: Vec<f64> = profile.heads.iter().map(|head| head.kept_fraction).collect();
        assert!(shares.iter().any(|share| (share - shares[0]).abs() > 0.01), "{shares:?}");
        assert!(profile.quality[0].rule == "tuned" && profile.quality[0].calibration.estimate > 0.0);
        // From the curves of the one, what the dumps gave the other.
        done(kvscope(dir, &["tune", "--from", path.to_str().unwrap(), "--budget", "0.4", "--out", "again"]));
        let (a, b) = ("run/llama-gqa-0.4.profile.json", "again/llama-gqa-0.4.profile.json");
        let sizes =
            |path: &str| -> Vec<f64> { valid(&dir.join(path)).heads.iter().map(|head| head.kept_fraction).collect() };
        assert_eq!(sizes(a), sizes(b), "{policy}");
        let eval = ["eval", "--model", MODEL, "--prompts", "prompts.jsonl", "--context", "60", "--continuation", "12"];
        let out = format!("eval-{}", policy.split(':').next().unwrap());
        done(kvscope(dir, &[&eval[..], &["--samples", "1", "--profile", a, "--out", &out]].concat()));
    }
    // Four sinks stay whatever they are worth: more than a twentieth of these texts.
    let small = ["tune", "dumps/run", "--search", "lukv", "--policy", "expected", "--budget", "0.05"];
    ends(&kvscope(dir, &small), 1, &["no setting meets a budget of 0.05"]);
}

#[test]
fn what_is_written_for_small_budgets_is_no_worse_than_h2o_on_any_calibration() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    // Eight calibration samples, and one of each data set.
    for (seed, hold_out, n_calibration) in [("0", "0.34", 8), ("1", "0.34", 8), ("2", "0.9", 2), ("3", "0.9", 2)] {
        no_worse_than_h2o(dir, MODEL, "llama-gqa", &["--seed", seed, "--hold-out", hold_out], n_calibration);
    }
}

#[test]
#[ignore = "needs the demo model: kvscope pull smollm2-135m"]
fn demo_model_profiles_for_small_budgets_are_no_worse_than_h2o() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let (prose, code) = (read("docs/ARCHITECTURE.md"), read("src/model/gguf/tests.rs"));
    let part = |text: &str, i: usize| text.chars().skip(2500 * i).take(2500).collect::<String>();
    let row = |i: usize| {
        let (dataset, text) = [("prose", &prose), ("code", &code)][i % 2];
        json!({ "context": part(text, i / 2), "dataset": dataset, "_id": format!("row{i}") })
    };
    write_prompts(dir, &(0..10).map(row).collect::<Vec<_>>());
    let model = demo_model();
    let model = model.to_str().unwrap();
    done(kvscope(
        dir,
        &["capture", "--model", model, "--prompts", "prompts.jsonl", "--max-tokens", "512", "--out", "dumps/run"],
    ));
    for (hold_out, n_calibration) in [("0.4", 6), ("0.8", 2)] {
        no_worse_than_h2o(
            dir,
            model,
            "SmolLM2-135M-Instruct.Q4_1",
            &["--hold-out", hold_out, "--probe", "2"],
            n_calibration,
        );
    }
}

/// Profiles for 10 and 5 % are no worse than h2o on held-out samples, or are not written.
fn no_worse_than_h2o(dir: &Path, model: &str, name: &str, options: &[&str], n_calibration: usize) {
    let fixed = ["tune", "dumps/run", "--budget", "0.1,0.05", "--model", model, "--out", "small"];
    std::fs::remove_dir_all(dir.join("small")).ok();
    let run = kvscope(dir, &[&fixed[..], options].concat());
    for budget in ["0.1", "0.05"] {
        let path = dir.join(format!("small/{name}-{budget}.profile.json"));
        if !path.exists() {
            let said =
                String::from_utf8_lossy(&run.stderr).contains(&format!("the profile for {budget} is not written"));
            assert!(said && run.status.code() == Some(1), "{budget} {options:?}: {run:?}");
            continue;
        }
        let profile = valid(&path);
        assert_eq!(profile.calibration.len(), n_calibration);
        let of = |name: &str| profile.held_out_kl.iter().find(|way| way.policy == name).unwrap().kl;
        assert!(of("tuned").n > 1 && of("tuned").estimate <= of("h2o").estimate, "{budget} {options:?}");
    }
}

#[test]
fn what_no_setting_meets_is_said_and_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    let protecting = ["tune", "dumps/run", "--budget", "0.3", "--policy", "kvmerger:recent=0.3,heavy=0.3"];
    ends(&kvscope(dir, &protecting), 1, &["no setting meets a budget of 0.3"]);
    assert!(!dir.join("reports/run").exists());
    let strict = ["tune", "dumps/run", "--budget", "0.3", "--max-error", "0.000001"];
    ends(&kvscope(dir, &strict), 1, &["no setting meets --max-error"]);
    for (args, word) in [
        (&["--budget", "1.5"][..], "share in (0, 1)"),
        (&["--policy", "kvmerger:eps=0.5"], "decide its size"),
        (&["--policy", "snapkv"], "--decode"),
        (&["--late", "99"], "more --queries"),
        (&["--search", "best"], "choose one of equal"),
        (&["--measure", "kl"], "choose one of layer"),
        (&["--hold-out", "1"], "held-out samples"),
    ] {
        ends(&kvscope(dir, &[&["tune", "dumps/run"], args].concat()), 2, &[word]);
    }
}

#[test]
fn settings_behind_the_projection_need_the_model_that_was_captured() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    let args = ["tune", "dumps/run", "--budget", "0.5", "--policy", "restkv:after=true"];
    ends(&kvscope(dir, &args), 2, &["looks at the model's output projections", "name the model with --model"]);
    let dumps = [Dump::open(&dir.join("dumps/run")).unwrap()];
    let tuned = |projections: &Arc<Projections>| {
        let settings = vec!["restkv:after=true".to_string()];
        let options = TuneOptions { settings, projections: Some(projections.clone()), ..TuneOptions::default() };
        tune(&dumps, &options, &mut |_, _| {})
    };
    let error = tuned(&Arc::new(Projections::new(vec![0.0; 3 * 16], 4))).unwrap_err();
    assert!(error.to_string().contains("those of 3 heads of 4") && error.hint().is_some(), "{error}");
    let model = Model::load(&fixture("llama-gqa")).unwrap();
    assert!(tuned(model.projections().unwrap()).unwrap()[0].profile().is_some());
}

#[test]
fn one_profile_is_evaluated_at_several_budgets() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    done(kvscope(dir, &["tune", "dumps/run", "--budget", "0.6", "--refit", "none", "--out", "a"]));
    let profile = "a/llama-gqa.profile.json";
    let fixed = [
        "eval",
        "--model",
        MODEL,
        "--prompts",
        "prompts.jsonl",
        "--context",
        "60",
        "--continuation",
        "12",
        "--samples",
        "2",
    ];
    let eval = |out: &str, more: &[&str]| kvscope(dir, &[&fixed[..], &["--out", out], more].concat());
    let budgets = ["--profile", profile, "--budget", "0.6,0.4"];
    // In the table on the screen, a row of that name for each budget.
    let shown = done(eval("run", &budgets));
    let kept: Vec<&str> =
        shown.lines().filter_map(|line| line.strip_prefix("profile  ")?.split_whitespace().next()).collect();
    assert!(kept.starts_with(&["60.0", "40.0"]), "{shown}");
    let document = |out: &str| -> Value {
        serde_json::from_slice(&std::fs::read(dir.join(out).join("eval.json")).unwrap()).unwrap()
    };
    let run = document("run");
    let of_profile = |entry: &&Value| entry["policy"] == "profile" && entry["dataset"].is_null();
    let kept: Vec<(f64, f64)> = run["summary"]
        .as_array()
        .unwrap()
        .iter()
        .filter(of_profile)
        .map(|entry| (entry["budget"].as_f64().unwrap(), entry["kept_fraction"]["estimate"].as_f64().unwrap()))
        .collect();
    assert!(matches!(kept[..], [(0.6, a), (0.4, b)] if (a - 0.6).abs() < 0.01 && (b - 0.4).abs() < 0.01), "{kept:?}");
    // In shards, joined, the same bytes; and what was solved is what tune solves.
    for shard in ["1/2", "2/2"] {
        done(eval(&format!("part{}", &shard[..1]), &[&budgets[..], &["--shard", shard]].concat()));
    }
    done(kvscope(dir, &["join", "part1", "part2", "--out", "joined"]));
    assert_eq!(document("joined"), run);
    done(kvscope(dir, &["tune", "--from", profile, "--budget", "0.4", "--out", "b"]));
    let again = "b/llama-gqa-0.4.profile.json";
    done(eval("own", &["--profile", again]));
    let kl = |run: &Value, budget: f64| -> Vec<Value> {
        let of = run["summary"].as_array().unwrap().iter().filter(|entry| entry["budget"] == budget);
        of.map(|entry| entry["metrics"]["kl"].clone()).collect()
    };
    assert_eq!(kl(&document("own"), 0.4), kl(&run, 0.4));
    // Profiles keep to the budgets that they were tuned for, and a changed one does not go on with a run.
    done(eval("two", &["--profile", profile, "--profile", again, "--budget", "0.6,0.4"]));
    let two = document("two");
    let arms: Vec<(&str, f64)> = two["arms"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|arm| arm["role"] == "profile")
        .map(|arm| (arm["policy"].as_str().unwrap(), arm["budget"].as_f64().unwrap()))
        .collect();
    assert_eq!(arms, [("profile", 0.6), ("profile 0.4", 0.4)]);
    done(eval("run", &[&budgets[..], &["--resume"]].concat()));
    std::fs::write(dir.join(profile), std::fs::read_to_string(dir.join(profile)).unwrap() + "\n").unwrap();
    ends(&eval("run", &[&budgets[..], &["--resume"]].concat()), 2, &["cannot be resumed"]);
    // What cannot be solved is refused before anything is written.
    ends(&eval("none", &["--profile", profile, "--budget", "0.00001"]), 2, &["cannot be solved for a budget"]);
    ends(&eval("none", &["--profile", profile, "--profile", profile]), 2, &["twice"]);
    assert!(!dir.join("none").exists());
    let generate =
        ["generate", "--model", MODEL, "--prompt", PROMPT, "--max-new-tokens", "3", "--json", "--profile", profile];
    let kept = |more: &[&str]| -> f64 {
        let run: Value = serde_json::from_str(&done(kvscope(dir, &[&generate[..], more].concat()))).unwrap();
        run["prompt_kept_fraction"].as_f64().unwrap()
    };
    assert!((kept(&[]) - 0.6).abs() < 0.01 && (kept(&["--kept-fraction", "0.4"]) - 0.4).abs() < 0.01);
}

#[test]
fn each_budget_has_the_ridge_that_errs_least() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    // Equal sizes and one policy, so that nothing else differs.
    let tuned = |out: &str, more: &[&str]| -> Vec<Profile> {
        let fixed =
            ["tune", "dumps/run", "--budget", "0.6,0.3", "--search", "equal", "--policy", "restkv", "--out", out];
        done(kvscope(dir, &[&fixed[..], more].concat()));
        ["0.6", "0.3"].map(|budget| valid(&dir.join(out).join(format!("llama-gqa-{budget}.profile.json")))).into()
    };
    let error = |profile: &Profile| profile.quality[0].calibration.estimate;
    let typed: Vec<Vec<Profile>> =
        ["lambda=0.01", "lambda=0.03", "lambda=0.1"].map(|typed| tuned(typed, &["--refit", typed])).into();
    for (budget, profile) in tuned("chosen", &[]).iter().enumerate() {
        let best = typed.iter().map(|of| &of[budget]).min_by(|a, b| error(a).total_cmp(&error(b))).unwrap();
        assert_eq!((profile.refit, error(profile)), (best.refit, error(best)));
        assert_eq!(profile.provenance.options["ridges"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn policies_run_at_the_sizes_of_a_profile() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    done(kvscope(dir, &["tune", "dumps/run", "--budget", "0.4", "--refit", "none", "--policy", "h2o", "--out", "a"]));
    let fixed = ["eval", "--model", MODEL, "--prompts", "prompts.jsonl", "--context", "60", "--continuation", "12"];
    let profile = ["--samples", "2", "--profile", "a/llama-gqa.profile.json"];
    let eval = |out: &str, more: &[&str]| {
        let out = ["--out", out];
        kvscope(dir, &[&fixed[..], &profile[..], &out[..], more].concat())
    };
    let sized = ["h2o", "h2o+refit", "random", "kvmerger:bridge=true"];
    done(eval("run", &sized.iter().flat_map(|spec| ["--at-sizes", spec]).collect::<Vec<_>>()));
    let run: Value = serde_json::from_slice(&std::fs::read(dir.join("run/eval.json")).unwrap()).unwrap();
    let metrics = |policy: &str| {
        let of_policy = |entry: &&Value| entry["policy"] == policy && entry["dataset"].is_null();
        run["summary"].as_array().unwrap().iter().find(of_policy).unwrap()["metrics"].clone()
    };
    // The profile has one policy: at its sizes this one is the profile, others are not.
    assert_eq!(metrics("profile"), metrics("h2o at the sizes of profile"));
    assert_ne!(metrics("profile"), metrics("random at the sizes of profile"));
    let asked: Vec<(&str, &str, &str)> = run["comparisons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| ["question", "a", "b"].map(|key| entry[key].as_str().unwrap()).into())
        .collect();
    assert!(asked.contains(&("refit_or_not", "h2o+refit at the sizes of profile", "h2o at the sizes of profile")));
    let merge =
        ("merge_or_evict", "kvmerger:bridge=true at the sizes of profile", "evict:bridge=true at the sizes of profile");
    assert!(asked.contains(&merge), "{asked:?}");
    assert_eq!(asked.iter().filter(|(question, ..)| *question == "profile_or_at_sizes").count(), 5);
    for spec in ["adakv", "kvmerger:eps=0.5", "full"] {
        ends(&eval("none", &["--at-sizes", spec]), 2, &["cannot take those of a profile"]);
    }
}

#[test]
fn generated_tokens_judge_the_prompt_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &["--decode", "8", "--window", "4"]);
    let policies = ["--policy", "snapkv:window=4", "--policy", "h2o"];
    done(kvscope(dir, &[&["tune", "dumps/run", "--budget", "0.5"], &policies[..]].concat()));
    let profile = valid(&dir.join("reports/run/llama-gqa.profile.json"));
    assert_eq!(profile.settings, ["snapkv:window=4", "h2o"]);
    assert!(profile.heads.iter().all(|head| head.eps.is_none()));
    assert!(profile.quality.iter().all(|quality| quality.rule != "tuned, evicting"));
    assert!(profile.verdict.contains("No head merges"));
}

#[test]
fn the_last_choice_runs_the_model_and_held_out_texts_only_judge() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    let run = ["--validate", "prompts.jsonl", "--model", MODEL, "--context", "60", "--continuation", "12"];
    let tune = ["tune", "dumps/run", "--budget", "0.6", "--refit", "queries=32,span=16"];
    let shown = done(kvscope(dir, &[&tune[..], &run[..]].concat()));
    assert!(shown.contains("KL tuned") && shown.contains("KL h2o"), "{shown}");
    let profile = valid(&dir.join("reports/run/llama-gqa.profile.json"));
    // Five searches, with refit and without, and where heads merge both again evicting, each on all eight calibration texts.
    let tried = &profile.tried;
    let count = |is: &dyn Fn(&Tried) -> bool| tried.iter().filter(|tried| is(tried)).count();
    assert_eq!((count(&|tried| !tried.evicting), count(&|tried| tried.refitted)), (10, tried.len() / 2));
    assert!(tried.iter().all(|tried| tried.kl.unwrap().n == 8));
    let least = best(&profile);
    assert_eq!((&least.search, least.refitted), (&profile.search, profile.refit.is_some()));
    assert!(profile.held_out_kl.len() >= 2 && profile.held_out_kl.iter().all(|line| line.kl.n == 4));
    assert!(profile.verdict.contains("on 8 calibration texts") && profile.verdict.contains("On 4 held-out texts"));
    let missing = kvscope(dir, &["tune", "dumps/run", "--validate", "prompts.jsonl"]);
    ends(&missing, 2, &["--model"]);
}

#[test]
fn what_was_not_run_and_what_is_there_for_comparison_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    let paper = "kvmerger:variant=paper";
    let published = "kvmerger:variant=paper is the published merge rule, run for comparison";
    let not_run = "the model was not run: the verdict is by attention error alone";
    let said = |args: &[&str]| {
        let output = kvscope(dir, args);
        done(output.clone());
        String::from_utf8(output.stderr).unwrap()
    };
    let tune = ["tune", "dumps/run", "--budget", "0.6", "--refit", "none", "--policy", "h2o"];
    let alone = said(&[&tune[..], &["--policy", paper]].concat());
    assert!(alone.contains(published), "{alone}");
    assert!(alone.contains(&format!("{not_run}; kvscope tune --model NAME runs it")), "{alone}");
    let profile = "reports/run/llama-gqa.profile.json";
    let solved = said(&["tune", "--from", profile, "--budget", "0.5"]);
    assert!(solved.contains(&format!("{not_run}; kvscope tune --model NAME --validate TEXTS runs it")), "{solved}");
    let judged = said(&[&tune[..], &["--model", MODEL, "--probe", "0", "--out", "judged"]].concat());
    assert!(!judged.contains(not_run) && !judged.contains("published"), "{judged}");
    let generate = ["generate", "--model", MODEL, "--prompt", PROMPT, "--max-new-tokens", "2"];
    let eval = ["eval", "--model", MODEL, "--prompts", "prompts.jsonl", "--context", "60", "--continuation", "12"];
    for (i, command) in [&generate[..], &[&eval[..], &["--samples", "1"]].concat()].into_iter().enumerate() {
        let out = [format!("paper{i}"), format!("default{i}")];
        let out = |place: usize| if i == 0 { Vec::new() } else { vec!["--out", out[place].as_str()] };
        assert!(said(&[command, &["--policy", paper], &out(0)].concat()).contains(published));
        assert!(!said(&[command, &["--policy", "kvmerger"], &out(1)].concat()).contains("published"));
    }
}

#[test]
fn every_command_gives_prompts_in_the_models_chat_template() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_model(&dir.join("chat"), Some(BRACKETS));
    write_prompts(dir, &texts(12));
    let model = Model::load(&dir.join("chat")).unwrap();
    let spelled = |text: &str| model.tokenizer().unwrap().encode(text, AddSpecial::No).unwrap();
    let [open, between] = ["(", ")("].map(spelled);
    let json = |path: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.join(path)).unwrap()).unwrap() };
    let framed = ["prompts: in the model's chat template (--raw: as they are)"];
    let cut = "12 of 12 prompts are longer than the limit and lose their middle";
    let capture = |out: &str, more: &[&str], words: &[&str]| {
        let fixed = ["capture", "--model", "chat", "--prompts", "prompts.jsonl", "--queries", "24", "--out", out];
        let run = kvscope(dir, &[&fixed[..], more].concat());
        ends(&run, 0, words);
        let dump = Dump::open(&dir.join(out)).unwrap();
        (dump.sample(0).unwrap().token_ids().unwrap(), dump.manifest().clone(), String::from_utf8(run.stderr).unwrap())
    };
    let (tokens, manifest, said) = capture("dumps/framed", &[], &framed);
    assert!(tokens.starts_with(&open) && tokens.ends_with(&between) && !said.contains("middle"), "{said}");
    assert_eq!(manifest.provenance.options["chat_template"], true);
    let template = manifest.model.chat_template_sha256.unwrap();
    let (short, manifest, _) = capture("dumps/cut", &["--max-tokens", "30"], &[framed[0], cut]);
    assert!(short.len() <= 30 && short.starts_with(&tokens[..10]) && short.ends_with(&tokens[tokens.len() - 10..]));
    assert_eq!(manifest.samples[0].n_tokens_full, tokens.len());
    let (bare, manifest, _) = capture("dumps/raw", &["--raw"], &["prompts: as they are"]);
    assert_eq!(manifest.provenance.options["chat_template"], false);
    assert_eq!(bare, tokens[open.len()..tokens.len() - between.len()]);
    let too_small = ["capture", "--model", "chat", "--prompts", "prompts.jsonl", "--max-tokens", "2"];
    ends(&kvscope(dir, &too_small), 2, &["chat template has", "without a text", "--raw"]);

    // A chat of several messages.
    let messages = ["the ring", "the stone", "the reeds"].map(|text| json!({ "role": "user", "content": text }));
    std::fs::write(dir.join("chats.jsonl"), json!({ "messages": messages }).to_string()).unwrap();
    let chats = ["capture", "--model", "chat", "--prompts", "chats.jsonl", "--out", "dumps/chats"];
    ends(&kvscope(dir, &chats), 0, &framed);
    let found = Dump::open(&dir.join("dumps/chats")).unwrap().sample(0).unwrap().token_ids().unwrap();
    assert_eq!(found, spelled("(the ring)(the stone)(the reeds)("));
    ends(&kvscope(dir, &[&chats[..], &["--raw"]].concat()), 2, &["a chat of 3 messages", "leave out --raw"]);

    let text = texts(12)[0]["context"].as_str().unwrap().to_string();
    let generate = ["generate", "--model", "chat", "--prompt", &text, "--max-new-tokens", "2", "--json"];
    let generated = kvscope(dir, &generate);
    ends(&generated, 0, &framed);
    let generated: Value = serde_json::from_slice(&generated.stdout).unwrap();
    assert_eq!((&generated["chat_template"], &generated["prompt_tokens"]), (&json!(true), &json!(tokens.len())));
    assert_eq!(generated["model"]["chat_template_sha256"], template);

    let sizes = ["--context", "60", "--continuation", "12"];
    let eval = ["eval", "--model", "chat", "--prompts", "prompts.jsonl", "--samples", "1", "--policy", "h2o"];
    ends(&kvscope(dir, &[&eval[..], &sizes, &["--out", "eval"]].concat()), 0, &framed);
    assert_eq!(json("eval/eval.json")["provenance"]["options"]["chat_template"], true);
    // A document goes on within the user's message.
    let document = model.tokenizer().unwrap().open_prompt(&[], &text, true).unwrap();
    assert_eq!(document, tokens[..tokens.len() - between.len()]);

    // A profile is chosen on prompts like those that were captured.
    let choose = [&["--model", "chat", "--probe", "0", "--validate", "prompts.jsonl"][..], &sizes].concat();
    let tune = |from: &[&str], more: &[&str], code: i32, words: &[&str]| {
        ends(&kvscope(dir, &[&["tune", "--budget", "0.6"], from, more].concat()), code, words);
    };
    tune(&["dumps/framed"], &choose, 0, &framed);
    let profile = valid(&dir.join("reports/framed/chat.profile.json"));
    assert_eq!(profile.chat_template, Some(true));
    assert_eq!(profile.provenance.options["validate"]["chat_template"], true);
    let with_profile = [&generate[..], &["--profile", "reports/framed/chat.profile.json"]].concat();
    assert!(!String::from_utf8(kvscope(dir, &with_profile).stderr).unwrap().contains("was tuned"));
    let other_form = "prompts stand without the model's chat template, and the profile was tuned in it";
    ends(&kvscope(dir, &[&with_profile[..], &["--raw"]].concat()), 0, &[other_form]);
    let raw = [&choose[..], &["--raw"]].concat();
    tune(&["dumps/framed"], &raw, 2, &["captured in the model's chat template", "leave out --raw"]);
    tune(&["--from", "reports/framed/chat.profile.json"], &raw, 2, &["captured in the model's chat template"]);
    tune(&["dumps/raw"], &choose, 2, &["captured as they are", "pass --raw"]);
    tune(&["dumps/raw"], &raw, 0, &["prompts: as they are"]);
    tune(&["dumps/raw"], &["--raw"], 2, &["--validate"]);
    // Dumps that differ say nothing.
    tune(&["dumps/raw", "dumps/framed"], &["--out", "mixed"], 0, &["the model was not run"]);
    assert_eq!(valid(&dir.join("mixed/chat.profile.json")).chat_template, None);
}

#[test]
fn profiles_that_cannot_be_are_refused_by_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    captured(dir, &[]);
    done(kvscope(dir, &["tune", "dumps/run", "--budget", "0.6", "--refit"]));
    let whole: Value =
        serde_json::from_slice(&std::fs::read(dir.join("reports/run/llama-gqa.profile.json")).unwrap()).unwrap();
    let faults: [(&str, Value, &str); 15] = [
        ("/model/n_layers", json!(0), "0 layers"),
        ("/model/n_kv_heads", json!(0), "0 KV heads"),
        ("/model/n_kv_heads", json!(u64::MAX), "KV heads"),
        ("/heads", json!([]), "0 heads"),
        ("/heads/0/kept_fraction", json!(0.0), "kept_fraction 0 of layer 0 head 0"),
        ("/heads/1/setting", json!(9999), "setting 9999"),
        ("/heads/0/curve/0/errors/0", json!(-1.0), "error -1 of layer 0 head 0"),
        ("/heads/0/curve/0/eps", json!(3.0), "eps 3"),
        ("/min_share", json!(-0.5), "min_share -0.5"),
        ("/budget_unit", json!("pages"), "budget_unit \"pages\" is none of slots, f16, bf16, f32"),
        ("/refit/queries", json!(0), "refit of 0 queries"),
        ("/refit/lambda", json!(-1.0), "lambda -1"),
        ("/target_kept_fraction", json!(1.5), "target_kept_fraction 1.5"),
        ("/calibration_kept_fraction/estimate", json!(-1.0), "kept_fraction has an interval"),
        ("/quality/0/calibration/low", json!(1e300), "error of tuned has an interval"),
    ];
    for (place, value, words) in faults {
        let mut broken = whole.clone();
        *broken.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        std::fs::write(dir.join("x.profile.json"), broken.to_string()).unwrap();
        ends(&kvscope(dir, &["verify", "x.profile.json"]), 1, &[words]);
        let generate = ["generate", "--model", MODEL, "--prompt", "the ring", "--profile", "x.profile.json"];
        ends(&kvscope(dir, &generate), 2, &[]);
    }
}
