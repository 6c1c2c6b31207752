//! `kvscope tune`: a size and a setting for every head under a budget, from dumps, as a profile.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::choose::{Texts, Worse, choose, head_losses, projections};
use crate::cli::Outcome;
use crate::cli::blocks::blocks;
use crate::cli::common::Common;
use crate::cli::compression::{hash_of, note_published};
use crate::cli::failure::{Result, Usage};
use crate::cli::inputs::{FrameArgs, read_prompts};
use crate::cli::names::{names, one_of};
use crate::cli::numbers;
use crate::cli::options::{DeviceArg, load_model, out_dir, run_name};
use crate::cli::output::{as_saved, emit, emit_json, hint, note, with_bar};
use crate::cli::table::{Table, bounds, estimate, name, number, verdict};
use crate::files::FolderLock;
use crate::format::dump::Dump;
use crate::format::profile::{Profile, TUNED};
use crate::math::Interval;
use crate::merge::Refit;
use crate::model::Model;
use crate::policy::{self, parse_refit};
use crate::prompts::ReadOptions;
use crate::tune;
use crate::tune::{
    BESIDE, BudgetUnit, DEFAULT_SETTINGS, LUKV, Measure, RIDGES, SEARCHES, SearchEntry, TuneOptions, Tuned,
};

/// Tune a size and a policy for every head under a budget, from dumps, and write them as a profile. Exits with 1 when no
/// setting meets a budget, or --max-error
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Dumps of one model
    #[arg(value_name = "DUMP", required_unless_present = "from", conflicts_with = "from")]
    dumps: Vec<PathBuf>,
    /// Solve the budgets on the curves of this profile instead of measuring dumps
    #[arg(long, value_name = "PROFILE", conflicts_with_all = ["policy", "measure", "min_share", "late", "hold_out", "seed"])]
    from: Option<PathBuf>,
    /// Share of a full cache to keep; several give a profile each
    #[arg(long, value_name = "X", value_delimiter = ',', default_value = "0.5", value_parser = numbers::part)]
    budget: Vec<f64>,
    #[arg(long, value_name = "UNIT", default_value = "slots", value_parser = one_of("unit", &BudgetUnit::ALL, |unit| unit.name()), help = format!("What a budget is a share of: {}; bytes of a cache of that type count counts and biases too", names(BudgetUnit::ALL.map(BudgetUnit::name))))]
    budget_unit: &'static BudgetUnit,
    /// Policy that a head may use, with parameters: NAME[:key=value,...]. May be repeated [default: restkv, h2o
    /// and kvmerger]
    #[arg(long, value_name = "SPEC")]
    policy: Vec<String>,
    #[arg(long, value_name = "NAME", value_parser = one_of("search", SEARCHES, |entry| entry.name), help = format!("How sizes and policies are chosen: {} [default: the best in cross-validation]", names(SEARCHES.iter().map(|entry| entry.name))))]
    search: Option<&'static SearchEntry>,
    #[arg(long, value_name = "NAME", default_value = "layer", value_parser = one_of("measure", &Measure::ALL, |measure| measure.name()), help = format!("Error to minimise, the squared change of the attention output: relative to the layer, relative to the head, or absolute ({})", names(Measure::ALL.map(Measure::name))))]
    measure: &'static Measure,
    /// Smallest size of a head, as a share of the budget; lukv keeps 1 % of the tokens at least instead
    #[arg(long, value_name = "X", default_value_t = 0.1, value_parser = numbers::share)]
    min_share: f64,
    /// Tokens at the end of a sample that stand in for future text [default: all whose queries the dump holds]
    #[arg(long, value_name = "N", value_parser = numbers::count)]
    late: Option<usize>,
    /// How the profile refits stored slots: key=value,... of queries, span, lambda, recent, mass and seed, or none [default:
    /// values and masses, with the lambda for each budget that errs least; with --from as that profile does]
    #[arg(long, value_name = "PARAMS|none", num_args = 0..=1, default_missing_value = "")]
    refit: Option<String>,
    /// A second score beside each head's own, and its share of the head's slots: NAME[,key=value,...] as behind beside= of a
    /// policy, or none. window keeps what the end of the prompt attends to, such as a question. Attention errors are measured
    /// without it, the KL with it [default: window where --model is given; with --from as that profile does]
    #[arg(long, value_name = "SCORE|none", requires = "model")]
    beside: Option<String>,
    /// Highest acceptable error of the attention output: the upper end of its interval on held-out samples
    #[arg(long, value_name = "X", value_parser = numbers::not_negative, conflicts_with = "from")]
    max_error: Option<f64>,
    /// Share of each data set's samples that are held out: they judge, but never choose
    #[arg(long, value_name = "X", default_value_t = 0.34, value_parser = numbers::share)]
    hold_out: f64,
    /// Seed of the split and the intervals
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    validate: ValidateArgs,
    #[command(flatten)]
    device: DeviceArg,
    /// Folder of the profile [default: reports/RUN of the first dump, or the folder of --from]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Texts for the last choice.
