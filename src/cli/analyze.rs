//! `kvscope analyze`: similarity, merging sets and sparsity, from dumps.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::analyze;
use crate::analyze::{AnalyzeOptions, MapRequest};
use crate::cli::Outcome;
use crate::cli::analysis::analysis_text;
use crate::cli::common::Common;
use crate::cli::comparison::{NAMED_HEADS, comparison_text};
use crate::cli::failure::{Failure, Result, Usage};
use crate::cli::numbers;
use crate::cli::options::{out_dir, run_name};
use crate::cli::output::{emit, emit_json, note, with_bar};
use crate::files::{FolderLock, plain_name, write_json};
use crate::format::comparison::{ComparedRun, FigureDifference, MOST_RUNS};
use crate::format::dump::{Dump, State};
use crate::merge::Shares;

/// Measure similarity, merging sets and sparsity of dumps
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Dumps of one model
    #[arg(value_name = "DUMP", required_unless_present = "compare")]
    dumps: Vec<PathBuf>,
    /// Compare analyses instead, each with the first: two folders or more that `kvscope analyze` wrote, of one model or several
    #[arg(long, value_name = "ANALYSIS", num_args = 2..=MOST_RUNS, conflicts_with = "dumps")]
    compare: Vec<PathBuf>,
    /// Thresholds of the sparsity figures
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = numbers::cosine)]
    eps: Vec<f32>,
    /// The threshold of the grid at which single numbers are reported
    #[arg(long, value_name = "EPS", default_value_t = 0.75, value_parser = numbers::cosine)]
    reference_eps: f32,
    /// Longest distance of the curve of similarity against distance, in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = numbers::count)]
    max_lag: usize,
    /// Token-level maps to write, as LAYER:HEAD or LAYER:HEAD:STATE, where STATE is k, k_pre_rope or v, and `all` stands for
    /// every layer or head
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    maps: Vec<String>,
    /// Samples of each data set for which maps are written, and which the report's explorer shows
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = numbers::count)]
    map_samples: usize,
    /// Heads of which the report's explorer shows maps: those of --maps first, then from the most to the least similar; 0 for no
    /// explorer
    #[arg(long, value_name = "N", default_value_t = AnalyzeOptions::default().explore)]
    explore: usize,
    /// Share of the tokens protected as recent
    #[arg(long, value_name = "X", default_value_t = 0.17, value_parser = numbers::share)]
    recent: f64,
    /// Share of the tokens protected for their attention mass
    #[arg(long, value_name = "X", default_value_t = 0.12, value_parser = numbers::share)]
    heavy: f64,
    /// Let merging sets continue across protected tokens
    #[arg(long)]
    bridge: bool,
    /// Budgets at which the error of each head's attention output is measured, or none
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0.2,0.35,0.5,0.65,0.8")]
    budgets: Vec<String>,
    /// How far a persistent head's sets per token may lie from their mean in any data set
    #[arg(long, value_name = "X", default_value_t = 0.05, value_parser = numbers::share)]
    tolerance: f64,
    /// Seed of the intervals and permutations
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder of the analysis [default: reports/RUN of the first dump]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    if !args.compare.is_empty() {
        return run_compare(args, common);
    }
    let dumps = args.dumps.iter().map(|dir| Dump::open(dir)).collect::<Result<Vec<_>, _>>()?;
    let manifest = dumps[0].manifest();
    let mut options = AnalyzeOptions {
        reference_eps: args.reference_eps,
        lags: AnalyzeOptions::lags_up_to(args.max_lag),
        maps: parse_maps(&args.maps, &manifest.layers, &manifest.held_kv_heads().collect::<Vec<_>>())?,
        map_samples: args.map_samples,
        explore: args.explore,
        shares: Shares { recent: args.recent, heavy: args.heavy },
        bridge: args.bridge,
        budgets: parse_budgets(&args.budgets)?,
        tolerance: args.tolerance,
        seed: args.seed,
        ..AnalyzeOptions::default()
    };
    if !args.eps.is_empty() {
        options.eps_grid.clone_from(&args.eps);
    }
    if !options.eps_grid.contains(&options.reference_eps) {
        options.eps_grid.push(options.reference_eps);
        options.eps_grid.sort_by(f32::total_cmp);
    }
    let dir = out_dir(args.out.as_ref(), "reports", &run_name(&args.dumps[0]));
    let analysis = with_bar(common, "analyze", "steps", |progress| analyze::analyze(&dumps, &options, &dir, progress))?;
    if common.json {
        emit_json(&json!({
            "schema": "kvscope.analyze/1",
            "analysis": dir.join("analysis.json"),
            "table": dir.join("stats.parquet"),
            "maps": analysis.maps,
            "datasets": analysis.datasets.iter().map(|d| &d.dataset).collect::<Vec<_>>(),
            "kept_fraction": analysis.kept_fraction,
            "queries": analysis.queries.as_ref().map(|queries| &queries.verdict),
            "persistence": analysis.persistence.as_ref().map(|persistence| &persistence.verdict),
        }))?;
    } else {
        emit(&format!("{}\n", dir.join("analysis.json").display()))?;
        emit(&analysis_text(&analysis, common))?;
        for words in [analysis.same_texts_in_words(), analysis.not_explored_in_words()].into_iter().flatten() {
            note(common, &words);
        }
        note(common, &format!("next: kvscope tune {} --budget 0.5", args.dumps[0].display()));
        note(common, &format!("  or: kvscope report {}", dir.display()));
    }
    Ok(Outcome::Done)
}

