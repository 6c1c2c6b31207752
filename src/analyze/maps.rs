//! Similarity maps: every token against every token of one head, with coarser levels for drawing.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;
use multiversion::multiversion;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};

use crate::analyze::{AnalyzeError, MapRequest};
use crate::files::{FileError, ModelIdentity, create_own_dir, is_inside};
use crate::format::dump::Sample;
use crate::format::kind::Kind;
use crate::format::map;
use crate::format::map::MapEntry;
use crate::math::{Rows, TILE, Tile, UnitRows, copy_past_caches, narrow_f16, settle, widen_f16};

/// Folder of the maps below that of the analysis.
const MAPS: &str = "maps";
/// Longest sample of which a map is made; it takes 8/3·T² bytes of memory, 683 MiB.
pub(crate) const MAX_MAP_TOKENS: usize = 1 << 14;

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
    /// Writes `maps/<name>.safetensors` below `out_dir`; from a map that `maker` makes.
    pub(crate) fn write(self, out_dir: &Path, maker: &mut MapMaker) -> Result<MapEntry, AnalyzeError> {
        let MapRequest { layer, kv_head, state } = self.request;
        let sample = self.sample.entry();
        // Of a layer with a window, what its cache holds at the end.
        let held = self.model.within_reach(layer, sample.n_tokens);
        let (first_token, n_tokens) = (held.start, held.len());
        let rows = self.sample.vectors(layer, state, kv_head)?;
        let safe = safe_name(&sample.dataset);
        let name = format!("{}-{safe}-{}-layer{layer}-head{kv_head}-{}", self.dataset, self.number, state.name());
        let (dataset, id, n_levels) = (sample.dataset.clone(), sample.id.clone(), map::n_levels(n_tokens));
        let file = format!("{MAPS}/{name}.safetensors");
        let mut entry =
            MapEntry { file, dataset, id, state, layer, kv_head, first_token, n_tokens, n_levels, sha256: None };
        let levels = maker.map(rows.rows().part(held), n_levels);
        create_own_dir(&out_dir.join(MAPS))?;
        entry.sha256 = Some(map::write(out_dir, &entry, self.model, levels)?);
        Ok(entry)
    }
}

/// Removes the maps of an earlier analysis in the same folder that this one does not have, and the folder of maps where nothing is left
/// in it. What is no map of ours by now, or lies elsewhere, stays.
pub(crate) fn remove(out_dir: &Path, earlier: &[MapEntry], now: &[MapEntry]) -> Result<(), FileError> {
    let gone = earlier.iter().filter(|entry| now.iter().all(|other| other.file != entry.file));
    let dir = out_dir.join(MAPS);
    // A link leads to files of somewhere else.
    if !dir.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    for entry in gone.filter(|entry| is_inside(&entry.file)) {
        let path = out_dir.join(&entry.file);
        let is_ours = || Kind::of(&path).is_ok_and(|kind| kind.is_some_and(|kind| kind.schema == map::NAME));
        if path.parent() == Some(dir.as_path()) && is_ours() {
            std::fs::remove_file(&path).map_err(|e| FileError::io("remove", &path, e))?;
        }
    }
    // A folder that is not empty, or not there, is left as it is.
    let _ = std::fs::remove_dir(&dir);
    Ok(())
}

/// Similarity maps, one after the other in the same memory.
#[derive(Default)]
pub struct MapMaker {
    unit: UnitRows,
    workers: Vec<Worker>,
    levels: Vec<Vec<f16>>,
}

