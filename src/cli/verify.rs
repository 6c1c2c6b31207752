//! `kvscope verify`: whether files are what they claim to be.

use std::path::Path;
use std::path::PathBuf;

use serde_json::json;

use crate::cli::Outcome;
use crate::cli::failure::Usage;
use crate::cli::options::Common;
use crate::cli::output::emit_json;
use crate::cli::output::emit_line;
use crate::cli::output::note;
use crate::files::FileError;
use crate::files::read_json;
use crate::format::analysis;
use crate::format::analysis::Analysis;
use crate::format::dump::Dump;
use crate::format::dump::DumpError;
use crate::format::dump::sample_faults;
use crate::format::evaluation;
use crate::format::evaluation::Evaluation;
use crate::format::profile::Profile;
use crate::format::run::Run;

/// Check dumps, profiles, analyses and evaluations: hashes, shapes, finite values, sums. Exits with 1 when something is wrong
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folders of dumps, reports or evaluations, .profile.json files, or an analysis.json
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args, common: &Common) -> anyhow::Result<Outcome> {
    let (mut n_checked, mut faults) = (0, Vec::new());
    for path in &args.paths {
        look_at(path, &mut n_checked, &mut faults)?;
    }
    if common.json {
        emit_json(&json!({ "schema": "kvscope.verify/1", "checked": n_checked, "faults": faults }))?;
    } else {
        for fault in &faults {
            emit_line(fault)?;
        }
        let count = if faults.is_empty() { "no fault".into() } else { format!("faults: {}", faults.len()) };
        note(common, &format!("{n_checked} checked, {count}"));
    }
    Ok(if faults.is_empty() { Outcome::Done } else { Outcome::GateNotMet })
}

fn look_at(path: &Path, n_checked: &mut usize, faults: &mut Vec<String>) -> anyhow::Result<()> {
    if !path.exists() {
        return Err(Usage::error(
            format!("{} does not exist", path.display()),
            "give a folder of a dump, report or evaluation, a .profile.json file, or an analysis.json",
        ));
    }
    let mut add = |file: &Path, what: String| faults.push(format!("{}: {what}", file.display()));
    if path.join("manifest.json").exists() {
        *n_checked += 1;
        match Dump::open(path) {
            Ok(dump) => {
                for (i, entry) in dump.manifest().samples.iter().enumerate() {
                    sample_faults(&dump, i).into_iter().for_each(|what| add(&path.join(&entry.file), what));
                }
            }
            Err(DumpError::Inconsistent { path, what }) => add(&path, what),
            Err(other) => return Err(other.into()),
        }
        return Ok(());
    }
    if path.is_dir() {
        let files = report_files(path)?;
        if files.is_empty() {
            return Err(Usage::error(
                format!("{} holds neither a dump, nor a report, nor an evaluation", path.display()),
                "give a folder with a manifest.json, an analysis.json or an eval.json",
            ));
        }
        return files.iter().try_for_each(|file| look_at(file, n_checked, faults));
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.ends_with(".profile.json") {
        of_profile(&read_json(path)?).into_iter().for_each(|what| add(path, what));
    } else if name == Evaluation::FILE {
        let dir = path.parent().unwrap_or(Path::new(""));
        evaluation::faults(dir).into_iter().for_each(|what| add(path, what));
    } else if name.ends_with(".json") {
        let document: Analysis = read_json(path)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        analysis::faults(&document, dir).into_iter().for_each(|what| add(path, what));
    } else {
        return Err(Usage::error(
            format!("{} is of no kind that verify knows", path.display()),
            "give a folder of a dump, report or evaluation, a .profile.json file, or an analysis.json",
        ));
    }
    *n_checked += 1;
    Ok(())
}

fn of_profile(profile: &Profile) -> Vec<String> {
    profile.check().err().map(|fault| fault.to_string()).into_iter().collect()
}

/// The analysis, the evaluation and the profiles in a folder.
fn report_files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| FileError::io("list", dir, e))? {
        let path = entry.map_err(|e| FileError::io("list", dir, e))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name == "analysis.json" || name == Evaluation::FILE || name.ends_with(".profile.json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