#[derive(Debug, clap::Args)]
#[command(mut_arg("raw", |raw| raw.requires("validate")))]
struct ValidateArgs {
    /// Run the model over the held-out samples and judge each profile by its KL to the full cache. One that is worse than h2o,
    /// than equal sizes or than LU-KV's sizes is not written. A GGUF file, a Hugging Face folder, or a name that was pulled
    #[arg(long, value_name = "PATH|NAME")]
    model: Option<String>,
    /// Calibration samples that --model is run over: before the tuning with one head at a time compressed, so that heads count by
    /// what the model loses by them, and at last to choose whether to refit and whether to merge. 0 for none
    #[arg(long, value_name = "N", default_value_t = 4, requires = "model")]
    probe: usize,
    /// Run --model over these texts instead, and choose the search, whether to refit and whether to merge, by the KL. Held-out
    /// texts only judge. May be repeated
    #[arg(long, value_name = "FILE|DIR|-", requires = "model")]
    validate: Vec<PathBuf>,
    /// Samples of each data set of --validate, the first ones [default: all]
    #[arg(long, value_name = "N", value_parser = numbers::count, requires = "validate")]
    samples: Option<usize>,
    #[command(flatten)]
    frame: FrameArgs,
    /// Tokens of a prompt of --validate
    #[arg(long, value_name = "N", default_value_t = 1536, value_parser = numbers::count)]
    context: usize,
    /// Tokens of the continuation that is compared
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = numbers::count)]
    continuation: usize,
}

impl ValidateArgs {
    /// Whether the texts stand in the model's chat format, which must be how the samples were captured, where that is recorded: a
    /// profile would be tuned on one kind of prompt and chosen on another.
    fn frame(&self, model: Option<&Model>, captured: Option<bool>, common: &Common) -> Result<bool> {
        let Some(model) = model.filter(|_| !self.validate.is_empty()) else { return Ok(false) };
        let chat = self.frame.of(model, common)?;
        match (captured, chat) {
            (Some(false), true) => Err(Usage::error(
                "the samples were captured as they are, and the texts of --validate would stand in the model's chat template",
                "pass --raw, or capture the samples without it",
            )),
            (Some(true), false) => Err(Usage::error(
                "the samples were captured in the model's chat template, and the texts of --validate would be given as they are",
                "leave out --raw, or capture the samples with it",
            )),
            _ => Ok(chat),
        }
    }
}

/// What stands beside the heads' scores as typed, or another where nothing is.
///
/// - Errors: no such score, or a parameter that it does not have
fn beside(args: &Args, otherwise: Option<String>) -> Result<Option<String>> {
    let beside = match args.beside.as_deref() {
        None => otherwise,
        Some("none") => None,
        Some(typed) => Some(typed.to_string()),
    };
    if let Some(beside) = &beside {
        policy::parse(&format!("{}:beside={beside}", DEFAULT_SETTINGS[0]))?;
    }
    Ok(beside)
}