fn run_compare(args: &Args, common: &Common) -> Result<Outcome> {
    for dir in &args.compare {
        if !dir.join("analysis.json").exists() && dir.join("manifest.json").exists() {
            return Err(Usage::error(
                format!("{} is a dump, and --compare takes analyses", dir.display()),
                format!(
                    "run: kvscope analyze {0} --out reports/{1}, and give reports/{1}",
                    dir.display(),
                    run_name(dir)
                ),
            ));
        }
    }
    let comparison = analyze::compare(&args.compare, args.seed)?;
    let names: Vec<String> = args.compare.iter().map(|dir| run_name(dir)).collect();
    let name = plain_name(&format!("{}-against-{}", names[0], names[1..].join("-and-")));
    let path = out_dir(args.out.as_ref(), "reports", &name).join("comparison.json");
    let dir = path.parent().unwrap_or(Path::new(""));
    let _lock = FolderLock::take(dir)?;
    write_json(&path, &comparison)?;
    if common.json {
        let run = |run: &ComparedRun| {
            let sets = run.sets.as_ref();
            json!({
                "name": run.name, "model": run.model.name, "set_ratio": run.set_ratio().map(|figure| figure.mean),
                "variance": sets.and_then(|sets| sets.variance), "kendall_w": sets.and_then(|sets| sets.kendall_w),
                "between_datasets": sets.and_then(|sets| sets.between_datasets),
                "most_merging": sets.map(|sets| sets.most_merging(NAMED_HEADS)),
            })
        };
        let figure = |figure: &FigureDifference| {
            let id = &figure.id;
            json!({
                "metric": id.metric, "state": id.state, "eps": id.eps, "budget": id.budget, "rule": id.rule,
                "first": figure.first, "other": figure.other, "difference": figure.difference,
                "rank_agreement": figure.rank_agreement, "n_differ": figure.n_differ,
            })
        };
        emit_json(&json!({
            "schema": "kvscope.compare/1",
            "comparison": path,
            "verdict": comparison.verdict(),
            "runs": comparison.runs.iter().map(run).collect::<Vec<_>>(),
            "distances": comparison.distances,
            "against_first": comparison.against_first.iter().map(|against| json!({
                "run": comparison.runs[against.run].name, "paired": against.paired,
                "figures": against.figures.iter().map(figure).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        }))?;
    } else {
        emit(&format!("{}\n", path.display()))?;
        emit(&comparison_text(&comparison, common))?;
        note(common, &format!("next: kvscope report {}", path.display()));
    }
    Ok(Outcome::Done)
}

/// Shares such as `0.35`, rising; `none` alone for no budget.
fn parse_budgets(list: &[String]) -> Result<Vec<f64>> {
    if list == ["none"] {
        return Ok(Vec::new());
    }
    let bad = |text: &String| {
        Usage::error(format!("--budgets: {text:?} is no share in (0, 1)"), "give shares such as 0.35,0.5, or none")
    };
    let budgets: Result<Vec<f64>> = list.iter().map(|text| numbers::part(text).map_err(|_| bad(text))).collect();
    let mut budgets = budgets?;
    budgets.sort_by(f64::total_cmp);
    Ok(budgets)
}

/// The maps that are asked for, each once, of the layers and KV heads that there are.
fn parse_maps(list: &[String], layers: &[usize], kv_heads: &[usize]) -> Result<Vec<MapRequest>> {
    let mut maps = Vec::new();
    for text in list {
        let bad = || {
            Usage::error(
                format!("{text:?} names no map"),
                "write LAYER:HEAD or LAYER:HEAD:STATE, for example 12:0, 12:all or 12:0:v, or all or all:v (states: k, \
                 k_pre_rope, v)",
            )
        };
        let parts: Vec<&str> = text.trim().split(':').collect();
        let state = |text: Option<&&str>| {
            let state = State::from_name(text.unwrap_or(&"k")).filter(|state| State::VECTORS.contains(state));
            state.ok_or_else(bad)
        };
        let (layer, kv_head, state) = match parts[..] {
            ["all"] | ["all", "k" | "k_pre_rope" | "v"] => ("all", "all", state(parts.get(1))?),
            [layer, head] | [layer, head, _] => (layer, head, state(parts.get(2))?),
            _ => return Err(bad()),
        };
        let those = |text: &str, all: &[usize]| match text {
            "all" => Ok(all.to_vec()),
            number => Ok::<_, Failure>(vec![number.parse().map_err(|_| bad())?]),
        };
        let kv_heads = those(kv_head, kv_heads)?;
        for layer in those(layer, layers)? {
            maps.extend(kv_heads.iter().map(|kv_head| MapRequest { layer, kv_head: *kv_head, state }));
        }
    }
    let mut seen = HashSet::new();
    maps.retain(|map| seen.insert((map.layer, map.kv_head, map.state.name())));
    Ok(maps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_as_people_write_them() {
        let parse = |text: &str| parse_budgets(&text.split(',').map(str::to_string).collect::<Vec<_>>());
        assert_eq!(parse("0.5, 0.35").unwrap(), [0.35, 0.5]);
        assert_eq!(parse("none").unwrap(), [0.0; 0]);
        assert!(parse("half").is_err() && parse("none,0.5").is_err());
    }

    #[test]
    fn maps_as_people_write_them() {
        let parse = |text: &str| {
            let list: Vec<String> = text.split(',').map(str::to_string).collect();
            let maps = parse_maps(&list, &[0, 3], &[0, 1, 2])?;
            Ok::<_, Failure>(maps.iter().map(|map| (map.layer, map.kv_head, map.state)).collect::<Vec<_>>())
        };
        assert_eq!(parse("3:1, 9:2:v").unwrap(), [(3, 1, State::K), (9, 2, State::V)]);
        assert_eq!(parse("3:1,3:all").unwrap(), [(3, 1, State::K), (3, 0, State::K), (3, 2, State::K)]);
        assert_eq!(parse("all:2:v").unwrap(), [(0, 2, State::V), (3, 2, State::V)]);
        assert_eq!(parse("all").unwrap().len(), 6);
        assert_eq!(parse("all,all:all:k,all:k_pre_rope").unwrap().len(), 12);
        for bad in ["3", "3:1:q", "x:1", "3:1:v:2", "", "all:q", "all:all:q"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
