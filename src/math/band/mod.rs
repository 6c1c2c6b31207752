//! Inner products of rows that lie a few apart, and of columns: sums kept in registers over many rows.

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::math::{Instructions, Rows, axpy, by_instructions, dot};

/// Numbers that lie side by side in the registers of a sum.
const WIDTH: usize = 16;
/// As many, which no register's load splits between two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Piece([f32; WIDTH]);
/// Lags, or rows of a Gram matrix, that share the loads of a row.
const GROUP: usize = 8;
/// Rows whose products are summed in f32; with those in reach they stay in a core's own cache.
const ROWS_AT_ONCE: usize = 1024;

/// Σ_i f_{i-lag} f_i ⟨x_{i-lag}, x_i⟩ for every lag, from all pairs of rows that far apart; a row with a factor of 0 is zero,
/// whatever it holds.
///
/// - Shape: rows `[T, D]`, factors `[T]` → `[lags]`
/// - Cost:  O(T·D·lags); memory for 1024 rows and as many as the longest lag
///
/// ```
/// use kvscope::math::{Rows, lagged_sums};
/// // The last row doubled: 1·3 + 2·4 + 3·10 + 4·12, and 1·10 + 2·12.
/// let rows = Rows::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2);
/// let sums = lagged_sums(rows, &[1.0, 1.0, 2.0], &[1, 2, 3]);
/// assert_eq!(sums, [89.0, 34.0, 0.0]);
/// ```
pub fn lagged_sums(rows: Rows<'_>, factors: &[f32], lags: &[usize]) -> Vec<f64> {
    let n = factors.len();
    let mut sums = vec![0f64; lags.len()];
    // Rows before the first are zeros, so that every row has a partner at every lag.
    let reach = lags.iter().fold(0, |most, lag| most.max(*lag)).min(n);
    let height = reach + n.min(ROWS_AT_ONCE);
    // Sixteen columns by themselves: all rows within reach lie in the nearest cache, whatever a row's length.
    let mut columns = vec![Piece([0.0; WIDTH]); rows.width().div_ceil(WIDTH) * height];
    for from in (0..n).step_by(ROWS_AT_ONCE) {
        let n_here = (n - from).min(ROWS_AT_ONCE);
        if from > 0 {
            columns.chunks_exact_mut(height).for_each(|column| column.copy_within(ROWS_AT_ONCE.., 0));
        }
        let here = from..from + n_here;
        let part = rows.part(here.clone());
        scaled_columns(Instructions::best(), part, &factors[here], &mut columns[reach..], height);
        for column in columns.chunks_exact(height) {
            for (lags, sums) in lags.chunks(GROUP).zip(sums.chunks_mut(GROUP)) {
                let lags = std::array::from_fn(|g| lags.get(g).map_or(0, |lag| reach.min(*lag)));
                let part = products(Instructions::best(), &column[..reach + n_here], reach, lags).map(fold);
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += f64::from(part));
            }
        }
    }
    sums
}

/// Every row times its factor, cut into pieces of sixteen numbers, the last filled up with zeros: piece p of row r goes to
/// `out[p * height + r]`.
fn scaled_columns(by: Instructions, rows: Rows<'_>, factors: &[f32], out: &mut [Piece], height: usize) {
    by_instructions!(
        by,
        x86::scaled_columns_avx512(rows, factors, out, height),
        x86::scaled_columns_avx2(rows, factors, out, height),
        {
            for (r, (row, factor)) in rows.iter().zip(factors).enumerate() {
                for (p, x) in row.chunks(WIDTH).enumerate() {
                    let scaled = filled_up(x).map(|x| x * factor);
                    out[p * height + r] = Piece(if *factor == 0.0 { [0.0; WIDTH] } else { scaled });
                }
            }
        },
    )
}

/// Up to sixteen numbers, filled up with zeros.
#[inline(always)]
fn filled_up(x: &[f32]) -> [f32; WIDTH] {
    match x.first_chunk() {
        Some(x) => *x,
        None => {
            let mut filled = [0.0; WIDTH];
            filled[..x.len()].copy_from_slice(x);
            filled
        }
    }
}