/// The refit as typed, or another where none is.
fn refit(args: &Args, otherwise: Option<Refit>) -> Result<Option<Refit>> {
    match args.refit.as_deref() {
        None => Ok(otherwise),
        Some("none") => Ok(None),
        Some(params) => Ok(Some(parse_refit(params)?)),
    }
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let options = options(args)?;
    // Before the work, so that a name that is wrong costs nothing.
    let model = args.validate.model.as_ref().map(|name| load_model(name, &args.device.open()?, common)).transpose()?;
    note_published(&options.settings, common)?;
    let frame = |recorded: Option<bool>| args.validate.frame(model.as_ref(), recorded, common);
    // Taken before the work, so that it is not lost to a folder in use.
    let (chat_template, dir, _lock, dumps, mut tuned) = match &args.from {
        Some(path) => {
            let profile = Profile::read(path)?;
            let chat_template = frame(profile.chat_template)?;
            let (refit, beside) = (refit(args, profile.refit)?, beside(args, profile.beside.clone())?);
            let options = TuneOptions { refit, beside, ..options };
            let beside = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let dir = args.out.clone().unwrap_or_else(|| beside.to_path_buf());
            let lock = FolderLock::take(&dir)?;
            (chat_template, dir, lock, Vec::new(), tune::resolve(&profile, hash_of(path)?, &options)?)
        }
        None => {
            let dumps = args.dumps.iter().map(|dir| Dump::open(dir)).collect::<Result<Vec<_>, _>>()?;
            let chat_template = frame(tune::chat_template(&dumps))?;
            let dir = out_dir(args.out.as_ref(), "reports", &run_name(&args.dumps[0]));
            let lock = FolderLock::take(&dir)?;
            let otherwise = model.as_ref().map(|_| BESIDE.to_string());
            let (refit, beside) = (refit(args, Some(Refit::default()))?, beside(args, otherwise)?);
            let mut options = TuneOptions { refit, beside, ..options };
            if let Some(model) = &model {
                options.projections = Some(projections(model, &dumps)?);
                let n_texts = args.validate.probe;
                options.losses = with_bar(common, "probe", "rows", |progress| {
                    head_losses(model, &dumps, &options, n_texts, progress)
                })?;
            }
            let tuned = with_bar(common, "tune", "samples", |progress| tune::tune(&dumps, &options, progress))?;
            (chat_template, dir, lock, dumps, tuned)
        }
    };
    let worse = choose_by_running(args, model.as_ref(), chat_template, &dumps, &mut tuned, common)?;
    if model.is_none() {
        let how = if args.from.is_some() { "--model NAME --validate TEXTS" } else { "--model NAME" };
        note(
            common,
            &format!("the model was not run: the verdict is by attention error alone; kvscope tune {how} runs it"),
        );
    }
    if model.is_none() && args.from.is_none() && args.search.is_some_and(|entry| entry.name == LUKV) {
        note(
            common,
            "the sizes go by the lengths of values as they are stored; with --model, behind the output projection",
        );
    }
    let name_budget = args.budget.len() > 1 || args.from.is_some();
    let (mut outcome, mut reports) = (Outcome::Done, Vec::new());
    for tuned in &tuned {
        let Some(profile) = tuned.profile() else {
            note(common, &format!("no setting meets a budget of {}", tuned.budget));
            hint(common, "allow more slots, or name other policies");
            reports.push(json!({ "target_kept_fraction": tuned.budget, "profile": null, "budget_met": false }));
            outcome = Outcome::GateNotMet;
            continue;
        };
        if let Some(Worse { kl, rival, kl_of_rival, .. }) = worse.iter().find(|worse| worse.budget == tuned.budget) {
            let what = format!(
                "the profile for {} is not written: its mean KL is {kl:.4} nats, that of {rival} {kl_of_rival:.4}",
                tuned.budget
            );
            note(common, &what);
            hint(common, "capture more samples of more kinds of text, allow more slots, or use that policy");
            reports.push(json!({ "target_kept_fraction": tuned.budget, "profile": null, "worse_than": rival }));
            outcome = Outcome::GateNotMet;
            continue;
        }
        let path = profile.write_into(&dir, name_budget)?;
        let good_enough = args.max_error.is_none_or(|most| highest_error(profile).is_some_and(|error| error <= most));
        if !good_enough {
            outcome = Outcome::GateNotMet;
        }
        reports.push(summary(&path, profile, good_enough, args.validate.model.as_deref(), common)?);
        if !good_enough {
            note(common, &format!("no setting meets --max-error at a budget of {}", tuned.budget));
            hint(common, "allow more slots, or a larger error");
        }
    }
    if common.json {
        emit_json(&json!({ "schema": "kvscope.tune/1", "profiles": reports }))?;
    }
    Ok(outcome)
}

fn options(args: &Args) -> Result<TuneOptions> {
    let settings = match args.policy.as_slice() {
        [] => DEFAULT_SETTINGS.iter().map(|setting| setting.to_string()).collect(),
        typed => typed.to_vec(),
    };
    Ok(TuneOptions {
        budgets: args.budget.clone(),
        unit: *args.budget_unit,
        settings,
        search: args.search.map(|entry| entry.name.into()),
        measure: *args.measure,
        losses: None,
        projections: None,
        min_share: args.min_share,
        n_late: args.late,
        beside: None,
        refit: None,
        ridges: if args.refit.as_deref().unwrap_or_default().contains("lambda") { Vec::new() } else { RIDGES.into() },
        hold_out: args.hold_out,
        seed: args.seed,
    })
}

