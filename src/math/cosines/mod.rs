//! Cosines of all pairs of rows, a square tile at a time, rounded to half precision while they are in registers.

#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;
use rayon::iter::IndexedParallelIterator;
use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSliceMut;

use crate::math::Instructions;
use crate::math::dot;

/// Rows and columns of a tile: in f16, with the two sides it is the product of, it stays in a core's own cache.
pub const TILE: usize = 256;
/// Rows that lie side by side in memory: a register of AVX-512.
const PANEL: usize = 16;
/// Rows of padding unit: the widest block of any kernel, which divides a tile.
const BLOCK: usize = 32;

/// A cache line: what is made of them has no register straddle two.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u32; 16]);

#[expect(unsafe_code, reason = "an array of integers without padding, for which all bits are values")]
unsafe impl bytemuck::Zeroable for Line {}
#[expect(unsafe_code, reason = "an array of integers without padding, for which all bits are values")]
unsafe impl bytemuck::Pod for Line {}

/// Cosines of one square of pairs.
#[derive(Clone, Debug)]
pub struct Tile(Vec<Line>);

impl Default for Tile {
    fn default() -> Self {
        Self(vec![Line([0; 16]); TILE * TILE * size_of::<f16>() / size_of::<Line>()])
    }
}

impl Tile {
    /// Cells by row.
    ///
    /// - Shape: `[TILE, TILE]`
    pub fn cells(&self) -> &[f16] {
        bytemuck::cast_slice(&self.0)
    }

    /// The same to be changed.
    pub fn cells_mut(&mut self) -> &mut [f16] {
        bytemuck::cast_slice_mut(&mut self.0)
    }

    /// The transpose of the first `side` rows and columns into `out`; places beyond them are undefined.
    pub fn transpose(&self, side: usize, out: &mut Self) {
        const PIECE: usize = 8;
        assert!(side <= TILE, "no part of a tile");
        let (from, to): (&[u16], &mut [u16]) = (bytemuck::cast_slice(&self.0), bytemuck::cast_slice_mut(&mut out.0));
        for i in (0..side).step_by(PIECE) {
            for j in (0..side).step_by(PIECE) {
                let row = |r: usize| from[(i + r) * TILE + j..].first_chunk::<PIECE>().copied().unwrap_or_default();
                for (r, row) in transposed(std::array::from_fn(row)).into_iter().enumerate() {
                    to[(j + r) * TILE + i..][..PIECE].copy_from_slice(&row);
                }
            }
        }
    }

    /// Copies the first rows and columns to rows `stride` apart, past the caches where the machine can.
    ///
    /// - Panics: when a tile is not as large
    ///
    /// # Safety
    ///
    /// `to` is valid for writes of `width` numbers at every multiple of `stride` below `height` of them, and no one else
    /// reads or writes there meanwhile.
    #[expect(unsafe_code, reason = "threads write parts of one square that are not slices of it")]
    pub unsafe fn copy_to(&self, [height, width]: [usize; 2], to: *mut f16, stride: usize) {
        assert!(height <= TILE, "no part of a tile");
        let cells: &[u16] = bytemuck::cast_slice(&self.0);
        for (r, row) in cells.chunks_exact(TILE).take(height).enumerate() {
            // SAFETY: as the caller says.
            unsafe {
                let to = to.add(r * stride).cast::<u16>();
                #[cfg(target_arch = "x86_64")]
                x86::copy_past_caches(&row[..width], to);
                #[cfg(not(target_arch = "x86_64"))]
                to.copy_from_nonoverlapping(row[..width].as_ptr(), width);
            }
        }
        #[cfg(target_arch = "x86_64")]
        x86::settle();
    }
}

/// Rows scaled to length 1 and laid out for products with each other.
///
/// A row has no direction when its squared length in f32 is 0 or not finite; its cosines are 0 here.
#[derive(Debug)]
pub struct UnitRows {
    /// Panel by panel `[D, PANEL]` in f32, filled up with zeros to a multiple of [`BLOCK`] rows.
    panels: Vec<Line>,
    dim: usize,
    defined: Vec<bool>,
}

impl UnitRows {
    /// - Shape: rows `[T, D]`, D = `dim` > 0
    /// - Cost:  O(T·D) time and memory
    pub fn new(rows: &[f32], dim: usize) -> Self {
        let n = rows.len() / dim;
        let mut panels = vec![Line([0; 16]); n.next_multiple_of(BLOCK) / PANEL * dim];
        let mut defined = vec![false; n];
        let numbers: &mut [f32] = bytemuck::cast_slice_mut(&mut panels);
        let work = numbers.par_chunks_mut(PANEL * dim).zip(defined.par_chunks_mut(PANEL)).enumerate();
        work.for_each(|(index, (panel, defined))| {
            let rows = rows[index * PANEL * dim..].chunks_exact(dim);
            for (place, (row, defined)) in rows.zip(defined).enumerate() {
                let norm = f64::from(dot(row, row)).sqrt();
                *defined = norm > 0.0 && norm.is_finite();
                if *defined {
                    let factor = (1.0 / norm) as f32;
                    row.iter().zip(panel[place..].iter_mut().step_by(PANEL)).for_each(|(x, out)| *out = x * factor);
                }
            }
        });
        Self { panels, dim, defined }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.defined.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.defined.is_empty()
    }

    /// Whether row `i` has a direction.
    pub fn is_defined(&self, i: usize) -> bool {
        self.defined[i]
    }

