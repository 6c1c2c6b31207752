//! `maps/*.safetensors`: one head's cosines of every token with every token, and coarser levels of them.

use std::path::Path;

use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::files::{ModelIdentity, TOOL_VERSION, is_inside, map_opened, open_own, read_own, sha256_bytes};
use crate::format::FormatError;
use crate::format::dump::{DumpError, SampleWriter, State, TensorSpec};

/// The schema's name.
pub const NAME: &str = "kvscope.map";
/// Levels are halved until they are no wider.
const COARSEST: usize = 256;
/// Longest side of a level that is read into memory.
const MAX_SIDE: usize = 8192;
/// Largest file that is checked.
const MAX_BYTES: u64 = 1 << 31;

/// A similarity map that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapEntry {
    /// File below the analysis' folder: safetensors with `level.0` `[T, T]`, `level.1` `[⌈T/2⌉, ⌈T/2⌉]`, … in f16.
    pub file: String,
    /// Data set of the sample.
    pub dataset: String,
    /// Its row id.
    pub id: String,
    /// State.
    pub state: State,
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// First token of the sample that the map has: of a layer with a sliding window, the tokens within it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first_token: usize,
    /// Tokens T.
    pub n_tokens: usize,
    /// Levels, each half as wide as the one before, values averaged over 2 x 2.
    pub n_levels: usize,
    /// SHA-256 of the file; `None` in files of earlier versions.
    #[serde(default)]
    pub sha256: Option<String>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Levels of a map of so many tokens.
pub fn n_levels(n_tokens: usize) -> usize {
    halves(n_tokens).take_while(|side| *side > COARSEST).count() + 1
}

fn halves(n_tokens: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(n_tokens), |n| Some(n.div_ceil(2)))
}

fn level_name(level: usize) -> String {
    format!("level.{level}")
}

impl MapEntry {
    /// Cells a side of each level, each half the one before, rounded up.
    pub fn sides(&self) -> Vec<usize> {
        halves(self.n_tokens).take(self.n_levels.min(usize::BITS as usize)).collect()
    }
}

/// Writes a map's file below the analysis' folder; returns its digest.
pub fn write(dir: &Path, entry: &MapEntry, model: &ModelIdentity, levels: &[Vec<f16>]) -> Result<String, DumpError> {
    let metadata = [
        ("schema", format!("{NAME}/1")),
        ("tool", TOOL_VERSION.to_string()),
        ("model", model.name.clone()),
        ("model_fingerprint", model.fingerprint.clone()),
        ("dataset", entry.dataset.clone()),
        ("id", entry.id.clone()),
        ("layer", entry.layer.to_string()),
        ("kv_head", entry.kv_head.to_string()),
        ("state", entry.state.name().to_string()),
    ];
    let spec = |(level, side)| TensorSpec { name: level_name(level), element: Dtype::F16, shape: vec![side; 2] };
    let specs = entry.sides().into_iter().enumerate().map(spec).collect();
    let mut writer = SampleWriter::create(&dir.join(&entry.file), specs, &metadata)?;
    for (level, cells) in levels.iter().enumerate() {
        writer.write_raw(&level_name(level), cells, f16::to_le_bytes)?;
    }
    Ok(writer.finish()?.0)
}

/// A square of cosines, each cell the mean over `2^level` tokens squared.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// Cells a side.
    pub side: usize,
    /// Tokens that the sides stand for; the last cell may reach beyond the last token.
    pub tokens: f64,
    /// Cosines by row; NaN where there is none.
    pub values: Vec<f32>,
}

/// Reads the finest level with at most `side` cells a side, or the coarsest there is.
///
/// - Errors: a file that is not what the entry says, a level too large for memory
pub fn read(dir: &Path, entry: &MapEntry, side: usize) -> Result<Level, FormatError> {
    let path = dir.join(&entry.file);
    let fault = |what: String| FormatError::damaged(&path, what);
    if !is_inside(&entry.file) {
        return Err(fault(format!("the map's file name {:?} leads out of the analysis' folder", entry.file)));
    }
    let sides = entry.sides();
    let level = sides.iter().position(|s| *s <= side).or_else(|| sides.len().checked_sub(1));
    let (Some(level), true) = (level, entry.n_tokens > 0) else {
        return Err(fault(format!("the analysis gives it {} tokens and {} levels", entry.n_tokens, entry.n_levels)));
    };
    let n = sides[level];
    if n > MAX_SIDE {
        return Err(fault(format!("its coarsest level has {n} cells a side; at most {MAX_SIDE} can be read")));
    }
    let bytes = map_opened(&open_own(&path)?, &path)?;
    let tensors = tensors(&bytes).map_err(fault)?;
    let tensor = view(&tensors, level, n).map_err(fault)?;
    let values = tensor.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    Ok(Level { side: n, tokens: (n as f64) * 2f64.powi(level as i32), values })
}

