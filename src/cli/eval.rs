//! `kvscope eval`: policies x budgets x tasks, with paired statistics and a verdict.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::compression::{
    at_budget, check_policies, hash_of, note_other_form, note_published, profile_names, read_profile,
};
use crate::cli::failure::{Result, Usage};
use crate::cli::inputs::{FrameArgs, Inputs, note_cut};
use crate::cli::names::{names, one_of};
use crate::cli::numbers;
use crate::cli::options::{DeviceArg, load_model, out_dir, stop_flag};
use crate::cli::output::{counted, emit, emit_json, note};
use crate::cli::table::{Table, bounds, digits, estimate, missing, name, number, wrapped};
use crate::eval;
use crate::eval::task::{TASKS, TaskEntry};
use crate::eval::{Arm, EvalError, NeedleGrid, Plan, Settings};
use crate::format::evaluation::{Evaluation, FULL, Headline, Role, SummaryEntry};
use crate::format::profile::Profile;
use crate::format::run::Run;
use crate::math::Float;
use crate::model::Model;
use crate::runtime::Compression;

/// Policies that are compared when none is named.
const DEFAULT_POLICIES: &[&str] = &["kvmerger", "kvmerger:variant=paper", "h2o", "snapkv", "streaming", "random"];

/// Shares of the slots that policies keep when none is named.
const DEFAULT_BUDGETS: &[f64] = &[0.5, 0.35];

/// Measure what compression costs: policies x budgets x tasks, against the full cache
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    inputs: Inputs,
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "kl", value_parser = one_of("task family", TASKS, |entry| entry.name), help = format!("Task families: any of {}", names(TASKS.iter().map(|entry| entry.name))))]
    task: Vec<&'static TaskEntry>,
    #[arg(long, value_name = "SPEC", help = format!("Policy, with parameters: NAME[:key=value,...]. May be repeated. Every merging policy is also run with plain eviction of the same tokens [default: {}]", DEFAULT_POLICIES.join(", ")))]
    policy: Vec<String>,
    /// Profile made by `kvscope tune`; may be repeated. It is solved for each --budget that no profile here was tuned for
    #[arg(long, value_name = "FILE")]
    profile: Vec<PathBuf>,
    /// Policy to run at the head sizes of each --profile, as a control: what of its gain comes from sizes. May be repeated
    #[arg(long, value_name = "SPEC", requires = "profile")]
    at_sizes: Vec<String>,
    /// Shares of the slots to keep [default: 0.5,0.35; of profiles their own]
    #[arg(long, value_name = "X", value_delimiter = ',', value_parser = numbers::part)]
    budget: Vec<f64>,
    /// Tokens of the prompt in the family kl
    #[arg(long, value_name = "N", default_value_t = 1536, value_parser = numbers::count)]
    context: usize,
    /// Tokens of the given continuation in the family kl
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = numbers::count)]
    continuation: usize,
    /// Most tokens of a prompt that is to be answered [default: what the model's context leaves]
    #[arg(long, value_name = "N", value_parser = numbers::count)]
    max_tokens: Option<usize>,
    /// Plant needles in the prompts' texts at these lengths, in tokens; the needle family then uses only these
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = numbers::count)]
    plant: Vec<usize>,
    /// Depths of planted needles, in percent of the text
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0,25,50,75,100", requires = "plant", value_parser = clap::value_parser!(u32).range(0..=100))]
    depths: Vec<u32>,
    /// Planted prompts of every length and depth
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = numbers::count, requires = "plant")]
    per_cell: usize,
    /// Compress each prompt before its question is read, so that no policy can choose by it
    #[arg(long)]
    hide_question: bool,
    #[command(flatten)]
    frame: FrameArgs,
    /// Element type of the cache
    #[arg(long, value_enum, default_value = "f32")]
    cache_dtype: Float,
    /// Seed of the intervals
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArg,
    /// Folder of the evaluation [default: reports/PROMPTS-MODEL]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let compute = args.device.open()?;
    check(args)?;
    let mut tasks = args.task.clone();
    let mut seen = HashSet::new();
    tasks.retain(|task| seen.insert(task.name));
    let (mut prompts, mut hashes) = args.inputs.read(common)?;
    let model = load_model(&args.inputs.model, &compute, common)?;
    let chat_template = args.frame.of(&model, common)?;
    let arms = arms(args, &model, chat_template, common)?;
    // What a profile says is a part of the run: one that was changed does not go on with it.
    for path in &args.profile {
        hashes.push(hash_of(path)?);
    }
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
        chat_template,
        hide_question: args.hide_question,
        cache_type: args.cache_dtype,
        seed: args.seed,
    };
    let (items, skipped) = eval::items(&model, &prompts, &tasks, &settings)?;
    for (name, n) in &skipped {
        note(common, &format!("skipped {n} texts of {name}: too short or too long"));
    }
    note_cut(eval::n_cut(&items), items.len(), common);
    for (name, n) in eval::unscored(&items) {
        note(
            common,
            &format!("{name}: texts without a reference answer: {n}; they are answered, and nothing is scored"),
        );
    }
    let run = args.inputs.run_name(&model);
    let dir = out_dir(args.out.as_ref(), "reports", &run);
    let plan = Plan::new(model.identity()?, &items, skipped, &arms, &settings, hashes);
    let (n, shard, n_arms) = (items.len(), args.inputs.shard_in_words(), arms.len());
    note(common, &format!("eval: {n} texts x {n_arms} policies and budgets{shard}, into {}", dir.display()));
    let stop = stop_flag()?;
    let target = args.inputs.target(&dir);
    let n_rows = target.select(&items).len() * arms.len();
    let evaluation = counted(common, "eval", "rows", n_rows, |more| {
        eval::run(&model, &items, &arms, plan, &target, &stop, &mut |_| more(1))
    })
    .map_err(|error| {
        let of_a_text = matches!(error, EvalError::Arm { .. } | EvalError::Runtime(_) | EvalError::NotFinite(_));
        if of_a_text && dir.join(Evaluation::FILE).exists() {
            let next = "the same command goes on with --resume, another one needs another --out";
            note(common, &format!("what is done stays in {}: {next}", dir.display()));
        }
        args.inputs.with_resume_command(error.into())
    })?;
    if common.json {
        emit_json(&serde_json::to_value(&evaluation)?)?;
    } else {
        emit(&format!("{}\n{}", dir.join(Evaluation::FILE).display(), tables(&evaluation)))?;
        let said = if common.verbose > 0 { evaluation.verdict.len() } else { 0 };
        evaluation.verdict[..said].iter().try_for_each(|sentence| emit(&wrapped(sentence)))?;
        if said < evaluation.verdict.len() {
            note(common, "the verdict in words: add --resume --verbose, which runs nothing again");
        }
        note(common, &format!("next: kvscope report {}", dir.display()));
    }
    Ok(Outcome::Done)
}

