//! `kvscope tune`: thresholds for a budget, from dumps, as a profile.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use crate::cli::Outcome;
use crate::cli::failure::Usage;
use crate::cli::options::Common;
use crate::cli::options::out_dir;
use crate::cli::options::run_name;
use crate::cli::options::slug;
use crate::cli::output::bar;
use crate::cli::output::emit;
use crate::cli::output::emit_json;
use crate::cli::output::note;
use crate::dump::Dump;
use crate::files::create_dir;
use crate::files::write_json;
use crate::math::Interval;
use crate::merge::Shares;
use crate::merge::Sigma;
use crate::profile::MergeRule;
use crate::tune;
use crate::tune::TuneOptions;
use crate::tune::Tuned;

/// Tune merge thresholds for a budget from dumps, and write them as a profile
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Dumps of one model
    #[arg(value_name = "DUMP", required = true)]
    dumps: Vec<PathBuf>,
    /// Share of the slots to keep; several give a profile each
    #[arg(long, value_name = "X", value_delimiter = ',', default_value = "0.5")]
    budget: Vec<f64>,
    /// How thresholds are chosen: per-head, or shared by all heads
    #[arg(long, value_name = "NAME", default_value = "per-head")]
    search: String,
    /// Share of the tokens protected as recent [default: the paper's for the budget]
    #[arg(long, value_name = "X")]
    recent: Option<f64>,
    /// Share of the tokens protected for their attention mass [default: the paper's for the budget]
    #[arg(long, value_name = "X")]
    heavy: Option<f64>,
    /// Width of the Gaussian kernel: distance, printed or fixed:X
    #[arg(long, value_name = "RULE", default_value = "distance")]
    sigma: String,
    /// Let chains run on across protected tokens
    #[arg(long)]
    bridge: bool,
    /// Share of each data set's samples that are only measured, never chosen on
    #[arg(long, value_name = "X", default_value_t = 0.34)]
    hold_out: f64,
    /// Seed of the split and the intervals
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder of the profile [default: reports/RUN of the first dump]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, common: &Common) -> anyhow::Result<Outcome> {
    let dumps = args.dumps.iter().map(|dir| Dump::open(dir)).collect::<Result<Vec<_>, _>>()?;
    let dir = out_dir(args.out.as_ref(), "reports", &run_name(&args.dumps[0]));
    let sigma = Sigma::try_from(args.sigma.clone()).map_err(|what| Usage::error(what, "see kvscope tune --help"))?;
    let (mut outcome, mut reports) = (Outcome::Done, Vec::new());
    for budget in &args.budget {
        let paper = Shares::of_paper(*budget);
        let shares = Shares { recent: args.recent.unwrap_or(paper.recent), heavy: args.heavy.unwrap_or(paper.heavy) };
        if !(shares.recent >= 0.0 && shares.heavy >= 0.0 && shares.recent + shares.heavy < 1.0) {
            return Err(Usage::error("--recent and --heavy are shares that sum to less than 1", "give smaller ones"));
        }
        let options = TuneOptions {
            budget: *budget,
            search: args.search.clone(),
            shares: Some(shares),
            rule: MergeRule { sigma, bridge: args.bridge, ..MergeRule::default() },
            hold_out: args.hold_out,
            seed: args.seed,
        };
        let name_budget = args.budget.len() > 1;
        let (path, tuned) = tune_into(&dumps, &options, &dir, name_budget, common)?;
        if !tuned.budget_met {
            outcome = Outcome::GateNotMet;
        }
        reports.push(summary(&path, &tuned, common)?);
    }
    if common.json {
        emit_json(&json!({ "schema": "kvscope.tune/1", "profiles": reports }))?;
    }
    Ok(outcome)
}

/// Tunes with a bar and writes the profile; shared with the demo.
pub(crate) fn tune_into(
    dumps: &[Dump],
    options: &TuneOptions,
    dir: &Path,
    name_budget: bool,
    common: &Common,
) -> anyhow::Result<(PathBuf, Tuned)> {
    let bar = bar(common, 0, "steps");
    bar.set_message("tune");
    let tuned = tune::tune(dumps, options, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    create_dir(dir)?;
    let suffix = if name_budget { format!("-{}", options.budget) } else { String::new() };
    let path = dir.join(format!("{}{suffix}.profile.json", slug(&tuned.profile.model.name)));
    write_json(&path, &tuned.profile)?;
    Ok((path, tuned))
}

fn summary(path: &Path, tuned: &Tuned, common: &Common) -> anyhow::Result<Value> {
    let profile = &tuned.profile;
    if !common.json {
        let mut text = format!("{}\n", path.display());
        let percent = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{:.2}", 100.0 * x));
        let cells = |i: Option<Interval>| match i {
            None => ["-".into(), "-".into(), "-".into()],
            Some(i) => [percent(Some(i.estimate)), percent(i.low), percent(i.high)],
        };
        let mut row = |name: &str, a: Option<Interval>, b: Option<Interval>| {
            let ([a, al, ah], [b, bl, bh]) = (cells(a), cells(b));
            text.push_str(&format!("  {name:30} {a:>7} [{al:>6}, {ah:>6}]   {b:>7} [{bl:>6}, {bh:>6}]\n"));
        };
        row("kept, % of slots", Some(profile.calibration_kept_fraction), profile.held_out_kept_fraction);
        for quality in &profile.quality {
            row(&format!("error {}, %", quality.rule), Some(quality.calibration), quality.held_out);
        }
        let head = format!("  {:30} {:^24}   {:^24}\n", "", "calibration", "held out");
        let at = text.find('\n').map_or(0, |i| i + 1);
        text.insert_str(at, &head);
        emit(&text)?;
        note(common, &profile.verdict);
        note(common, &format!("next: kvscope generate --model ... --prompt ... --profile {}", path.display()));
    }
    Ok(json!({
        "profile": path,
        "budget_met": tuned.budget_met,
        "target_kept_fraction": profile.target_kept_fraction,
        "calibration_kept_fraction": profile.calibration_kept_fraction,
        "held_out_kept_fraction": profile.held_out_kept_fraction,
        "rule": profile.rule,
        "verdict": profile.verdict,
    }))
}
