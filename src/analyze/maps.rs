//! Similarity maps: every token against every token of one head, with coarser levels for drawing.

use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::iter::IndexedParallelIterator;
use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSliceMut;

use crate::analyze::AnalyzeError;
use crate::analyze::MapEntry;
use crate::analyze::MapRequest;
use crate::analyze::similarity::Directions;
use crate::dump::ElementType;
use crate::dump::Sample;
use crate::dump::SampleWriter;
use crate::dump::TensorSpec;
use crate::files::ModelIdentity;
use crate::files::TOOL_VERSION;
use crate::math::Rhs;
use crate::math::product;

/// Longest sample of which a map is made; it takes 2·T² bytes of memory, 512 MiB.
pub(crate) const MAX_MAP_TOKENS: usize = 1 << 14;
/// Levels are halved until they are no wider.
const COARSEST: usize = 256;
/// Rows and columns of a tile: its product, 256 KiB in f32, stays in a core's cache.
const TILE: usize = 256;
/// Rows and columns of a transposed piece: 32 f16 are one cache line.
const PIECE: usize = 32;

/// One map to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapFile<'a> {
    pub(crate) model: &'a ModelIdentity,
    pub(crate) sample: &'a Sample<'a>,
    pub(crate) request: MapRequest,
    /// Number of the data set, which keeps names apart that are equal once made safe.
    pub(crate) dataset: usize,
    /// Number of the sample within it.
    pub(crate) number: usize,
}

impl MapFile<'_> {
    /// Writes `maps/<name>.safetensors` below `out_dir`.
    pub(crate) fn write(self, out_dir: &Path) -> Result<MapEntry, AnalyzeError> {
        let MapRequest { layer, kv_head, state } = self.request;
        let sample = self.sample.entry();
        let n_tokens = sample.n_tokens;
        let rows = self.sample.vectors(layer, state, kv_head)?;
        let mut finest = Vec::new();
        similarity_map(&rows, rows.len() / n_tokens, &mut finest);
        let mut levels = vec![finest];
        let mut widths = vec![n_tokens];
        while let (Some(level), Some(width)) = (levels.last(), widths.last().copied())
            && width > COARSEST
        {
            levels.push(coarser(level, width));
            widths.push(width.div_ceil(2));
        }
        let specs = widths
            .iter()
            .enumerate()
            .map(|(level, width)| TensorSpec {
                name: format!("level.{level}"),
                element: ElementType::F16,
                shape: vec![*width, *width],
            })
            .collect();
        let metadata = [
            ("schema", "kvscope.map/1".to_string()),
            ("tool", TOOL_VERSION.to_string()),
            ("model", self.model.name.clone()),
            ("model_fingerprint", self.model.fingerprint.clone()),
            ("dataset", sample.dataset.clone()),
            ("id", sample.id.clone()),
            ("layer", layer.to_string()),
            ("kv_head", kv_head.to_string()),
            ("state", state.name().to_string()),
        ];
        let safe = safe_name(&sample.dataset);
        let name = format!("{}-{safe}-{}-layer{layer}-head{kv_head}-{}", self.dataset, self.number, state.name());
        let file = format!("maps/{name}.safetensors");
        let mut writer = SampleWriter::create(&out_dir.join(&file), specs, &metadata)?;
        for (index, level) in levels.iter().enumerate() {
            writer.write_f16(&format!("level.{index}"), level)?;
        }
        writer.finish()?;
        let (dataset, id) = (sample.dataset.clone(), sample.id.clone());
        Ok(MapEntry { file, dataset, id, state, layer, kv_head, n_tokens, n_levels: levels.len() })
    }
}

/// cos(x_i, x_j) for all i and j, into `map`, whose room is used again; NaN where one of the vectors has no direction.
///
/// - Shape: rows `[T, D]`, D = `dim` → `[T, T]`
/// - Unit:  cosine, rounded to f16
/// - Cost:  O(T²·D) time, half of it by symmetry; 2·T² bytes, and one tile per thread
pub fn similarity_map(rows: &[f32], dim: usize, map: &mut Vec<f16>) {
    let directions = Directions::new(rows.to_vec(), dim);
    let n = directions.len();
    map.resize(n * n, f16::ZERO);
    // The tiles on and above the diagonal, each row of tiles by one thread.
    map.par_chunks_mut(TILE * n.max(1)).enumerate().for_each_init(
        || vec![0f32; TILE * TILE],
        |tile, (row_tile, rows)| {
            let i = row_tile * TILE;
            let height = rows.len() / n;
            for j in (i..n).step_by(TILE) {
                let width = TILE.min(n - j);
                let tile = &mut tile[..height * width];
                let (lhs, rhs) = (directions.rows(i, i + height), directions.rows(j, j + width));
                product(lhs, rhs, tile, [height, width, dim], Rhs::Transposed);
                // What rounding leaves above 1 in f32 is 1 in f16, so that nothing is clamped.
                for (cosines, out) in tile.chunks_exact(width).zip(rows.chunks_exact_mut(n)) {
                    out[j..j + width].convert_from_f32_slice(cosines);
                }
            }
        },
    );
    mirror(map, n);
    for i in (0..n).filter(|i| !directions.is_defined(*i)) {
        map[i * n..(i + 1) * n].fill(f16::NAN);
        map.iter_mut().skip(i).step_by(n).for_each(|cell| *cell = f16::NAN);
    }
}