/// Σ_i `column[i]` · `column[i - lags[g]]` over i from `from` on, by lane, for every g.
///
/// - Panics: when a lag reaches further than `from`
fn products(by: Instructions, column: &[Piece], from: usize, lags: [usize; GROUP]) -> [[f32; WIDTH]; GROUP] {
    let here = &column[from..];
    let before = lags.map(|lag| &column[from - lag..][..here.len()]);
    by_instructions!(
        by,
        x86::products_avx512(here, before),
        x86::products_avx2(here, before),
        before.map(|before| {
            let mut sums = [0f32; WIDTH];
            for (x, y) in here.iter().zip(before) {
                sums.iter_mut().zip(x.0.iter().zip(&y.0)).for_each(|(sum, (x, y))| *sum += x * y);
            }
            sums
        }),
    )
}

/// `squares[i] = ⟨x_i, x_i⟩` and `products[i] = ⟨x_i, x_{i+1}⟩`; the last product is 0.
///
/// - Shape: rows `[T, D]`, squares and products `[T]`
pub fn neighbour_products(rows: Rows<'_>, squares: &mut [f32], products: &mut [f32]) {
    neighbour_products_by(Instructions::best(), rows, squares, products);
}

fn neighbour_products_by(by: Instructions, rows: Rows<'_>, squares: &mut [f32], products: &mut [f32]) {
    let out = squares.iter_mut().zip(products);
    by_instructions!(by, x86::neighbour_products_avx512(rows, out), x86::neighbour_products_avx2(rows, out), {
        for (i, (square, product)) in out.enumerate() {
            let [row, next] = with_next(rows, i);
            (*square, *product) = (dot(row, row), dot(row, next));
        }
    })
}

/// A row and the one after it, empty after the last.
#[inline(always)]
fn with_next(rows: Rows<'_>, i: usize) -> [&[f32]; 2] {
    [rows.row(i), if i + 1 < rows.len() { rows.row(i + 1) } else { &[] }]
}