impl MapMaker {
    /// cos(x_i, x_j) for all i and j, and coarser levels of it.
    ///
    /// A cell of a coarser level is the mean over 2 x 2 cells of the one before, of those that are there and defined,
    /// rounded to f16. NaN where there is none, as where one of two vectors has no direction.
    ///
    /// - Shape: rows `[T, D]` → `n_levels` of `[T, T]`, `[⌈T/2⌉, ⌈T/2⌉]`, and so on; at most 9
    /// - Unit:  cosine, rounded to f16
    /// - Cost:  O(T²·D) time, half of it by symmetry; 8/3·T² bytes for all levels, and five tiles per thread
    pub fn map(&mut self, rows: Rows<'_>, n_levels: usize) -> &[Vec<f16>] {
        let Self { unit, workers, levels } = self;
        unit.set(rows);
        levels.resize(n_levels, Vec::new());
        let mut side = unit.len();
        let squares = levels.iter_mut().map(|cells| {
            let square = Square::new(cells, side);
            side = side.div_ceil(2);
            square
        });
        let squares: Vec<Square<'_>> = squares.collect();
        let n_tiles = unit.len().div_ceil(TILE);
        let places: Vec<[usize; 2]> = (0..n_tiles).flat_map(|i| (i..n_tiles).map(move |j| [i, j])).collect();
        workers.resize_with(rayon::current_num_threads(), Worker::default);
        let next = AtomicUsize::new(0);
        // Each thread takes the next tile, so that all end at about the same time.
        workers.par_iter_mut().with_max_len(1).for_each(|worker| {
            let mut leaving = None;
            while let Some(place) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                leaving = worker.fill(unit, *place, &squares, leaving);
            }
            worker.leave(leaving);
            settle();
        });
        levels
    }
}

/// A tile and its mirror image.
#[derive(Default)]
struct Pair {
    tile: Tile,
    mirrored: Tile,
}

/// A pair's way to its level, a row at a time.
struct Leaving<'a> {
    square: &'a Square<'a>,
    /// Row and column of the tile's first cell.
    at: [usize; 2],
    /// Rows and columns of the tile.
    size: [usize; 2],
    next_row: usize,
}

impl<'a> Leaving<'a> {
    fn new(square: &'a Square<'a>, at: [usize; 2], size: [usize; 2]) -> Self {
        Self { square, at, size, next_row: 0 }
    }

    /// Copies a row of both; whether there are more.
    fn step(&mut self, pair: &Pair) -> bool {
        let ([i, j], [height, width], row) = (self.at, self.size, self.next_row);
        if row < height {
            self.square.put([i + row, j], &pair.tile.cells()[row * TILE..][..width]);
        }
        if row < width && i != j {
            self.square.put([j + row, i], &pair.mirrored.cells()[row * TILE..][..height]);
        }
        self.next_row += 1;
        self.next_row < height.max(width)
    }

    /// Copies all rows that are left.
    fn finish(mut self, pair: &Pair) {
        while self.step(pair) {}
    }
}

/// One thread's tiles.
#[derive(Default)]
struct Worker {
    made: Pair,
    /// Of the finest level, made before.
    done: Pair,
    coarser: Tile,
}

impl Worker {
    /// One tile and its mirror image in every level, made while the tile is in the cache.
    ///
    /// Those of the finest level are returned on their way. They leave between the blocks of the next tile, so that memory
    /// is busy while the products are.
    fn fill<'a>(
        &mut self,
        unit: &UnitRows,
        place: [usize; 2],
        squares: &'a [Square<'a>],
        mut before: Option<Leaving<'a>>,
    ) -> Option<Leaving<'a>> {
        let mut size = place.map(|at| (unit.len() - at * TILE).min(TILE));
        unit.tile(place, &mut self.made.tile, &mut || {
            before.take_if(|leaving| !leaving.step(&self.done));
        });
        self.leave(before);
        std::mem::swap(&mut self.made, &mut self.done);
        let Self { made, done, coarser } = self;
        done.tile.transpose(TILE, &mut done.mirrored);
        if place[0] == place[1] {
            let rows = done.tile.cells_mut().chunks_exact_mut(TILE).zip(done.mirrored.cells().chunks_exact(TILE));
            for (i, (row, mirrored)) in rows.enumerate() {
                row[..i].copy_from_slice(&mirrored[..i]);
            }
        }
        let mut side = TILE;
        let mut finest = None;
        for (level, square) in squares.iter().enumerate() {
            if level == 0 {
                finest = Some(Leaving::new(square, place.map(|at| at * TILE), size));
                continue;
            }
            std::mem::swap(&mut made.tile, coarser);
            let finer = if level == 1 { &done.tile } else { &*coarser };
            halve(finer.cells(), size, made.tile.cells_mut());
            side /= 2;
            size = size.map(|n| n.div_ceil(2));
            made.tile.transpose(side, &mut made.mirrored);
            Leaving::new(square, place.map(|at| at * side), size).finish(made);
        }
        finest
    }

    /// Copies what is left of the tiles before.
    fn leave(&self, leaving: Option<Leaving<'_>>) {
        if let Some(leaving) = leaving {
            leaving.finish(&self.done);
        }
    }
}