fn check(args: &Args) -> Result<()> {
    if args.policy.iter().any(|spec| spec == FULL) {
        return Err(Usage::error("--policy full changes nothing", "leave it out: it is the reference of every run"));
    }
    check_policies(&args.policy)
}

/// The full cache, the policies and their controls, and each profile with the eviction of the tokens that it merges.
fn arms(args: &Args, model: &Model, chat_template: bool, common: &Common) -> Result<Vec<Arm>> {
    let only_profiles = args.policy.is_empty() && !args.profile.is_empty();
    let specs: Vec<String> = match args.policy.as_slice() {
        [] if only_profiles => Vec::new(),
        [] => DEFAULT_POLICIES.iter().map(|spec| spec.to_string()).collect(),
        typed => typed.to_vec(),
    };
    let budgets = if args.budget.is_empty() { DEFAULT_BUDGETS } else { &args.budget };
    let mut arms = eval::arms(&specs, budgets)?;
    note_published(&specs, common)?;
    let profiles =
        args.profile.iter().map(|path| read_profile(path, model, false)).collect::<Result<Vec<Profile>>>()?;
    // One is enough: profiles of one run are tuned on the same samples.
    profiles.iter().take(1).for_each(|profile| note_other_form(profile, chat_template, common));
    let is_tuned_for = |budget: &f64| profiles.iter().any(|profile| profile.target_kept_fraction == *budget);
    for ((name, path), profile) in profile_names(&args.profile, model.name())?.iter().zip(&args.profile).zip(&profiles)
    {
        let own = profile.target_kept_fraction;
        let of_profile = |budget: &&f64| **budget == own || !is_tuned_for(budget);
        let budgets: Vec<f64> =
            if args.budget.is_empty() { vec![own] } else { args.budget.iter().filter(of_profile).copied().collect() };
        for budget in budgets {
            let profile = at_budget(profile.clone(), path, budget)?;
            add_profile(&mut arms, name, &profile)?;
            arms.extend(eval::arms_at_sizes(&args.at_sizes, name, &profile)?);
        }
    }
    Ok(arms)
}