    /// cos(x_i, x_j) into `tile`, for `i` in the tile's rows and `j` in its columns; what is left of the diagonal in the
    /// whole square may be missing.
    ///
    /// - Shape: `at` are the tile's row and column among tiles → `[TILE, TILE]`; places beyond the last row are undefined
    /// - Unit:  cosine, rounded to f16 once from an f32 sum
    /// - Panics: when the tile is left of the diagonal
    pub fn tile(&self, at: [usize; 2], tile: &mut Tile) {
        self.tile_by(Instructions::best(), at, tile);
    }

    fn tile_by(&self, instructions: Instructions, [row, column]: [usize; 2], tile: &mut Tile) {
        assert!(row <= column, "no tile right of the diagonal");
        let sides = [self.side(row), self.side(column)];
        let bits: &mut [u16] = bytemuck::cast_slice_mut(&mut tile.0);
        match instructions {
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "the instructions were asked for")]
            Instructions::Avx512 => unsafe { x86::tile_avx512(sides, self.dim, row == column, bits) },
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "the instructions were asked for")]
            Instructions::Avx2 => unsafe { x86::tile_avx2(sides, self.dim, row == column, bits) },
            Instructions::Any => blocks::<4, PANEL>(sides, self.dim, row == column, bits, block_of_any),
        }
    }

    /// The panels of one of a tile's sides.
    fn side(&self, tile: usize) -> &[f32] {
        let panels: &[f32] = bytemuck::cast_slice(&self.panels);
        let from = (tile * TILE * self.dim).min(panels.len());
        &panels[from..(from + TILE * self.dim).min(panels.len())]
    }
}

/// Calls `block` for every `R` rows and `C` columns of a tile, `R` a divisor of [`PANEL`] and `C` a multiple of it, but
/// for those wholly left of the diagonal when the tile lies on it.
///
/// `block` is given the panels of its columns, the panel of its rows from its first row on, and its place in the tile.
#[inline(always)]
fn blocks<const R: usize, const C: usize>(
    [rows, columns]: [&[f32]; 2],
    dim: usize,
    on_diagonal: bool,
    tile: &mut [u16],
    block: impl Fn(&[f32], &[f32], usize, &mut [u16]),
) {
    let n_rows = rows.len() / dim;
    for (j, columns) in columns.chunks_exact(C * dim).enumerate() {
        let last = if on_diagonal { n_rows.min((j + 1) * C) } else { n_rows };
        for i in (0..last).step_by(R) {
            let panel = &rows[i / PANEL * PANEL * dim..][..PANEL * dim];
            block(&panel[i % PANEL..], columns, dim, &mut tile[i * TILE + j * C..]);
        }
    }
}

/// Four rows times a panel.
fn block_of_any(rows: &[f32], columns: &[f32], _: usize, out: &mut [u16]) {
    let mut sums = [[0f32; PANEL]; 4];
    for (rows, column) in rows.chunks(PANEL).zip(columns.as_chunks::<PANEL>().0) {
        for (sums, x) in sums.iter_mut().zip(rows) {
            sums.iter_mut().zip(column).for_each(|(sum, y)| *sum += x * y);
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_mut(TILE)) {
        out.iter_mut().zip(sums).for_each(|(out, x)| *out = f16::from_f32(*x).to_bits());
    }
}

#[cfg(target_arch = "x86_64")]
use x86::transposed;

#[cfg(not(target_arch = "x86_64"))]
fn transposed(rows: [[u16; 8]; 8]) -> [[u16; 8]; 8] {
    std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that are no pattern of the tile's sizes.
    fn rows(n: usize, dim: usize) -> Vec<f32> {
        (0..n * dim).map(|i| (i as f32 * 0.73).sin() + 0.2 * (i % 11) as f32 + 0.1).collect()
    }

    fn exact(rows: &[f32], dim: usize, i: usize, j: usize) -> f64 {
        let dot = |a: usize, b: usize| -> f64 {
            let (a, b) = (&rows[a * dim..][..dim], &rows[b * dim..][..dim]);
            a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        dot(i, j) / (dot(i, i) * dot(j, j)).sqrt()
    }

    #[test]
    fn every_kernel_agrees_with_f64_at_uneven_sizes() {
        for (n, dim) in [(1, 1), (31, 3), (300, 64), (517, 7), (530, 40)] {
            let mut rows = rows(n, dim);
            if n > 30 {
                rows[29 * dim..30 * dim].fill(0.0);
            }
            let unit = UnitRows::new(&rows, dim);
            assert_eq!((unit.len(), n > 30 && !unit.is_defined(29)), (n, n > 30));
            for instructions in Instructions::available() {
                for (row, column) in [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)] {
                    let mut tile = Tile::default();
                    tile.cells_mut().fill(f16::NAN);
                    unit.tile_by(instructions, [row, column], &mut tile);
                    for i in row * TILE..n.min((row + 1) * TILE) {
                        for j in (column * TILE).max(i)..n.min((column + 1) * TILE) {
                            let got = tile.cells()[(i - row * TILE) * TILE + j - column * TILE].to_f64();
                            let expected = if i == 29 || j == 29 { 0.0 } else { exact(&rows, dim, i, j) };
                            // Half a unit in the last place below 1 is 2^-12.
                            let close = (got - expected).abs() < 2f64.powi(-12) + 1e-6;
                            assert!(close, "{instructions:?} {n} x {dim}, {i} {j}: {got} for {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_tile_is_transposed() {
        let (mut tile, mut out) = (Tile::default(), Tile::default());
        tile.cells_mut().iter_mut().enumerate().for_each(|(i, x)| *x = f16::from_bits((i % 65_521) as u16));
        for side in [3, 40, TILE] {
            tile.transpose(side, &mut out);
            for i in 0..side {
                for j in 0..side {
                    assert_eq!(out.cells()[j * TILE + i].to_bits(), tile.cells()[i * TILE + j].to_bits(), "{i} {j}");
                }
            }
        }
    }
}