/// Runs the model, where one was given: it judges what was tuned, and chooses where texts were given.
fn choose_by_running(
    args: &Args,
    model: Option<&Model>,
    chat_template: bool,
    dumps: &[Dump],
    tuned: &mut [Tuned],
    common: &Common,
) -> Result<Vec<Worse>> {
    let ValidateArgs { validate, samples, context, continuation, .. } = &args.validate;
    let Some(model) = model.filter(|_| tuned.iter().any(|tuned| tuned.profile().is_some())) else {
        return Ok(Vec::new());
    };
    let options = ReadOptions { max_samples: *samples, ..ReadOptions::default() };
    let (prompts, hashes) = match validate.as_slice() {
        [] if dumps.is_empty() => {
            return Err(Usage::error("there are no samples to run the model over", "name texts with --validate"));
        }
        [] => Default::default(),
        files => read_prompts(files, &options, common)?,
    };
    let texts = if validate.is_empty() {
        Texts::Samples { dumps, n_choosing: args.validate.probe }
    } else {
        let (context_tokens, continuation_tokens) = (*context, *continuation);
        Texts::Prompts { prompts: &prompts, hashes: &hashes, chat_template, context_tokens, continuation_tokens }
    };
    let choice = with_bar(common, "run the model", "rows", |progress| choose(tuned, model, &texts, progress))?;
    for (name, n) in &choice.skipped {
        note(common, &format!("skipped {n} texts of {name}: too short"));
    }
    if choice.n_chosen_on == 0 && !validate.is_empty() {
        note(common, "all texts of --validate are held out, so none could choose");
    }
    if choice.n_held_out == 0 {
        note(common, "no text was held out, so the model could not judge the profiles");
    }
    Ok(choice.worse)
}

/// Upper end of the profile's error on held-out samples, on calibration samples where none were held out.
fn highest_error(profile: &Profile) -> Option<f64> {
    let quality = profile.quality.iter().find(|quality| quality.rule == TUNED)?;
    let error = quality.held_out.unwrap_or(quality.calibration);
    Some(error.high.unwrap_or(error.estimate))
}

/// What the profile keeps and what that costs, on the samples it was chosen on and on those that no choice has seen.
fn table(profile: &Profile) -> Table {
    let mut table = Table::new([
        name(""),
        number("calibration"),
        number("95 % interval"),
        number("held out"),
        number("95 % interval"),
    ]);
    let mut row = |name: String, places: usize, seen: Option<Interval>, unseen: Option<Interval>| {
        table.row([
            name,
            estimate(seen, places),
            bounds(seen, places),
            estimate(unseen, places),
            bounds(unseen, places),
        ]);
    };
    let percent = |interval: Interval| interval.times(100.0);
    let kept = (percent(profile.calibration_kept_fraction), profile.held_out_kept_fraction.map(percent));
    row("kept, % of slots".into(), 2, Some(kept.0), kept.1);
    for quality in &profile.quality {
        row(format!("error {}, %", quality.rule), 2, Some(percent(quality.calibration)), quality.held_out.map(percent));
    }
    for line in &profile.held_out_kl {
        row(format!("KL {}, nats", line.policy), 5, None, Some(line.kl));
    }
    table
}

fn summary(path: &Path, profile: &Profile, good_enough: bool, model: Option<&str>, common: &Common) -> Result<Value> {
    if !common.json {
        let kept = profile.heads.iter().map(|head| ((head.layer, head.kv_head), Some(head.kept_fraction))).collect();
        let picture = blocks("Slots kept, ▁ few to █ all", &kept, (0.0, 1.0));
        emit(&format!("{}\n{}{picture}", path.display(), table(profile)))?;
        note(common, verdict(&profile.verdict, common).trim_end());
        let (model, path) = (model.unwrap_or("MODEL"), path.display());
        note(common, &format!("next: kvscope generate --model {model} --prompt-file FILE --profile {path} --compare"));
    }
    Ok(json!({
        "profile": path,
        "budget_met": true,
        "error_met": good_enough,
        "target_kept_fraction": profile.target_kept_fraction,
        "budget_unit": profile.budget_unit,
        "calibration_kept_fraction": profile.calibration_kept_fraction,
        "held_out_kept_fraction": profile.held_out_kept_fraction,
        "search": profile.search,
        "beside": profile.beside,
        "refit": as_saved(&profile.refit)?,
        "held_out_kl": profile.held_out_kl,
        "verdict": profile.verdict,
    }))
}