/// Adds a profile at the budget that it says, and the eviction of the tokens that it merges.
fn add_profile(arms: &mut Vec<Arm>, name: &str, profile: &Profile) -> Result<()> {
    let control_name = format!("{name}, evicting");
    let control = Compression::evicting_profile(&control_name, profile)?;
    let budget = Some(profile.target_kept_fraction);
    let mut push = |role: Role, control: Option<String>, compression: Compression| {
        arms.push(Arm { policy: compression.name.clone(), budget, role, control, compression });
    };
    let compression = Compression::from_profile(name, profile)?;
    push(Role::Profile, control.as_ref().map(|_| control_name), compression);
    if let Some(control) = control {
        push(Role::Control, None, control);
    }
    Ok(())
}

/// One table for each family, and one for each data set that is answered; then one of all comparisons.
fn tables(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    let mut groups: Vec<(&str, Option<&str>)> = Vec::new();
    for entry in &evaluation.summary {
        let group = (entry.task.as_str(), entry.dataset.as_deref());
        if !groups.contains(&group)
            && (evaluation.headline(&entry.task).is_none_or(|headline| headline.beside.is_empty())
                || entry.dataset.is_none())
        {
            groups.push(group);
        }
    }
    for (task, dataset) in groups {
        let entries = evaluation.summary.iter().filter(|e| e.task == task && e.dataset.as_deref() == dataset);
        let head = dataset.map_or_else(|| format!("{task}, all data sets"), |dataset| format!("{task}/{dataset}"));
        text += &format!("\n{}", summary_table(&head, evaluation.headline(task), entries));
    }
    if !evaluation.comparisons.is_empty() {
        text += &format!("\n{}{COMPARISON_LEGEND}", comparison_table(evaluation));
    }
    text
}

/// Scores are of a hundred, too, where nothing else stands beside them.
fn summary_table<'a>(
    head: &str,
    headline: Option<&Headline>,
    entries: impl Iterator<Item = &'a SummaryEntry>,
) -> Table {
    let beside = headline.map_or(&[][..], |headline| &headline.beside);
    let shown = |place: usize| beside.get(place).map(|name| name.replace('_', " "));
    let mut table = Table::new([
        name(head),
        number("kept %"),
        number("texts"),
        number("budget unmet"),
        number(headline.map_or("", |headline| &headline.title)),
        number("95 % interval"),
        number(shown(0).as_deref().unwrap_or("of 100")),
        number(shown(1).as_deref().unwrap_or("")),
    ]);
    for entry in entries {
        let metric = |name: &str| entry.metrics.get(name).copied();
        let main = headline.and_then(|headline| metric(&headline.metric));
        let (second, third) = match beside {
            [] => (digits(entry.score_percent, 2), String::new()),
            [first, rest @ ..] => {
                (estimate(metric(first), 4), rest.first().map_or_else(String::new, |name| estimate(metric(name), 4)))
            }
        };
        table.row([
            entry.policy.clone(),
            estimate(entry.kept_fraction.map(|kept| kept.times(100.0)), 1),
            entry.n.to_string(),
            entry.n_unmet.to_string(),
            estimate(main, 4),
            bounds(main, 4),
            second,
            third,
        ]);
    }
    table
}

/// What the columns of the comparisons mean.
const COMPARISON_LEGEND: &str = "95 % interval: of A / B, or of A - B where there is no ratio.\n\
                                 better: - where the texts do not tell.\n";

/// What is compared, by how much both differ, and which is shown to be better.
fn comparison_table(evaluation: &Evaluation) -> Table {
    let columns = [name("A"), name("B"), number("kept %"), number("A / B"), number("A - B"), number("95 % interval")];
    let mut table =
        Table::new(std::iter::once(name("task")).chain(columns).chain([name("better")]).collect::<Vec<_>>());
    for entry in &evaluation.comparisons {
        let result = &entry.result;
        // Of the ratio where there is one.
        let shown = result.ratio.unwrap_or(result.difference);
        table.row([
            entry.task.clone(),
            entry.a.clone(),
            entry.b.clone(),
            digits(entry.budget.map(|kept| 100.0 * kept), 0),
            estimate(result.ratio, 3),
            estimate(Some(result.difference), 4),
            bounds(Some(shown), 3),
            match evaluation.headline(&entry.task).and_then(|headline| entry.better(headline)) {
                Some(true) => "A".into(),
                Some(false) => "B".into(),
                None => missing(),
            },
        ]);
    }
    table
}
