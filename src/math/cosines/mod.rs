//! Cosines of all pairs of rows, a square tile at a time, rounded to half precision while they are in registers.

#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::math::{Instructions, Rows, dot, unit_factor};

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
}

/// Copies part of a tile's row past the caches, where the machine can; [`settle`] makes it visible.
///
/// # Safety
///
/// `to` is valid for writes of the row's length, and no one else reads or writes there meanwhile.
#[expect(unsafe_code, reason = "threads write parts of one square that are not slices of it")]
pub unsafe fn copy_past_caches(row: &[f16], to: *mut f16) {
    // SAFETY: as the caller says; f16 is its bits.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        x86::copy_past_caches(bytemuck::cast_slice(row), to.cast::<u16>());
        #[cfg(not(target_arch = "x86_64"))]
        to.copy_from_nonoverlapping(row.as_ptr(), row.len());
    }
}

/// Makes what [`copy_past_caches`] wrote on this thread visible before anything that it writes later.
pub fn settle() {
    #[cfg(target_arch = "x86_64")]
    x86::settle();
}

/// Rows scaled to length 1 and laid out for products with each other.
///
/// A row has no direction when its squared length in f32 is 0 or not finite; its cosines are NaN.
#[derive(Debug, Default)]
pub struct UnitRows {
    /// Panel by panel `[D, PANEL]` in f32, filled up with zeros to a multiple of [`BLOCK`] rows.
    panels: Vec<Line>,
    dim: usize,
    n_rows: usize,
}

impl UnitRows {
    /// Replaces the rows; the room of those before is used again.
    ///
    /// - Shape: rows `[T, D]`
    /// - Cost:  O(T·D) time and memory
    pub fn set(&mut self, rows: Rows<'_>) {
        let (n_rows, dim) = (rows.len(), rows.width());
        (self.dim, self.n_rows) = (dim, n_rows);
        self.panels.resize(n_rows.next_multiple_of(BLOCK) / PANEL * dim, Line([0; 16]));
        let numbers: &mut [f32] = bytemuck::cast_slice_mut(&mut self.panels);
        numbers.par_chunks_mut(PANEL * dim).enumerate().for_each(|(index, panel)| {
            let rows = rows.part(n_rows.min(index * PANEL)..n_rows.min((index + 1) * PANEL));
            if rows.len() < PANEL {
                panel.fill(0.0);
            }
            for (place, row) in rows.iter().enumerate() {
                let factor = unit_factor(dot(row, row)).unwrap_or(f32::NAN);
                row.iter().zip(panel[place..].iter_mut().step_by(PANEL)).for_each(|(x, out)| *out = x * factor);
            }
        });
    }

    pub fn len(&self) -> usize {
        self.n_rows
    }

    /// cos(x_i, x_j) into `tile`, for `i` in the tile's rows and `j` in its columns; what is left of the diagonal in the
    /// whole square may be missing.
    ///
    /// `meanwhile` is called after every block, at most [`TILE`] times for a whole tile: what waits for memory may go on
    /// there while the products wait for arithmetic.
    ///
    /// - Shape: `at` are the tile's row and column among tiles → `[TILE, TILE]`; places beyond the last row are undefined
    /// - Unit:  cosine, rounded to f16 once from an f32 sum
    /// - Panics: when the tile is left of the diagonal
    pub fn tile(&self, at: [usize; 2], tile: &mut Tile, meanwhile: &mut dyn FnMut()) {
        self.tile_by(Instructions::best(), at, tile, meanwhile);
    }

    fn tile_by(&self, by: Instructions, [row, column]: [usize; 2], tile: &mut Tile, meanwhile: &mut dyn FnMut()) {
        assert!(row <= column, "no tile right of the diagonal");
        let kernel = Kernel::of(by);
        let (rows, dim) = (self.side(row), self.dim);
        let cells: &mut [u16] = bytemuck::cast_slice_mut(&mut tile.0);
        for (j, columns) in self.side(column).chunks_exact(kernel.columns * dim).enumerate() {
            // Blocks wholly left of the diagonal are the mirror image of others.
            let end = if row == column { (j + 1) * kernel.columns } else { TILE };
            for i in (0..end.min(rows.len() / dim)).step_by(kernel.rows) {
                let panel = &rows[i / PANEL * PANEL * dim..][..PANEL * dim];
                let out = &mut cells[i * TILE + j * kernel.columns..];
                #[expect(unsafe_code, reason = "the instructions were asked for")]
                unsafe {
                    (kernel.block)(&panel[i % PANEL..], columns, dim, out);
                }
                meanwhile();
            }
        }
    }

    /// The panels of one of a tile's sides.
    fn side(&self, tile: usize) -> &[f32] {
        let panels: &[f32] = bytemuck::cast_slice(&self.panels);
        let from = (tile * TILE * self.dim).min(panels.len());
        &panels[from..(from + TILE * self.dim).min(panels.len())]
    }
}

/// How a tile is computed: block by block, as many sums as there are registers for.
#[derive(Clone, Copy)]
struct Kernel {
    /// Rows of a block, a divisor of [`PANEL`].
    rows: usize,
    /// Columns of a block, a multiple of [`PANEL`] and a divisor of [`BLOCK`].
    columns: usize,
    /// Given the panel of its rows from its first row on, the panels of its columns, D, and its place in a tile.
    block: unsafe fn(&[f32], &[f32], usize, &mut [u16]),
}

impl Kernel {
    fn of(instructions: Instructions) -> Self {
        match instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => Self { rows: 8, columns: 32, block: x86::block_avx512 },
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => Self { rows: 4, columns: PANEL, block: x86::block_avx2 },
            Instructions::Any => Self { rows: 4, columns: PANEL, block: block_of_any },
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
        let mut unit = UnitRows::default();
        for (n, dim) in [(1, 1), (530, 40), (31, 3), (300, 64), (517, 7)] {
            let mut rows = rows(n, dim);
            if n > 30 {
                rows[29 * dim..30 * dim].fill(0.0);
            }
            unit.set(Rows::new(&rows, dim));
            assert_eq!(unit.len(), n);
            for instructions in Instructions::available() {
                for (row, column) in [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)] {
                    let mut tile = Tile::default();
                    tile.cells_mut().fill(f16::MAX);
                    unit.tile_by(instructions, [row, column], &mut tile, &mut || ());
                    for i in row * TILE..n.min((row + 1) * TILE) {
                        for j in (column * TILE).max(i)..n.min((column + 1) * TILE) {
                            let got = tile.cells()[(i - row * TILE) * TILE + j - column * TILE].to_f64();
                            let expected = exact(&rows, dim, i, j);
                            // Half a unit in the last place below 1 is 2^-12.
                            let close =
                                (got - expected).abs() < 2f64.powi(-12) + 1e-6 || (got.is_nan() && expected.is_nan());
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
