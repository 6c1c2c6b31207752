//! Inner products of rows that lie a few apart, and of columns: sums kept in registers over many rows.

#[cfg(target_arch = "x86_64")]
mod x86;

use multiversion::multiversion;

use crate::math::Instructions;
use crate::math::axpy;
use crate::math::dot;

/// Numbers that lie side by side in the registers of a sum.
const WIDTH: usize = 16;
/// Lags, or rows of a Gram matrix, that share the loads of a row.
const GROUP: usize = 8;
/// Rows whose products are summed in f32.
const ROWS_IN_F32: usize = 2048;

/// Σ_i ⟨x_{i-lag}, x_i⟩ for every lag, from all pairs of rows that far apart.
///
/// - Shape: rows `[T, D]`, D = `dim` → `[lags]`
/// - Cost:  O(T·D·lags)
///
/// ```
/// // Rows (1, 2), (3, 4), (5, 6): 1·3 + 2·4 + 3·5 + 4·6, and 1·5 + 2·6.
/// assert_eq!(kvscope::math::lagged_sums(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, &[1, 2, 3]), [50.0, 17.0, 0.0]);
/// ```
pub fn lagged_sums(rows: &[f32], dim: usize, lags: &[usize]) -> Vec<f64> {
    let n = rows.len() / dim.max(1);
    let mut sums = vec![0f64; lags.len()];
    let (groups, rest) = lags.as_chunks::<GROUP>();
    for (lags, sums) in groups.iter().zip(sums.as_chunks_mut::<GROUP>().0) {
        let whole_from = lags.iter().fold(0, |most, lag| most.max(*lag)).min(n);
        // Rows before the largest lag have a partner at some lags only.
        for (lag, sum) in lags.iter().zip(&mut *sums) {
            *sum += long_dot(rows, dim, *lag, whole_from);
        }
        if dim.is_multiple_of(WIDTH) {
            for from in (whole_from..n).step_by(ROWS_IN_F32) {
                let part = eight_lags(rows, dim, lags, [from, (from + ROWS_IN_F32).min(n)]);
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += f64::from(part));
            }
        } else {
            let last = |lag: usize| long_dot(rows, dim, lag, n) - long_dot(rows, dim, lag, whole_from);
            lags.iter().zip(sums).for_each(|(lag, sum)| *sum += last(*lag));
        }
    }
    let done = groups.len() * GROUP;
    rest.iter().zip(&mut sums[done..]).for_each(|(lag, sum)| *sum = long_dot(rows, dim, *lag, n));
    sums
}

/// The sum at one lag over the rows before `to`: an inner product of the rows with themselves, some rows on.
fn long_dot(rows: &[f32], dim: usize, lag: usize, to: usize) -> f64 {
    let part = |from: usize| {
        let to = (from + ROWS_IN_F32).min(to);
        f64::from(dot(&rows[(from - lag) * dim..(to - lag) * dim], &rows[from * dim..to * dim]))
    };
    (lag..to).step_by(ROWS_IN_F32).map(part).sum()
}

/// The sums at eight lags over some rows, none of them before the largest lag.
fn eight_lags(rows: &[f32], dim: usize, lags: &[usize; GROUP], [from, to]: [usize; 2]) -> [f32; GROUP] {
    let pieces = rows.as_chunks::<WIDTH>().0;
    let per_row = dim / WIDTH;
    let (from, to) = (from * per_row, to * per_row);
    let here = &pieces[from..to];
    let before = lags.map(|lag| &pieces[from - lag * per_row..to - lag * per_row]);
    products(Instructions::best(), here, before).map(fold)
}

/// Σ_i `here[i]` · `before[g][i]`, by lane, for every g.
fn products(by: Instructions, here: &[[f32; WIDTH]], before: [&[[f32; WIDTH]]; GROUP]) -> [[f32; WIDTH]; GROUP] {
    match by {
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions were asked for")]
        Instructions::Avx512 => unsafe { x86::products_avx512(here, before) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions were asked for")]
        Instructions::Avx2 => unsafe { x86::products_avx2(here, before) },
        Instructions::Any => before.map(|before| {
            let mut sums = [0f32; WIDTH];
            for (x, y) in here.iter().zip(before) {
                sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (x, y))| *sum += x * y);
            }
            sums
        }),
    }
}

