//! The matrix product on slices, behind one checked call.

/// How the right-hand side of a product lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rhs {
    /// `[k, n]`.
    Plain,
    /// `[n, k]`.
    Transposed,
}

/// `out[m, n] = lhs[m, k] · rhs`, on the calling thread.
///
/// - Shape: lhs `[m, k]`, rhs as `layout` says, out `[m, n]`
/// - Cost: O(m·n·k)
/// - Panics: when a slice is shorter than its shape, a defect of the caller
pub fn product(lhs: &[f32], rhs: &[f32], out: &mut [f32], [m, n, k]: [usize; 3], layout: Rhs) {
    product_columns(lhs, rhs, out, [m, n, k], layout, n);
}

/// As [`product`], into the first n columns of an `out` whose rows lie `stride` numbers apart.
pub fn product_columns(lhs: &[f32], rhs: &[f32], out: &mut [f32], [m, n, k]: [usize; 3], layout: Rhs, stride: usize) {
    let needed = m.saturating_sub(1) * stride + n;
    assert!(
        lhs.len() >= m * k && rhs.len() >= n * k && (m == 0 || out.len() >= needed) && stride >= n,
        "matrix product out of bounds"
    );
    let (rhs_cs, rhs_rs) = if layout == Rhs::Plain { (1, n as isize) } else { (k as isize, 1) };
    #[expect(unsafe_code, reason = "the product takes pointers; the lengths are checked just above")]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            false,
            lhs.as_ptr(),
            1,
            k as isize,
            rhs.as_ptr(),
            rhs_cs,
            rhs_rs,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_by_hand() {
        // (1 2 3; 4 5 6) times the columns (1 0 2) and (3 1 0).
        let lhs = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut out = [9.0; 4];
        product(&lhs, &[1.0, 0.0, 2.0, 3.0, 1.0, 0.0], &mut out, [2, 2, 3], Rhs::Transposed);
        assert_eq!(out, [7.0, 5.0, 16.0, 17.0]);
        product(&lhs, &[1.0, 3.0, 0.0, 1.0, 2.0, 0.0], &mut out, [2, 2, 3], Rhs::Plain);
        assert_eq!(out, [7.0, 5.0, 16.0, 17.0]);
        let mut wide = [9.0; 5];
        product_columns(&lhs, &[1.0, 3.0, 0.0, 1.0, 2.0, 0.0], &mut wide, [2, 2, 3], Rhs::Plain, 3);
        assert_eq!(wide, [7.0, 5.0, 9.0, 16.0, 17.0]);
    }
}