/// Means over 2 x 2 cells of the first rows and columns of a tile into the first of another; a cell at an odd edge is the
/// mean of two, or of one.
fn halve(tile: &[f16], [height, width]: [usize; 2], out: &mut [f16]) {
    let (mut top, mut bottom) = ([0f32; TILE], [0f32; TILE]);
    for i in 0..height.div_ceil(2) {
        widen_f16(&tile[2 * i * TILE..][..width], &mut top[..width]);
        let n_rows = (height - 2 * i).min(2);
        if n_rows == 2 {
            widen_f16(&tile[(2 * i + 1) * TILE..][..width], &mut bottom[..width]);
        }
        let mut means = [0f32; TILE / 2];
        let n_means = width.div_ceil(2);
        let all_known = pair_means(&top, &bottom, &mut means[..n_means]);
        // At an edge, and where a cell is undefined, only some of the four count.
        let is_whole = n_rows == 2 && width.is_multiple_of(2) && all_known;
        let first = if is_whole { n_means } else { 0 };
        for (j, mean) in means.iter_mut().enumerate().take(n_means).skip(first) {
            let cells = [&top, &bottom].into_iter().take(n_rows).flat_map(|row| &row[2 * j..width.min(2 * j + 2)]);
            let (sum, n) = cells.filter(|x| !x.is_nan()).fold((0f32, 0f32), |(sum, n), x| (sum + x, n + 1.0));
            *mean = if n > 0.0 { sum / n } else { f32::NAN };
        }
        narrow_f16(&means, &mut out[i * TILE..][..TILE / 2]);
    }
}

/// Means of two neighbours in each of two rows, and whether all are numbers.
#[multiversion(targets("x86_64+avx2+fma"))]
fn pair_means(top: &[f32; TILE], bottom: &[f32; TILE], means: &mut [f32]) -> bool {
    let mut sum = 0f32;
    let cells = means.iter_mut().zip(top.as_chunks::<2>().0.iter().zip(bottom.as_chunks::<2>().0));
    cells.for_each(|(mean, ([a, b], [c, d]))| {
        *mean = ((a + c) + (b + d)) * 0.25;
    });
    means.as_chunks::<8>().0.iter().for_each(|means| sum += means.iter().sum::<f32>());
    !(sum + means.as_chunks::<8>().1.iter().sum::<f32>()).is_nan()
}

/// One level, of which several threads write different parts.
struct Square<'a> {
    cells: *mut f16,
    side: usize,
    borrowed: PhantomData<&'a mut [f16]>,
}

#[expect(unsafe_code, reason = "threads write the places of different tiles, as `MapMaker` gives each tile out once")]
unsafe impl Sync for Square<'_> {}

impl<'a> Square<'a> {
    fn new(cells: &'a mut Vec<f16>, side: usize) -> Self {
        cells.resize(side * side, f16::ZERO);
        Self { cells: cells.as_mut_ptr(), side, borrowed: PhantomData }
    }

