//! `kvscope verify`: whether files are what they claim to be.

use std::path::Path;
use std::path::PathBuf;

use serde_json::json;

use crate::analyze::Analysis;
use crate::analyze::MapEntry;
use crate::cli::Outcome;
use crate::cli::failure::Usage;
use crate::cli::options::Common;
use crate::cli::output::emit;
use crate::cli::output::emit_json;
use crate::cli::output::note;
use crate::dump::Dump;
use crate::dump::DumpError;
use crate::dump::manifest_faults;
use crate::dump::sample_faults;
use crate::files::FileError;
use crate::files::read_json;
use crate::profile::Profile;

/// Largest map file that is read.
const MAX_MAP_BYTES: u64 = 8 << 30;

/// Check dumps, profiles and analyses: hashes, shapes, finite values, sums. Exits with 1 when something is wrong
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folders of dumps or reports, .profile.json files, or an analysis.json
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
            emit(&format!("{fault}\n"))?;
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
            "give a folder of a dump or report, a .profile.json file, or an analysis.json",
        ));
    }
    let mut add = |file: &Path, what: String| faults.push(format!("{}: {what}", file.display()));
    if path.join("manifest.json").exists() {
        *n_checked += 1;
        match Dump::open(path) {
            Ok(dump) => {
                manifest_faults(dump.manifest()).into_iter().for_each(|what| add(&path.join("manifest.json"), what));
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
                format!("{} holds neither a dump nor a report", path.display()),
                "give a folder with a manifest.json or an analysis.json",
            ));
        }
        return files.iter().try_for_each(|file| look_at(file, n_checked, faults));
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.ends_with(".profile.json") {
        of_profile(&read_json(path)?).into_iter().for_each(|what| add(path, what));
    } else if name.ends_with(".json") {
        let analysis: Analysis = read_json(path)?;
        of_analysis(&analysis, path.parent().unwrap_or(Path::new(""))).into_iter().for_each(|what| add(path, what));
    } else {
        return Err(Usage::error(
            format!("{} is of no kind that verify knows", path.display()),
            "give a folder of a dump or report, a .profile.json file, or an analysis.json",
        ));
    }
    *n_checked += 1;
    Ok(())
}

fn of_profile(profile: &Profile) -> Vec<String> {
    profile.check().err().map(|fault| fault.to_string()).into_iter().collect()
}

/// The analysis and the profiles in a report's folder.
fn report_files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| FileError::io("list", dir, e))? {
        let path = entry.map_err(|e| FileError::io("list", dir, e))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name == "analysis.json" || name.ends_with(".profile.json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn of_analysis(analysis: &Analysis, dir: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let model = &analysis.model;
    let n_datasets = analysis.datasets.len();
    if !analysis.layers.is_sorted_by(|a, b| a < b) || analysis.layers.iter().any(|layer| *layer >= model.n_layers) {
        faults.push(format!("the layers do not rise within the model's {}", model.n_layers));
    }
    if !analysis.lags.is_sorted_by(|a, b| a < b) || !analysis.eps_grid.is_sorted_by(|a, b| a < b) {
        faults.push("the lags or the thresholds do not rise".into());
    }
    if analysis.reference_eps >= analysis.eps_grid.len() {
        faults.push(format!(
            "reference_eps is threshold number {} of {}",
            analysis.reference_eps,
            analysis.eps_grid.len()
        ));
    }
    if analysis.kept_fraction.len() != n_datasets {
        faults.push(format!("{} kept fractions for {n_datasets} data sets", analysis.kept_fraction.len()));
    }
    let is_share = |x: f64| (-1e-9..=1.0 + 1e-9).contains(&x);
    if analysis.kept_fraction.iter().flatten().any(|interval| !is_share(interval.estimate)) {
        faults.push("a kept fraction lies outside 0 to 1".into());
    }
    for dataset in &analysis.datasets {
        let name = &dataset.dataset;
        let is_head = |layer: usize, kv_head: usize| analysis.layers.contains(&layer) && kv_head < model.n_kv_heads;
        for similarity in &dataset.similarity {
            let state = similarity.state.name();
            for head in &similarity.heads {
                let place = format!("{name}, {state}, layer {}, head {}", head.layer, head.kv_head);
                if !is_head(head.layer, head.kv_head) {
                    faults.push(format!("{place}: there is no such head"));
                }
                if head.locality.len() != analysis.lags.len() {
                    faults.push(format!("{place}: {} values for {} lags", head.locality.len(), analysis.lags.len()));
                }
                let cosines = head.locality.iter().flatten().chain(&head.neighbours.mean);
                if cosines.copied().any(|x| !(-1.0 - 1e-6..=1.0 + 1e-6).contains(&x)) {
                    faults.push(format!("{place}: a cosine lies outside -1 to 1"));
                }
            }
            let in_bins: u64 = similarity.histogram.iter().sum();
            let in_heads: u64 = similarity.heads.iter().map(|head| head.neighbours.n as u64).sum();
            if in_bins != in_heads {
                faults.push(format!("{name}, {state}: {in_bins} pairs in the histogram, {in_heads} in the heads"));
            }
        }
        for head in &dataset.sparsity {
            let place = format!("{name}, sets of layer {}, head {}", head.layer, head.kv_head);
            let n_eps = analysis.eps_grid.len();
            if !is_head(head.layer, head.kv_head) {
                faults.push(format!("{place}: there is no such head"));
            }
            if [head.set_ratio.len(), head.kept_fraction.len(), head.largest_set.len()] != [n_eps; 3] {
                faults.push(format!("{place}: not one value for each of {n_eps} thresholds"));
            }
            if head.set_ratio.iter().chain(&head.kept_fraction).flatten().any(|x| !is_share(*x)) {
                faults.push(format!("{place}: a share lies outside 0 to 1"));
            }
        }
    }
    faults.extend(analysis.maps.iter().filter_map(|map| of_map(map, dir)));
    faults
}

fn of_map(map: &MapEntry, dir: &Path) -> Option<String> {
    let path = dir.join(&map.file);
    let fault = |what: String| Some(format!("the map {} {what}", map.file));
    // A name from a stranger must not lead out of the folder.
    let is_inside = Path::new(&map.file).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let Some(file) = std::fs::metadata(&path).ok().filter(|file| is_inside && file.is_file()) else {
        return fault("is not there".into());
    };
    if file.len() > MAX_MAP_BYTES {
        return fault(format!("has {} bytes, more than are read", file.len()));
    }
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => return fault(format!("cannot be read: {error}")),
    };
    let tensors = match safetensors::SafeTensors::deserialize(&bytes) {
        Ok(tensors) => tensors,
        Err(error) => return fault(format!("is damaged: {error}")),
    };
    let mut side = map.n_tokens;
    for level in 0..map.n_levels {
        let name = format!("level.{level}");
        if !tensors.tensor(&name).is_ok_and(|view| view.shape() == [side, side]) {
            return fault(format!("has no {name} of {side} x {side} values"));
        }
        side = side.div_ceil(2);
    }
    None
}
