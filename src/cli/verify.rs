//! `kvscope verify`: whether files are what they claim to be.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use crate::analyze::Analysis;
use crate::analyze::MapEntry;
use crate::cli::Outcome;
use crate::cli::failure::Usage;
use crate::cli::options::Common;
use crate::cli::output::emit;
use crate::cli::output::emit_json;
use crate::cli::output::size;
use crate::dump;
use crate::dump::Dump;
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

/// What was found out about one file or folder.
struct Finding {
    path: PathBuf,
    kind: String,
    faults: Vec<String>,
}

pub(crate) fn run(args: &Args, common: &Common) -> anyhow::Result<Outcome> {
    let mut findings = Vec::new();
    for path in &args.paths {
        look_at(path, &mut findings)?;
    }
    if common.json {
        let lines: Vec<Value> = findings
            .iter()
            .map(|finding| json!({ "path": finding.path, "kind": finding.kind, "faults": finding.faults }))
            .collect();
        emit_json(&json!({ "schema": "kvscope.verify/1", "paths": lines }))?;
    } else {
        for Finding { path, kind, faults } in &findings {
            if faults.is_empty() {
                emit(&format!("{}: ok, {kind}\n", path.display()))?;
            }
            for fault in faults {
                emit(&format!("{}: {fault}\n", path.display()))?;
            }
        }
    }
    let all_well = findings.iter().all(|finding| finding.faults.is_empty());
    Ok(if all_well { Outcome::Done } else { Outcome::GateNotMet })
}

fn look_at(path: &Path, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    let add = |kind: String, faults| Finding { path: path.into(), kind, faults };
    if path.join("manifest.json").exists() {
        let faults = dump::verify(path)?;
        let kind = if faults.is_empty() { of_dump(path)? } else { "dump".into() };
        findings.push(add(kind, faults));
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
        return files.iter().try_for_each(|file| look_at(file, findings));
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let finding = if name.ends_with(".profile.json") {
        let profile: Profile = read_json(path)?;
        let faults = profile.check().err().map(|fault| fault.to_string());
        add(format!("profile of {} heads", profile.heads.len()), faults.into_iter().collect())
    } else if name.ends_with(".json") {
        let analysis: Analysis = read_json(path)?;
        let kind = format!("analysis of {} data sets, {} maps", analysis.datasets.len(), analysis.maps.len());
        add(kind, of_analysis(&analysis, path.parent().unwrap_or(Path::new("."))))
    } else {
        // A file that is not there is said to be so, before its name is doubted.
        std::fs::metadata(path).map_err(|e| FileError::io("read", path, e))?;
        return Err(Usage::error(
            format!("{} is of no kind that verify knows", path.display()),
            "give a folder of a dump or report, a .profile.json file, or an analysis.json",
        ));
    };
    findings.push(finding);
    Ok(())
}

fn of_dump(path: &Path) -> anyhow::Result<String> {
    let dump = Dump::open(path)?;
    let manifest = dump.manifest();
    let bytes: u64 = manifest.samples.iter().map(|sample| sample.bytes).sum();
    let (have, planned) = (manifest.samples.len(), manifest.planned_samples);
    let count = if have == planned { format!("{have}") } else { format!("{have} of {planned}") };
    Ok(format!("dump of {count} samples, {}", size(bytes)))
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
        faults.push(format!("reference_eps is {} of {} thresholds", analysis.reference_eps, analysis.eps_grid.len()));
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
                faults.push(format!("{name}, {state}: the histogram counts {in_bins} pairs, the heads {in_heads}"));
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
    let fault = |what: String| Some(format!("map {}: {what}", map.file));
    if Path::new(&map.file).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return fault("the name leads out of the folder".into());
    }
    let path = dir.join(&map.file);
    match std::fs::metadata(&path) {
        Err(error) => return fault(error.to_string()),
        Ok(file) if file.len() > MAX_MAP_BYTES => return fault(format!("{} bytes are too many", file.len())),
        Ok(_) => {}
    }
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => return fault(error.to_string()),
    };
    let tensors = match safetensors::SafeTensors::deserialize(&bytes) {
        Ok(tensors) => tensors,
        Err(error) => return fault(error.to_string()),
    };
    let mut side = map.n_tokens;
    for level in 0..map.n_levels {
        let name = format!("level.{level}");
        if !tensors.tensor(&name).is_ok_and(|view| view.shape() == [side, side]) {
            return fault(format!("{name} is not there with {side} x {side} values"));
        }
        side = side.div_ceil(2);
    }
    None
}
