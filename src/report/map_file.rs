//! Reads one level of a similarity map's file.

use std::path::Path;
use std::path::PathBuf;

use half::f16;
use safetensors::Dtype;
use safetensors::SafeTensors;

use crate::analyze::MapEntry;
use crate::files::is_inside;
use crate::files::map_opened;
use crate::files::open_own;
use crate::report::ReportError;

/// Longest side of a level that is read into memory.
const MAX_SIDE: usize = 8192;

/// A square of cosines, each cell the mean over `2^level` tokens squared.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Level {
    /// Cells a side.
    pub side: usize,
    /// Tokens that the sides stand for; the last cell may reach beyond the last token.
    pub tokens: f64,
    /// Cosines by row; NaN where there is none.
    pub values: Vec<f32>,
}

/// Reads the finest level with at most `side` cells a side, or the coarsest there is.
pub(super) fn read(dir: &Path, entry: &MapEntry, side: usize) -> Result<Level, ReportError> {
    let path: PathBuf = dir.join(&entry.file);
    let fault = |what: String| ReportError::Map { path: path.clone(), what };
    if !is_inside(&entry.file) {
        return Err(fault(format!("the map's file name {:?} leads out of the analysis' folder", entry.file)));
    }
    let sides: Vec<usize> = sides(entry.n_tokens, entry.n_levels);
    let level = sides.iter().position(|s| *s <= side).or_else(|| sides.len().checked_sub(1));
    let (Some(level), true) = (level, entry.n_tokens > 0) else {
        return Err(fault(format!("the analysis gives it {} tokens and {} levels", entry.n_tokens, entry.n_levels)));
    };
    let n = sides[level];
    if n > MAX_SIDE {
        return Err(fault(format!("its coarsest level has {n} cells a side; at most {MAX_SIDE} can be read")));
    }
    let bytes = map_opened(&open_own(&path)?, &path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| fault(format!("not a valid map: {e}")))?;
    let name = format!("level.{level}");
    let tensor = tensors.tensor(&name).map_err(|_| fault(format!("holds no tensor {name}")))?;
    if tensor.dtype() != Dtype::F16 || tensor.shape() != [n, n] {
        return Err(fault(format!("{name} is {:?} {:?}, expected F16 [{n}, {n}]", tensor.dtype(), tensor.shape())));
    }
    let values = tensor.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    Ok(Level { side: n, tokens: (n as f64) * 2f64.powi(level as i32), values })
}

/// Sides of the levels, each half the one before, rounded up.
fn sides(n_tokens: usize, n_levels: usize) -> Vec<usize> {
    std::iter::successors(Some(n_tokens), |n| Some(n.div_ceil(2))).take(n_levels.min(usize::BITS as usize)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dump::State;

    fn entry(file: &str, n_tokens: usize, n_levels: usize) -> MapEntry {
        let (dataset, id) = ("d".into(), "1".into());
        let (state, layer, kv_head, sha256) = (State::K, 0, 0, None);
        MapEntry { file: file.into(), dataset, id, state, layer, kv_head, n_tokens, n_levels, sha256 }
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
        assert!(error(entry("m.safetensors", 3, 1)).contains("expected F16 [3, 3]"));
        assert!(error(entry("m.safetensors", 0, 1)).contains("0 tokens"));
        assert!(error(entry("m.safetensors", 2, 0)).contains("0 levels"));
        assert!(error(entry("m.safetensors", 99999, 1)).contains("at most 8192"));
        assert!(error(entry("none.safetensors", 2, 1)).contains("cannot open"));
        assert!(error(entry("m.safetensors", 2000, 2)).contains("no tensor level.1"));
        std::fs::write(dir.path().join("m.safetensors"), b"not it").unwrap();
        assert!(error(entry("m.safetensors", 2, 1)).contains("not a valid map"));
    }
}
