//! `kvscope verify`: whether files are what they claim to be.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::{Result, Usage};
use crate::cli::output::{emit_json, emit_line, hint, note};
use crate::files::list;
use crate::format::dump::Manifest;
use crate::format::evaluation;
use crate::format::evaluation::Evaluation;
use crate::format::profile;
use crate::format::run::Run;
use crate::format::scorer;
use crate::format::{analysis, dump};

/// What verify takes.
const TAKES: &str =
    "give a folder of a dump, report or evaluation, a .profile.json or .safetensors file, or an analysis.json";

/// What to do about faults.
const DAMAGED: &str = "copy what is damaged again from where it was made, or make it again with the same command";

/// Check dumps, profiles, learned weights, analyses and evaluations: hashes, shapes, finite values, sums. Exits with 1 when something is wrong
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folders of dumps, reports or evaluations, .profile.json files, learned weights, or an analysis.json
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let mut results = Vec::new();
    for path in &args.paths {
        results.extend(checked(path)?);
    }
    let (n_checked, faults) = (results.len(), results.concat());
    if common.json {
        emit_json(&json!({ "schema": "kvscope.verify/1", "checked": n_checked, "faults": faults }))?;
    } else {
        for fault in &faults {
            emit_line(fault)?;
        }
        let count = if faults.is_empty() { "no fault".into() } else { format!("faults: {}", faults.len()) };
        note(common, &format!("{n_checked} checked, {count}"));
        if !faults.is_empty() {
            hint(common, DAMAGED);
        }
    }
    Ok(if faults.is_empty() { Outcome::Done } else { Outcome::GateNotMet })
}

/// The faults of everything at a path, a list for each.
fn checked(path: &Path) -> Result<Vec<Vec<String>>> {
    if !path.exists() {
        return Err(Usage::error(format!("{} does not exist", path.display()), TAKES));
    }
    if path.is_dir() && !path.join(Manifest::FILE).exists() {
        let found: Vec<_> = list(path)?.iter().filter_map(|file| faults_of(file)).collect();
        if found.is_empty() {
            let what = format!("{} holds neither a dump, nor a report, nor an evaluation", path.display());
            return Err(Usage::error(what, "give a folder with a manifest.json, an analysis.json or an eval.json"));
        }
        return Ok(found);
    }
    // A file that was named is of the kind that its ending tells.
    let by_ending = || match path.extension()?.to_str()? {
        "json" => Some(analysis::faults(path)),
        "safetensors" => Some(scorer::faults(path)),
        _ => None,
    };
    let of_file = || faults_of(path).or_else(by_ending);
    let found = if path.is_dir() { Some(dump::faults(path)) } else { of_file() };
    found
        .map(|faults| vec![faults])
        .ok_or_else(|| Usage::error(format!("{} is of no kind that verify knows", path.display()), TAKES))
}

/// The faults of a file whose name tells its kind; `None` of another.
fn faults_of(path: &Path) -> Option<Vec<String>> {
    let dir = path.parent().unwrap_or(Path::new(""));
    match path.file_name()?.to_string_lossy() {
        name if name.ends_with(profile::SUFFIX) => Some(profile::faults(path)),
        name if name.ends_with(scorer::SUFFIX) => Some(scorer::faults(path)),
        name if name == Evaluation::FILE => Some(evaluation::faults(dir)),
        name if name == analysis::FILE => Some(analysis::faults(path)),
        name if name == Manifest::FILE => Some(dump::faults(dir)),
        _ => None,
    }
}
