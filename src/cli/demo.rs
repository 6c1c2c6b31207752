//! `kvscope demo`: the whole pipeline on a small real model and built-in prompts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::analyze;
use crate::analyze::{AnalyzeOptions, MapRequest};
use crate::capture;
use crate::capture::CaptureOptions;
use crate::cli::Outcome;
use crate::cli::analysis::analysis_text;
use crate::cli::common::Common;
use crate::cli::compression::profile_names;
use crate::cli::failure::{Result, Usage};
use crate::cli::inputs::encode;
use crate::cli::options::{DeviceArg, load_model, stop_flag};
use crate::cli::output::{TransferBar, counted, emit, emit_json, headed, note, with_bar};
use crate::cli::session::{Job, encode_prompt};
use crate::cli::table::{facts, verdict};
use crate::files::{FileError, write_json};
use crate::format::dump::{Dump, State};
use crate::format::generation::Generated;
use crate::format::run::Target;
use crate::hub;
use crate::hub::{HubSettings, PullOptions};
use crate::math::Float;
use crate::model::Model;
use crate::prompts;
use crate::prompts::Prompt;
use crate::report;
use crate::report::{FIGURES, Report};
use crate::runtime::{Compression, GenerateOptions};
use crate::tune;
use crate::tune::{TuneOptions, Tuned};

/// The demo model's name.
const MODEL: &str = "smollm2-135m";
/// Tokens of each prompt, so that the demo takes minutes.
const MAX_TOKENS: usize = 1024;
const BUDGET: f64 = 0.5;

/// Run the whole pipeline on a small real model and built-in prompts of five kinds
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model to use instead of the demo model
    #[arg(long, value_name = "PATH|NAME", default_value = MODEL)]
    model: String,
    /// Folder below which dumps, reports and figures are written
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArg,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let started = Instant::now();
    let compute = args.device.open()?;
    let step = |n: usize, what: &str| headed(common, &format!("[{n}/6] {what}"), "");
    let folder = |parent: &str| args.out.join(parent).join("demo");
    let (dump_dir, report_dir, figure_dir) = (folder("dumps"), folder("reports"), folder("figures"));

    step(1, "the model");
    if hub::resolve(&args.model, &HubSettings::from_env()).is_err() {
        hub::pull(&args.model, &PullOptions::new(HubSettings::from_env()), &mut TransferBar::new(common))?;
    }
    let model = load_model(&args.model, &compute, common)?;

    step(2, "capture: run 15 texts of five kinds and write down keys, values, queries and attention mass");
    let texts = prompts::demo();
    let dump = captured(&model, &texts, &dump_dir, common)?;

    step(3, "analyze: how alike are neighbours, and how many sets would merge");
    let middle = model.config().n_layers / 2;
    let map = |layer, state| MapRequest { layer, kv_head: 0, state };
    let options =
        AnalyzeOptions { maps: vec![map(middle, State::K), map(middle, State::V)], ..AnalyzeOptions::default() };
    let dumps = [dump];
    let analysis =
        with_bar(common, "analyze", "steps", |progress| analyze::analyze(&dumps, &options, &report_dir, progress))?;
    if !common.json {
        emit(&analysis_text(&analysis, common))?;
    }

    step(4, "tune: a size and a policy for every head, so that half of the cache stays");
    let options = TuneOptions { budgets: vec![BUDGET], ..TuneOptions::default() };
    let tuned = with_bar(common, "tune", "samples", |progress| tune::tune(&dumps, &options, progress))?;
    let profile = tuned
        .first()
        .and_then(Tuned::profile)
        .ok_or_else(|| Usage::error("no setting meets the budget", "give another --model"))?;
    let profile_path = profile.write_into(&report_dir, false)?;
    note(common, verdict(&profile.verdict, common).trim_end());

    step(5, "generate: the same question with the compressed and with the full cache");
    let name = profile_names(std::slice::from_ref(&profile_path), model.name())?.concat();
    let compression = Compression::from_profile(name, profile)?;
    let generation = generated(&model, &texts, compression, &report_dir, common)?;

    step(6, "report: figures and one page");
    let input = Report::read(std::slice::from_ref(&report_dir))?;
    let page = report_dir.join("report.html");
    let written = counted(common, "report", "figures", FIGURES.len(), |more| {
        report::write(&input, &figure_dir, &page, None, &mut |_| more(1))
    })?;
    let secs = started.elapsed().as_secs_f64();
    if common.json {
        emit_json(&json!({
            "schema": "kvscope.demo/1",
            "dump": dump_dir,
            "analysis": report_dir.join("analysis.json"),
            "profile": profile_path,
            "generation": generation,
            "report": page,
            "figures": figure_dir,
            "elapsed_secs": secs,
        }))?;
    } else {
        let lines = [
            ("Look at", page.display().to_string()),
            ("figures", format!("{}  ({} files)", figure_dir.display(), written.files.len() - 1)),
            ("profile", profile_path.display().to_string()),
            ("numbers", format!("{} and stats.parquet beside it", report_dir.join("analysis.json").display())),
            ("states", dump_dir.display().to_string()),
            (
                "try",
                format!(
                    "kvscope generate --model {} --profile {} --prompt-file FILE --compare",
                    args.model,
                    profile_path.display()
                ),
            ),
        ];
        emit(&format!("\nDone in {secs:.0} s.\n{}", facts(lines)))?;
    }
    Ok(Outcome::Done)
}

