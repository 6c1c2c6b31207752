//! `kvscope eval`: policies x budgets x tasks, with paired statistics and a verdict.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::analyze::short;
use crate::cli::Outcome;
use crate::cli::compression::read_profile;
use crate::cli::failure::Usage;
use crate::cli::inputs::Inputs;
use crate::cli::numbers;
use crate::cli::options::Common;
use crate::cli::options::DeviceArg;
use crate::cli::options::Dtype;
use crate::cli::options::load_model;
use crate::cli::options::out_dir;
use crate::cli::options::stop_flag;
use crate::cli::output::bar;
use crate::cli::output::emit;
use crate::cli::output::emit_json;
use crate::cli::output::note;
use crate::eval;
use crate::eval::Arm;
use crate::eval::NeedleGrid;
use crate::eval::Plan;
use crate::eval::Settings;
use crate::eval::task::TASKS;
use crate::eval::task::TaskEntry;
use crate::eval::task::task;
use crate::format::evaluation::Evaluation;
use crate::format::evaluation::FULL;
use crate::format::evaluation::Role;
use crate::format::evaluation::SummaryEntry;
use crate::format::evaluation::headline;
use crate::format::run::Part;
use crate::format::run::Run;
use crate::format::run::Target;
use crate::math::Interval;
use crate::model::Model;
use crate::runtime::Compression;

/// Policies that are compared when none is named.
const DEFAULT_POLICIES: &[&str] = &["kvmerger", "kvmerger:variant=log-count", "h2o", "snapkv", "streaming", "random"];

/// Measure what compression costs: policies x budgets x tasks, against the full cache
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    inputs: Inputs,
    /// Task families: any of kl, longbench, needle, ruler, zeroscrolls
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "kl")]
    task: Vec<String>,
    /// Policy, with parameters: NAME[:key=value,...]; may be repeated [default: kvmerger, kvmerger:variant=log-count, h2o,
    /// snapkv, streaming, random]. the eviction of the same tokens is added beside every merge
    #[arg(long, value_name = "SPEC")]
    policy: Vec<String>,
    /// Profile made by `kvscope tune`, at its own budget; may be repeated
    #[arg(long, value_name = "FILE")]
    profile: Vec<PathBuf>,
    /// Shares of the slots to keep
    #[arg(long, value_name = "X", value_delimiter = ',', default_value = "0.5,0.35", value_parser = numbers::part)]
    budget: Vec<f64>,
    /// Tokens of the prompt in the family kl
    #[arg(long, value_name = "N", default_value_t = 1536, value_parser = numbers::count)]
    context: usize,
    /// Tokens of the given continuation in the family kl
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = numbers::count)]
    continuation: usize,
    /// Tokens of a prompt that is answered, at most [default: what the model's context leaves]
    #[arg(long, value_name = "N", value_parser = numbers::count)]
    max_tokens: Option<usize>,
    /// Plant needles in the prompts' texts, at these lengths in tokens; the family needle then takes these alone
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = numbers::count)]
    plant: Vec<usize>,
    /// Depths of planted needles, in percent of the text
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0,25,50,75,100", requires = "plant", value_parser = clap::value_parser!(u32).range(0..=100))]
    depths: Vec<u32>,
    /// Planted prompts of every length and depth
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = numbers::count, requires = "plant")]
    per_cell: usize,
    /// Give prompts to the model as they are, even if the model has a chat template
    #[arg(long)]
    raw: bool,
    /// Element type of the cache
    #[arg(long, value_enum, default_value = "f32")]
    cache_dtype: Dtype,
    /// Seed of the intervals
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArg,
    /// Folder of the evaluation [default: reports/PROMPTS-MODEL]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with an interrupted evaluation
    #[arg(long)]
    resume: bool,
    /// Evaluate the I-th of N shards of the texts, counted from 1; `kvscope join` joins them
    #[arg(long, value_name = "I/N")]
    shard: Option<Part>,
}