/// Copies what is above the diagonal below it.
fn mirror(map: &mut [f16], n: usize) {
    for i in (0..n).step_by(TILE) {
        let height = TILE.min(n - i);
        let (above, rest) = map.split_at_mut(i * n);
        let rows = &mut rest[..height * n];
        rows.par_chunks_mut(PIECE * n).enumerate().for_each(|(piece, rows)| {
            let first = i + piece * PIECE;
            for j in (0..i).step_by(PIECE) {
                for (r, row) in rows.chunks_exact_mut(n).enumerate() {
                    for (k, out) in row[j..j + PIECE].iter_mut().enumerate() {
                        *out = above[(j + k) * n + first + r];
                    }
                }
            }
        });
        for r in 1..height {
            for c in 0..r {
                rows[r * n + i + c] = rows[c * n + i + r];
            }
        }
    }
}

/// Means over 2 x 2 cells of those that are there and defined; NaN where none is. Every level is rounded to f16.
///
/// - Shape: `[W, W]` → `[⌈W/2⌉, ⌈W/2⌉]`; a cell at an odd edge is the mean of two, or of one
fn coarser(level: &[f16], width: usize) -> Vec<f16> {
    let half = width.div_ceil(2);
    let mut out = vec![f16::ZERO; half * half];
    out.par_chunks_mut(half.max(1)).enumerate().for_each(|(i, out)| {
        for (j, out) in out.iter_mut().enumerate() {
            let (mut sum, mut n) = (0f32, 0f32);
            for row in level.chunks_exact(width).skip(2 * i).take(2) {
                for cell in row[2 * j..].iter().take(2).filter(|cell| !cell.is_nan()) {
                    sum += cell.to_f32();
                    n += 1.0;
                }
            }
            *out = if n > 0.0 { f16::from_f32(sum / n) } else { f16::NAN };
        }
    });
    out
}

/// A data set's name as part of a file name.
fn safe_name(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
    text.chars().take(64).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_of(rows: &[f32], dim: usize) -> Vec<f16> {
        let mut map = vec![f16::MAX; 3];
        similarity_map(rows, dim, &mut map);
        map
    }

    #[test]
    fn levels_of_five_tokens_by_hand() {
        // Directions 0°, 90°, none, 0°, 180°.
        let rows = vec![1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0, -1.0, 0.0];
        let map = map_of(&rows, 2);
        let nan = f32::NAN;
        let expected = [
            [1.0, 0.0, nan, 1.0, -1.0],
            [0.0, 1.0, nan, 0.0, 0.0],
            [nan, nan, nan, nan, nan],
            [1.0, 0.0, nan, 1.0, -1.0],
            [-1.0, 0.0, nan, -1.0, 1.0],
        ];
        same(&map, expected.as_flattened());
        // (0,0): 1 0 0 1; (0,1): 1 and 0 beside the undefined column; (0,2): -1 0; (1,1): only token 3 itself.
        let level = coarser(&map, 5);
        same(&level, &[0.5, 0.5, -0.5, 0.5, 1.0, -1.0, -0.5, -1.0, 1.0]);
        same(&coarser(&level, 3), &[0.625, -0.75, -0.75, 1.0]);
        same(&coarser(&[f16::NAN], 1), &[nan]);
    }

    #[test]
    fn tiles_and_their_mirrors_agree_with_plain_cosines() {
        // Not a multiple of the tile or the piece; the second row of tiles has 45 rows.
        let (n, dim) = (301, 5);
        let mut rows: Vec<f32> = (0..n * dim).map(|i| (i as f32 * 0.7).sin() + 0.3).collect();
        rows[290 * dim..291 * dim].fill(0.0);
        let map = map_of(&rows, dim);
        for i in 0..n {
            for j in 0..n {
                let got = map[i * n + j];
                assert_eq!(got.to_bits(), map[j * n + i].to_bits(), "{i} {j}");
                match crate::math::cosine(&rows[i * dim..][..dim], &rows[j * dim..][..dim]) {
                    // f16 has 11 bits: half a unit in the last place below 1 is 2^-12.
                    Some(exact) => assert!((got.to_f32() - exact).abs() < 2.6e-4, "{i} {j}: {got} for {exact}"),
                    None => assert!(got.is_nan()),
                }
            }
        }
    }

    #[test]
    fn names_lead_nowhere() {
        assert_eq!(safe_name("../a b/ä"), "___a_b__");
    }

    fn same(got: &[f16], expected: &[f32]) {
        assert_eq!(got.len(), expected.len());
        for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
            let equal = got.to_f32() == *expected || (got.is_nan() && expected.is_nan());
            assert!(equal, "cell {index}: {got} for {expected}");
        }
    }
}