fn captured(model: &Model, texts: &[Prompt], dir: &Path, common: &Common) -> Result<Dump> {
    let max_tokens = MAX_TOKENS.min(model.config().max_positions);
    let chat_template = model.tokenizer()?.uses_chat(false);
    let inputs = encode(model, texts, chat_template, Some(max_tokens), model.config().max_positions)?;
    let n_tokens: usize = inputs.iter().map(|input| input.tokens.len()).sum();
    let options = CaptureOptions {
        states: State::ALL.into_iter().collect(),
        layers: (0..model.config().n_layers).collect(),
        dtype: Float::F16,
        kv_heads: None,
        n_queries: Some(256),
        window_tokens: 32,
        chunk_tokens: 0,
        decode_tokens: 0,
        chat_template,
        seed: 0,
        memory_limit: None,
    };
    // A demo that was run before, or interrupted, starts over.
    if dir.join("manifest.json").exists() {
        std::fs::remove_dir_all(dir).map_err(|e| FileError::io("replace the folder", dir, e))?;
    }
    let stop = stop_flag()?;
    counted(common, "capture", "tokens", n_tokens, |more| {
        capture::run(model, &inputs, &[], &options, &Target::new(dir), &stop, &mut |entry| more(entry.n_tokens))
    })?;
    Ok(Dump::open(dir)?)
}

/// Asks about one of the texts, and writes the run down for the report.
fn generated(
    model: &Model,
    texts: &[Prompt],
    compression: Compression,
    dir: &Path,
    common: &Common,
) -> Result<PathBuf> {
    let article = texts.iter().find(|text| text.dataset == "demo_article").unwrap_or(&texts[0]);
    let question = "In one short paragraph, what is the text above about?";
    let chat_template = model.tokenizer()?.uses_chat(false);
    let text = format!("{}\n\n{question}", article.text);
    let prompt = encode_prompt(model, &text, chat_template)?;
    note(common, &format!("{question} ({} tokens, {})", prompt.len(), article.id));
    let options = GenerateOptions {
        max_new_tokens: 96,
        stop_tokens: model.tokenizer()?.eos().to_vec(),
        ..GenerateOptions::default()
    };
    let job =
        Job { model, chat_template, compression: Some(compression), cache_type: Float::F32, options, stop: Vec::new() };
    let report = Generated { prompt: Some(text), ..job.report(&prompt, true, common)? };
    let path = dir.join("generate.json");
    write_json(&path, &report)?;
    Ok(path)
}