/// `out[i] = ⟨x_i, x_{i+1}⟩`.
///
/// - Shape: rows `[T, D]`, out `[T - 1]`
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn neighbour_dots(rows: &[f32], dim: usize, out: &mut [f32]) {
    let earlier = rows.chunks_exact(dim.max(1));
    for ((a, b), out) in earlier.clone().zip(earlier.skip(1)).zip(out) {
        let mut lanes = [0f32; WIDTH];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WIDTH>(), b.as_chunks::<WIDTH>());
        for (a, b) in a.iter().zip(b) {
            for lane in 0..WIDTH {
                lanes[lane] += a[lane] * b[lane];
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        *out = fold(lanes) + rest;
    }
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
/// let mut gram = [0.0; 4];
/// kvscope::math::add_gram(&[1.0, 2.0, 3.0, 4.0], 2, &mut gram);
/// assert_eq!(gram, [10.0, 14.0, 14.0, 20.0]);
/// ```
pub fn add_gram(rows: &[f32], dim: usize, gram: &mut [f32]) {
    if !dim.is_multiple_of(WIDTH) {
        for row in rows.chunks_exact(dim.max(1)) {
            for (x, out) in row.iter().zip(gram.chunks_exact_mut(dim)) {
                axpy(*x, row, out);
            }
        }
        return;
    }
    for i in (0..dim).step_by(GROUP) {
        for j in (i / WIDTH * WIDTH..dim).step_by(WIDTH) {
            let block = gram_block(Instructions::best(), rows, dim, [i, j]);
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
fn gram_block(by: Instructions, rows: &[f32], dim: usize, [i, j]: [usize; 2]) -> [[f32; WIDTH]; GROUP] {
    match by {
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions were asked for")]
        Instructions::Avx512 => unsafe { x86::gram_avx512(rows, dim, [i, j]) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions were asked for")]
        Instructions::Avx2 => unsafe { x86::gram_avx2(rows, dim, [i, j]) },
        Instructions::Any => {
            let mut sums = [[0f32; WIDTH]; GROUP];
            for row in rows.chunks_exact(dim) {
                for (sums, x) in sums.iter_mut().zip(&row[i..]) {
                    sums.iter_mut().zip(&row[j..]).for_each(|(sum, y)| *sum += x * y);
                }
            }
            sums
        }
    }
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
        for (n, dim) in [(1, 16), (9, 16), (200, 48), (2500, 32), (301, 5)] {
            let rows = rows(n, dim);
            let x = |i: usize| &rows[i * dim..][..dim];
            let exact =
                |a: usize, b: usize| -> f64 { x(a).iter().zip(x(b)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
            for (lag, sum) in lags.iter().zip(lagged_sums(&rows, dim, &lags)) {
                let expected: f64 = (*lag..n).map(|i| exact(i - lag, i)).sum();
                assert!(close(sum, expected), "{n} x {dim}, lag {lag}: {sum} for {expected}");
            }
            let mut dots = vec![0f32; n - 1];
            neighbour_dots(&rows, dim, &mut dots);
            for (i, got) in dots.iter().enumerate() {
                assert!(close(f64::from(*got), exact(i, i + 1)), "{n} x {dim}, {i}");
            }
            let mut gram = vec![1f32; dim * dim];
            add_gram(&rows, dim, &mut gram);
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
        let (dim, rows) = (32, rows(70, 32));
        let pieces = rows.as_chunks::<WIDTH>().0;
        let before: [&[[f32; WIDTH]]; GROUP] = std::array::from_fn(|g| &pieces[g..g + 100]);
        let of = |by| [products(by, &pieces[20..120], before), gram_block(by, &rows, dim, [8, 16])];
        let plain = of(Instructions::Any);
        for by in Instructions::available() {
            for (got, expected) in of(by).as_flattened().as_flattened().iter().zip(plain.as_flattened().as_flattened())
            {
                assert!(close(f64::from(*got), f64::from(*expected)), "{by:?}: {got} for {expected}");
            }
        }
    }
}
