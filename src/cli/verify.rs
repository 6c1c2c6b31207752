//! `kvscope verify`: whether files are what they claim to be.

use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde_json::json;

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::{Result, Usage};
use crate::cli::inspect::MAX_JSON_BYTES;
use crate::cli::output::{emit_json, emit_line, hint, note};
use crate::files::{list, read_limited};
use crate::format::dump;
use crate::format::dump::Manifest;
use crate::format::kind::Kind;
use crate::format::run::Run;
use crate::format::scorer;

/// What verify takes.
const TAKES: &str = "give a folder or a file that kvscope wrote";

/// What to do about faults.
const DAMAGED: &str = "copy what is damaged again from where it was made, or make it again with the same command";

/// Check what kvscope wrote for damage and impossible numbers: hashes, shapes, finite values, sums. Exits with 1 when something is
/// wrong
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folders and files of any kind that kvscope writes, such as dumps, analyses, profiles, evaluations, generations
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
        let checked = format!("{n_checked} checked, {count}");
        // Where there are faults, they are the result.
        if faults.is_empty() {
            emit_line(&checked)?;
        } else {
            note(common, &checked);
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
    let of_kind = |what: &str| Usage::error(format!("{} {what}", path.display()), TAKES);
    if !path.is_dir() {
        let faults = faults_of(path).or_else(|| of_ending(path));
        let faults = faults.ok_or_else(|| of_kind("is of no kind that verify knows"))?;
        return Ok(vec![faults]);
    }
    if path.join(Manifest::FILE).exists() {
        return Ok(vec![dump::faults(path)]);
    }
    // What an analysis or an evaluation names is checked with it.
    let is_by_itself = |file: &&PathBuf| {
        let document = Kind::of(file).ok().flatten().and_then(|kind| kind.part_of);
        document.is_none_or(|document| !path.join(document).exists())
    };
    let files: Vec<PathBuf> = list(path)?.into_iter().filter(|file| file.is_file()).collect();
    let found: Vec<_> = files.iter().filter(is_by_itself).filter_map(|file| faults_of(file)).collect();
    if found.is_empty() { Err(of_kind("holds nothing that verify knows")) } else { Ok(found) }
}

/// The faults of a file; `None` of one that is not ours.
fn faults_of(path: &Path) -> Option<Vec<String>> {
    match Kind::of(path) {
        Ok(Some(kind)) => Some((kind.faults)(path)),
        // A file that cannot be read is of the kind that its name tells.
        Err(error) => Some(Kind::by_name(path).map_or_else(|| vec![error.to_string()], |kind| (kind.faults)(path))),
        Ok(None) if is_sample(path) => Some(dump::faults(path.parent()?)),
        Ok(None) => None,
    }
}

/// The faults of a file that was named and does not say what it is: it may be cut.
fn of_ending(path: &Path) -> Option<Vec<String>> {
    match path.extension()?.to_str()? {
        "safetensors" => Some(scorer::faults(path)),
        "json" => {
            let text = read_limited(path, "a JSON file", MAX_JSON_BYTES).ok()?;
            let error = serde_json::from_slice::<IgnoredAny>(&text).err()?;
            Some(vec![format!("{} is not valid JSON: {error}", path.display())])
        }
        _ => None,
    }
}

/// Whether a file is of a dump.
fn is_sample(path: &Path) -> bool {
    let dir = path.parent().unwrap_or(Path::new(""));
    path.extension().is_some_and(|ending| ending == "safetensors") && dir.join(Manifest::FILE).exists()
}