    /// Copies part of a tile's row to row `i` and column `j` on.
    fn put(&self, [i, j]: [usize; 2], row: &[f16]) {
        assert!(i < self.side && j + row.len() <= self.side, "outside of the level");
        #[expect(unsafe_code, reason = "checked above; no other thread has this place")]
        unsafe {
            copy_past_caches(row, self.cells.add(i * self.side + j));
        }
    }
}

/// A data set's name as part of a file name.
fn safe_name(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
    text.chars().take(64).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_of(rows: Rows<'_>, n_levels: usize) -> Vec<Vec<f16>> {
        // In used room.
        let mut maker = MapMaker::default();
        maker.map(Rows::new(&vec![1.0; 3 * TILE * rows.width()], rows.width()), n_levels + 1);
        maker.map(rows, n_levels).to_vec()
    }

    #[test]
    fn levels_of_five_tokens_by_hand() {
        // Directions 0°, 90°, none, 0°, 180°.
        let rows = vec![1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0, -1.0, 0.0];
        let levels = map_of(Rows::new(&rows, 2), 4);
        let nan = f32::NAN;
        let expected = [
            [1.0, 0.0, nan, 1.0, -1.0],
            [0.0, 1.0, nan, 0.0, 0.0],
            [nan, nan, nan, nan, nan],
            [1.0, 0.0, nan, 1.0, -1.0],
            [-1.0, 0.0, nan, -1.0, 1.0],
        ];
        same(&levels[0], expected.as_flattened());
        // (0,0): 1 0 0 1; (0,1): 1 and 0 beside the undefined column; (0,2): -1 0; (1,1): only token 3 itself.
        same(&levels[1], &[0.5, 0.5, -0.5, 0.5, 1.0, -1.0, -0.5, -1.0, 1.0]);
        same(&levels[2], &[0.625, -0.75, -0.75, 1.0]);
        same(&levels[3], &[0.03125]);
        same(&map_of(Rows::new(&[0.0], 1), 1)[0], &[nan]);
    }

    #[test]
    fn tiles_their_mirrors_and_levels_agree_with_plain_cosines() {
        // Not a multiple of the tile: the second row of tiles has 45 rows. Nothing lies beside row 300 in coarser levels.
        let (n, dim) = (301, 5);
        let mut rows: Vec<f32> = (0..n * dim).map(|i| (i as f32 * 0.7).sin() + 0.3).collect();
        rows[290 * dim..291 * dim].fill(0.0);
        let rows = Rows::new(&rows, dim);
        let levels = map_of(rows, 4);
        let exact = |i: usize, j: usize| crate::math::cosine(rows.row(i), rows.row(j));
        for (level, cells) in levels.iter().enumerate() {
            let (block, side) = (1 << level, n.div_ceil(1 << level));
            assert_eq!(cells.len(), side * side);
            for i in 0..side {
                for j in 0..side {
                    let got = cells[i * side + j];
                    assert_eq!(got.to_bits(), cells[j * side + i].to_bits(), "{i} {j}");
                    // Means of means are plain means where all cells are there and defined.
                    let [first, second] = [i, j].map(|at| at * block..((at + 1) * block).min(n));
                    let pairs = first.clone().flat_map(|a| second.clone().map(move |b| (a, b)));
                    let known: Vec<f32> = pairs.filter_map(|(a, b)| exact(a, b)).collect();
                    if known.len() == block * block {
                        let mean = known.iter().sum::<f32>() / known.len() as f32;
                        // f16 has 11 bits: half a unit in the last place below 1 is 2^-12, once for every level.
                        let slack = 2.6e-4 * (level + 1) as f32;
                        assert!((got.to_f32() - mean).abs() < slack, "level {level}, {i} {j}: {got} for {mean}");
                    }
                    assert_eq!(got.is_nan(), known.is_empty(), "level {level}, {i} {j}");
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
