//! Symmetric positive definite systems by a blocked Cholesky factorisation.

use crate::math::{Rhs, axpy, dot, product};

/// Rows that are factored or solved at a time; all other work is matrix products.
const BLOCK: usize = 32;

/// Solves A X = B in place: `matrix` becomes the factor L of A = L Lᵀ in its lower triangle, `rhs` the solution.
///
/// Only the lower triangle of `matrix` is read. The multiplications are nearly all in matrix products.
///
/// - Shape: matrix `[n, n]`, rhs `[n, d]`
/// - Cost:  O(n³/3 + 2 n² d)
/// - Returns: false, with both in an unfinished state, when the matrix is not positive definite
pub fn solve_positive_definite(matrix: &mut [f32], rhs: &mut [f32], n: usize) -> bool {
    if n == 0 {
        return true;
    }
    let d = rhs.len() / n;
    let blocks: Vec<(usize, usize)> = (0..n).step_by(BLOCK).map(|k| (k, (k + BLOCK).min(n))).collect();
    for &(k, end) in &blocks {
        let done = dense(matrix, n, k..n, 0..k);
        let mut update = vec![0f32; (n - k) * (end - k)];
        product(&done, &done[..(end - k) * k], &mut update, [n - k, end - k, k], Rhs::Transposed);
        for i in k..n {
            for j in k..end.min(i + 1) {
                let known = dot(&matrix[i * n + k..i * n + j], &matrix[j * n + k..j * n + j]);
                let rest = matrix[i * n + j] - update[(i - k) * (end - k) + j - k] - known;
                matrix[i * n + j] = if i > j {
                    rest / matrix[j * n + j]
                } else if rest > 0.0 {
                    rest.sqrt()
                } else {
                    return false;
                };
            }
        }
    }
    let mut update = vec![0f32; BLOCK * d];
    for &(k, end) in &blocks {
        let left = dense(matrix, n, k..end, 0..k);
        product(&left, &rhs[..k * d], &mut update, [end - k, d, k], Rhs::Plain);
        axpy(-1.0, &update[..(end - k) * d], &mut rhs[k * d..end * d]);
        for i in k..end {
            let (solved, row) = rhs[k * d..].split_at_mut((i - k) * d);
            for (j, x) in solved.chunks_exact(d).enumerate() {
                axpy(-matrix[i * n + k + j], x, &mut row[..d]);
            }
            row[..d].iter_mut().for_each(|x| *x /= matrix[i * n + i]);
        }
    }
    for &(k, end) in blocks.iter().rev() {
        let below: Vec<f32> =
            (k..end).flat_map(|j| (end..n).map(move |i| (i, j))).map(|(i, j)| matrix[i * n + j]).collect();
        product(&below, &rhs[end * d..], &mut update, [end - k, d, n - end], Rhs::Plain);
        axpy(-1.0, &update[..(end - k) * d], &mut rhs[k * d..end * d]);
        for i in (k..end).rev() {
            let (row, solved) = rhs[i * d..end * d].split_at_mut(d);
            for (j, x) in solved.chunks_exact(d).enumerate() {
                axpy(-matrix[(i + 1 + j) * n + i], x, row);
            }
            row.iter_mut().for_each(|x| *x /= matrix[i * n + i]);
        }
    }
    true
}

/// A copy of some rows and columns of an `[n, n]` matrix.
fn dense(matrix: &[f32], n: usize, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Vec<f32> {
    rows.flat_map(|i| &matrix[i * n + columns.start..i * n + columns.end]).copied().collect()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn a_system_of_three_by_hand() {
        // A = L Lᵀ with L = (2 0 0; 1 3 0; -1 2 1): A = (4 2 -2; 2 10 5; -2 5 6). x = (1, 2, 3) gives b = (2, 37, 26).
        let mut matrix = [4.0, 99.0, 99.0, 2.0, 10.0, 99.0, -2.0, 5.0, 6.0];
        let mut rhs = [2.0, 37.0, 26.0];
        assert!(solve_positive_definite(&mut matrix, &mut rhs, 3));
        assert_eq!(rhs, [1.0, 2.0, 3.0]);
        assert_eq!([matrix[0], matrix[3], matrix[4], matrix[6], matrix[7], matrix[8]], [2.0, 1.0, 3.0, -1.0, 2.0, 1.0]);
        assert!(!solve_positive_definite(&mut [1.0, 0.0, 2.0, 1.0], &mut [1.0, 1.0], 2));
        assert!(solve_positive_definite(&mut [], &mut [], 0));
    }

    #[test]
    fn solutions_solve_their_systems_at_every_block_edge() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        for n in [1, 31, 32, 33, 64, 100] {
            let d = 7;
            let half: Vec<f32> = (0..n * n).map(|_| random.random_range(-1f32..1.0)).collect();
            let mut matrix = vec![0f32; n * n];
            product(&half, &half, &mut matrix, [n, n, n], Rhs::Transposed);
            (0..n).for_each(|i| matrix[i * n + i] += 1.0);
            let rhs: Vec<f32> = (0..n * d).map(|_| random.random_range(-1f32..1.0)).collect();
            let mut solution = rhs.clone();
            assert!(solve_positive_definite(&mut matrix.clone(), &mut solution, n));
            for i in 0..n {
                for column in 0..d {
                    let sum: f64 =
                        (0..n).map(|j| f64::from(matrix[i * n + j]) * f64::from(solution[j * d + column])).sum();
                    assert!((sum - f64::from(rhs[i * d + column])).abs() < 2e-4, "n = {n}: {sum}");
                }
            }
        }
    }
}