/// What is wrong with a map's file: its digest, a level that is missing or of another size; `None` when nothing is.
pub fn fault(dir: &Path, entry: &MapEntry) -> Option<String> {
    let check = || {
        if !is_inside(&entry.file) {
            return Err("its name leads out of the folder".to_string());
        }
        let bytes = read_own(&dir.join(&entry.file), "map", MAX_BYTES).map_err(|e| e.to_string())?;
        let got = sha256_bytes(&bytes);
        if let Some(expected) = entry.sha256.as_ref().filter(|expected| **expected != got) {
            return Err(format!("has SHA-256 {got:.12}… where the analysis says {expected:.12}…"));
        }
        let tensors = tensors(&bytes)?;
        entry.sides().into_iter().enumerate().try_for_each(|(level, side)| view(&tensors, level, side).map(drop))
    };
    check().err().map(|what| format!("the map {}: {what}", entry.file))
}

/// Faults of a map that is looked at by itself, each in words that name the file; empty when there is none.
pub fn faults(path: &Path) -> Vec<String> {
    let check = || {
        let bytes = read_own(path, "map", MAX_BYTES).map_err(|e| e.to_string())?;
        let tensors = tensors(&bytes)?;
        let finest = tensors.tensor(&level_name(0)).map_err(|_| format!("holds no tensor {}", level_name(0)))?;
        let n_tokens = finest.shape().first().copied().unwrap_or(0);
        let sides = halves(n_tokens).take(n_levels(n_tokens));
        for (level, side) in sides.enumerate() {
            let cells = view(&tensors, level, side)?.data().as_chunks::<2>().0;
            let values = cells.iter().map(|cell| f16::from_le_bytes(*cell).to_f32());
            if let Some(value) = values.into_iter().find(|value| value.abs() > 1.0 + 1e-3) {
                return Err(format!("{} has a cosine of {value}", level_name(level)));
            }
        }
        Ok(())
    };
    check().err().map(|what| format!("{}: {what}", path.display())).into_iter().collect()
}

fn tensors(bytes: &[u8]) -> Result<SafeTensors<'_>, String> {
    SafeTensors::deserialize(bytes).map_err(|e| format!("not a valid map: {e}"))
}

fn view<'a>(tensors: &SafeTensors<'a>, level: usize, side: usize) -> Result<TensorView<'a>, String> {
    let name = level_name(level);
    let tensor = tensors.tensor(&name).map_err(|_| format!("holds no tensor {name}"))?;
    if tensor.dtype() == Dtype::F16 && tensor.shape() == [side; 2] {
        return Ok(tensor);
    }
    Err(format!("{name} is {:?} of {:?} values, expected F16 of {side} x {side}", tensor.dtype(), tensor.shape()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(file: &str, n_tokens: usize, n_levels: usize) -> MapEntry {
        let (dataset, id) = ("d".into(), "1".into());
        let (state, layer, kv_head, sha256) = (State::K, 0, 0, None);
        MapEntry { file: file.into(), dataset, id, state, layer, kv_head, first_token: 0, n_tokens, n_levels, sha256 }
    }

    fn write(dir: &Path, levels: &[&[f32]]) {
        let data: Vec<Vec<u8>> =
            levels.iter().map(|l| l.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()).collect();
        let views: Vec<_> = data
            .iter()
            .zip(levels)
            .enumerate()
            .map(|(i, (bytes, level))| {
                let n = (level.len() as f64).sqrt() as usize;
                (format!("level.{i}"), safetensors::tensor::TensorView::new(Dtype::F16, vec![n, n], bytes).unwrap())
            })
            .collect();
        let bytes = safetensors::serialize(views, None).unwrap();
        std::fs::write(dir.join("m.safetensors"), bytes).unwrap();
    }

    #[test]
    fn the_finest_level_that_fits_is_read() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[&[1.0, 0.5, 0.25, 0.5, 1.0, 0.0, 0.25, 0.0, 1.0], &[0.75, 0.125, 0.125, 1.0]]);
        let level = read(dir.path(), &entry("m.safetensors", 3, 2), 2).unwrap();
        assert_eq!(level, Level { side: 2, tokens: 4.0, values: vec![0.75, 0.125, 0.125, 1.0] });
        assert_eq!(read(dir.path(), &entry("m.safetensors", 3, 2), 9).unwrap().side, 3);
        assert_eq!(read(dir.path(), &entry("m.safetensors", 3, 2), 1).unwrap().side, 2);
    }

    #[test]
    fn files_that_are_not_what_the_analysis_says_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[&[1.0, 0.5, 0.5, 1.0]]);
        let error = |e: MapEntry| read(dir.path(), &e, 1024).unwrap_err().to_string();
        assert!(error(entry("../m.safetensors", 2, 1)).contains("leads out"));
        assert!(error(entry("/etc/passwd", 2, 1)).contains("leads out"));
        assert!(error(entry("m.safetensors", 3, 1)).contains("expected F16 of 3 x 3"));
        assert!(error(entry("m.safetensors", 0, 1)).contains("0 tokens"));
        assert!(error(entry("m.safetensors", 2, 0)).contains("0 levels"));
        assert!(error(entry("m.safetensors", 99999, 1)).contains("at most 8192"));
        assert!(error(entry("none.safetensors", 2, 1)).contains("cannot open"));
        assert!(error(entry("m.safetensors", 2000, 2)).contains("no tensor level.1"));
        std::fs::write(dir.path().join("m.safetensors"), b"not it").unwrap();
        assert!(error(entry("m.safetensors", 2, 1)).contains("not a valid map"));
    }
}