#[inline(always)]
fn fold(mut lanes: [f32; WIDTH]) -> f32 {
    let mut width = WIDTH / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Adds the Gram matrix XᵀX of some rows.
///
/// - Shape: rows `[n, D]`, gram `[D, D]`, symmetric
/// - Cost:  O(n·D²), half of it by symmetry where D is a multiple of 16
///
/// ```
/// use kvscope::math::{Rows, add_gram};
/// let mut gram = [0.0; 4];
/// add_gram(Rows::new(&[1.0, 2.0, 3.0, 4.0], 2), &mut gram);
/// assert_eq!(gram, [10.0, 14.0, 14.0, 20.0]);
/// ```
pub fn add_gram(rows: Rows<'_>, gram: &mut [f32]) {
    let dim = rows.width();
    if !dim.is_multiple_of(WIDTH) {
        for row in rows.iter() {
            for (x, out) in row.iter().zip(gram.chunks_exact_mut(dim)) {
                axpy(*x, row, out);
            }
        }
        return;
    }
    for i in (0..dim).step_by(GROUP) {
        for j in (i / WIDTH * WIDTH..dim).step_by(WIDTH) {
            let block = gram_block(Instructions::best(), rows, [i, j]);
            for (r, row) in block.iter().enumerate() {
                for (c, x) in row.iter().enumerate().filter(|(c, _)| j + c >= i + r) {
                    gram[(i + r) * dim + j + c] += x;
                    if j + c > i + r {
                        gram[(j + c) * dim + i + r] += x;
                    }
                }
            }
        }
    }
}

/// Eight rows and sixteen columns of a Gram matrix.
fn gram_block(by: Instructions, rows: Rows<'_>, [i, j]: [usize; 2]) -> [[f32; WIDTH]; GROUP] {
    by_instructions!(by, x86::gram_avx512(rows, [i, j]), x86::gram_avx2(rows, [i, j]), {
        let mut sums = [[0f32; WIDTH]; GROUP];
        for row in rows.iter() {
            for (sums, x) in sums.iter_mut().zip(&row[i..]) {
                sums.iter_mut().zip(&row[j..]).for_each(|(sum, y)| *sum += x * y);
            }
        }
        sums
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, dim: usize) -> Vec<f32> {
        (0..n * dim).map(|i| (i as f32 * 0.37).sin() + 0.1 * (i % 7) as f32).collect()
    }

    fn close(got: f64, exact: f64) -> bool {
        (got - exact).abs() <= 2e-5 * exact.abs().max(1.0)
    }

    #[test]
    fn sums_agree_with_f64_at_uneven_sizes() {
        let lags = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 300];
        for (n, dim) in [(1, 16), (9, 16), (200, 48), (2500, 32), (4700, 16), (301, 5)] {
            let rows = rows(n, dim);
            let rows = Rows::new(&rows, dim);
            let x = |i: usize| rows.row(i);
            let exact =
                |a: usize, b: usize| -> f64 { x(a).iter().zip(x(b)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
            let factors: Vec<f32> = (0..n).map(|i| (i % 5) as f32 * 0.25).collect();
            let factor = |i: usize| f64::from(factors[i]);
            for (lag, sum) in lags.iter().zip(lagged_sums(rows, &factors, &lags)) {
                let expected: f64 = (*lag..n).map(|i| factor(i - lag) * factor(i) * exact(i - lag, i)).sum();
                assert!(close(sum, expected), "{n} x {dim}, lag {lag}: {sum} for {expected}");
            }
            let (mut squares, mut products) = (vec![1f32; n], vec![1f32; n]);
            for by in Instructions::available() {
                neighbour_products_by(by, rows, &mut squares, &mut products);
                for i in 0..n {
                    let expected = if i + 1 < n { exact(i, i + 1) } else { 0.0 };
                    assert!(close(f64::from(squares[i]), exact(i, i)), "{by:?} {n} x {dim}, {i}");
                    assert!(close(f64::from(products[i]), expected), "{by:?} {n} x {dim}, {i}");
                }
            }
            let mut gram = vec![1f32; dim * dim];
            add_gram(rows, &mut gram);
            for i in 0..dim {
                for j in 0..dim {
                    let expected: f64 = (0..n).map(|t| f64::from(x(t)[i]) * f64::from(x(t)[j])).sum();
                    assert!(close(f64::from(gram[i * dim + j]), 1.0 + expected), "{n} x {dim}, {i} {j}");
                }
            }
        }
    }

    #[test]
    fn all_instructions_agree() {
        let rows = rows(70, 32);
        let column: Vec<Piece> = rows.as_chunks::<WIDTH>().0.iter().map(|piece| Piece(*piece)).collect();
        let gram = |by| gram_block(by, Rows::new(&rows, 32), [8, 16]);
        let of = |by| [products(by, &column, 20, [0, 1, 2, 3, 5, 8, 13, 20]), gram(by)];
        let factors: Vec<f32> = (0..100).map(|i| (i % 3) as f32 * 0.5).collect();
        let scaled_by = |by, dim: usize| {
            let mut out = vec![Piece([1.0; WIDTH]); 300];
            scaled_columns(by, Rows::new(&rows[..70 * 32 / dim * dim], dim), &factors, &mut out, 100);
            out.iter().map(|piece| piece.0).collect::<Vec<_>>()
        };
        let plain = of(Instructions::Any);
        for by in Instructions::available() {
            for dim in [32, 45] {
                assert_eq!(scaled_by(by, dim), scaled_by(Instructions::Any, dim), "{by:?} {dim}");
            }
            for (got, expected) in of(by).as_flattened().as_flattened().iter().zip(plain.as_flattened().as_flattened())
            {
                assert!(close(f64::from(*got), f64::from(*expected)), "{by:?}: {got} for {expected}");
            }
        }
    }
}
