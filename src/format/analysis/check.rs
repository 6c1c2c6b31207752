//! Whether an analysis is what one can be, and whether the files that it names are those that were written.

use std::path::Path;

use crate::files::{InputHash, is_inside, read_json, sha256_own};
use crate::format::analysis::Analysis;
use crate::format::{explorer, map};

/// Faults of an analysis and of the files that it names, each in words that name the file; empty when there is none.
pub fn faults(path: &Path) -> Vec<String> {
    match read_json(path) {
        Ok(analysis) => {
            let found = faults_of(&analysis, path.parent().unwrap_or(Path::new("")));
            found.into_iter().map(|what| format!("{}: {what}", path.display())).collect()
        }
        Err(error) => vec![error.to_string()],
    }
}

/// Checks that its figures fit each other, that shares and cosines are in range, and the digests of its table, explorer and maps.
fn faults_of(analysis: &Analysis, dir: &Path) -> Vec<String> {
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
    faults.extend(analysis.table.iter().filter_map(|table| table_fault(table, dir)));
    faults.extend(analysis.explorer.iter().filter_map(|file| explorer::fault(dir, file)));
    faults.extend(analysis.maps.iter().filter_map(|entry| map::fault(dir, entry)));
    faults
}

/// The table's digest is that of the analysis.
fn table_fault(table: &InputHash, dir: &Path) -> Option<String> {
    let fault = |what: String| Some(format!("the table {}: {what}", table.name));
    if !is_inside(&table.name) {
        return fault("its name leads out of the folder".into());
    }
    match sha256_own(&dir.join(&table.name)) {
        Ok((sha256, _)) if sha256 == table.sha256 => None,
        Ok((got, _)) => fault(format!("has SHA-256 {got:.12}… where the analysis says {:.12}…", table.sha256)),
        Err(error) => fault(error.to_string()),
    }
}