pub(crate) fn run(args: &Args, common: &Common) -> anyhow::Result<Outcome> {
    let compute = args.device.open()?;
    check(args)?;
    let mut tasks = args.task.iter().map(|name| family(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut seen = HashSet::new();
    tasks.retain(|task| seen.insert(task.name));
    let (mut prompts, hashes) = args.inputs.read(common)?;
    let model = load_model(&args.inputs.model, &compute, common)?;
    let arms = arms(args, &model)?;
    if !args.plant.is_empty() {
        let grid = NeedleGrid { lengths: args.plant.clone(), depths: args.depths.clone(), per_cell: args.per_cell };
        let planted = eval::plant(&model, &prompts, &grid, args.seed)?;
        prompts.retain(|prompt| !prompt.dataset.starts_with("needle"));
        prompts.extend(planted);
    }
    let settings = Settings {
        context_tokens: args.context,
        continuation_tokens: args.continuation,
        max_prompt_tokens: args.max_tokens,
        raw: args.raw,
        cache_type: args.cache_dtype.into(),
        seed: args.seed,
    };
    let (items, skipped) = eval::items(&model, &prompts, &tasks, &settings)?;
    for (name, n) in &skipped {
        note(common, &format!("skipped {n} texts of {name}: too short or too long"));
    }
    for (name, n) in eval::unscored(&items) {
        note(
            common,
            &format!("{name}: texts without a reference answer: {n}; they are answered, and nothing is scored"),
        );
    }
    let run = args.inputs.run_name(&model, args.shard);
    let dir = out_dir(args.out.as_ref(), "reports", &run);
    let plan = Plan::new(model.identity()?, &items, skipped, &arms, &settings, hashes);
    let share = args.shard.map_or_else(String::new, |part| format!(", shard {part}"));
    let what =
        format!("eval: {} texts x {} policies and budgets{share}, into {}", items.len(), arms.len(), dir.display());
    note(common, &what);
    let stop = stop_flag()?;
    let target = Target { dir: &dir, resume: args.resume, part: args.shard };
    let bar = bar(common, (target.select(&items).len() * arms.len()) as u64, "rows");
    bar.set_message("eval");
    let evaluation = eval::run(&model, &items, &arms, plan, &target, &stop, &mut |_| bar.inc(1))
        .map_err(|error| args.inputs.with_resume_command(error.into(), args.resume))?;
    bar.finish_and_clear();
    if common.json {
        emit_json(&serde_json::to_value(&evaluation)?)?;
    } else {
        emit(&format!("{}\n{}", dir.join(Evaluation::FILE).display(), tables(&evaluation)))?;
        for sentence in &evaluation.verdict {
            emit(&format!("{sentence}\n"))?;
        }
        note(common, &format!("next: kvscope report {}", dir.display()));
    }
    Ok(Outcome::Done)
}

fn check(args: &Args) -> anyhow::Result<()> {
    if args.policy.iter().any(|spec| spec == FULL) {
        return Err(Usage::error("--policy full changes nothing", "leave it out: it is the reference of every run"));
    }
    Ok(())
}

fn family(name: &str) -> anyhow::Result<&'static TaskEntry> {
    task(name.trim()).ok_or_else(|| {
        let known: Vec<&str> = TASKS.iter().map(|entry| entry.name).collect();
        Usage::error(format!("there is no task family {name:?}"), format!("choose among {}", known.join(", ")))
    })
}

/// The full cache, the policies and their controls, and each profile with the eviction of the tokens that it merges.
fn arms(args: &Args, model: &Model) -> anyhow::Result<Vec<Arm>> {
    let only_profiles = args.policy.is_empty() && !args.profile.is_empty();
    let specs: Vec<String> = match args.policy.as_slice() {
        [] if only_profiles => Vec::new(),
        [] => DEFAULT_POLICIES.iter().map(|spec| spec.to_string()).collect(),
        typed => typed.to_vec(),
    };
    let mut arms = eval::arms(&specs, &args.budget)?;
    for path in &args.profile {
        let (profile, name) = read_profile(path, model, false)?;
        let control_name = format!("{name}, evicting");
        let control = Compression::evicting_profile(&control_name, &profile)?;
        let budget = Some(profile.target_kept_fraction);
        let mut push = |role: Role, control: Option<String>, compression: Compression| {
            arms.push(Arm { policy: compression.name.clone(), budget, role, control, compression });
        };
        let compression = Compression::from_profile(&name, &profile)?;
        push(Role::Profile, control.as_ref().map(|_| control_name), compression);
        if let Some(control) = control {
            push(Role::Control, None, control);
        }
    }
    Ok(arms)
}

/// One table for each family and budget, and one for each data set that is answered.
fn tables(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    let mut groups: Vec<(&str, Option<&str>)> = Vec::new();
    for entry in &evaluation.summary {
        let group = (entry.task.as_str(), entry.dataset.as_deref());
        if !groups.contains(&group) && (entry.task != "kl" || entry.dataset.is_none()) {
            groups.push(group);
        }
    }
    for (task, dataset) in groups {
        let entries: Vec<&SummaryEntry> =
            evaluation.summary.iter().filter(|e| e.task == task && e.dataset.as_deref() == dataset).collect();
        let name = dataset.map_or(format!("{task}, all data sets"), |dataset| format!("{task}/{dataset}"));
        let columns = if task == "kl" { ["KL, nats", "top-1", "perplexity"] } else { ["score", "of 100", ""] };
        text += &format!(
            "\n{:34} {:>6} {:>6} {:>8} {:>20} {:>7} {:>10}\n",
            name, "kept %", "texts", columns[0], "[95 %]", columns[1], columns[2]
        );
        for entry in entries {
            text += &line(entry, headline(task).0);
        }
    }
    text
}

fn line(entry: &SummaryEntry, metric: &str) -> String {
    let name = short(&entry.policy, 34);
    let number = |x: Option<f64>, digits: usize| x.map_or("-".into(), |x| format!("{x:.digits$}"));
    let mean = |name: &str| entry.metrics.get(name).map(|interval| interval.estimate);
    let bounds = |i: &Interval| Some(format!("[{:.4}, {:.4}]", i.low?, i.high?));
    let bounds = entry.metrics.get(metric).and_then(bounds).unwrap_or_else(|| "-".into());
    let kept = number(entry.kept_fraction.map(|kept| 100.0 * kept.estimate), 1);
    let (second, third) = if entry.task == "kl" {
        (number(mean("top1_agreement"), 4), number(mean("perplexity_ratio"), 4))
    } else {
        (number(entry.score_percent, 2), String::new())
    };
    let main = number(mean(metric), 4);
    let line = format!("{name:34} {kept:>6} {:>6} {main:>8} {bounds:>20} {second:>7} {third:>10}", entry.n);
    let unmet = if entry.n_unmet > 0 { format!("  budget not met on {} texts", entry.n_unmet) } else { String::new() };
    if unmet.is_empty() {
        format!("{}\n", line.trim_end())
    } else {
        format!("{}\n{:34} {unmet}\n", line.trim_end(), "")
    }
}
