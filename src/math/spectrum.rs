//! How many directions vectors take up.

use nalgebra::DMatrix;

/// Effective rank exp(-Σ p_i ln p_i) of vectors with Gram matrix G = XᵀX, p_i = σ_i / Σ σ_j, σ_i² the eigenvalues of G.
///
/// - Shape: gram `[D, D]`, symmetric
/// - Unit:  directions, from 1 (all vectors on one line) to D (alike in all directions); `None` when G is zero or not finite
/// - Cost:  O(D³)
/// - Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality". Differs: no.
///
/// ```
/// // Singular values 3 and 1: p = 3/4 and 1/4.
/// let expected = (-0.75f64 * 0.75f64.ln() - 0.25 * 0.25f64.ln()).exp();
/// let rank = kvscope::math::effective_rank(&[5.0, 4.0, 4.0, 5.0], 2).unwrap();
/// assert!((rank - expected).abs() < 1e-12);
/// ```
pub fn effective_rank(gram: &[f64], dim: usize) -> Option<f64> {
    if dim == 0 || gram.len() != dim * dim || gram.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let eigenvalues = DMatrix::from_row_slice(dim, dim, gram).symmetric_eigenvalues();
    // Rounding leaves eigenvalues about 1e-16 of the largest around 0, on either side.
    let floor = 1e-14 * eigenvalues.max();
    let singular: Vec<f64> = eigenvalues.iter().filter(|x| **x > floor).map(|x| x.sqrt()).collect();
    let total: f64 = singular.iter().sum();
    let entropy: f64 = singular.iter().map(|s| s / total).map(|p| -p * p.ln()).sum();
    (total > 0.0).then(|| entropy.exp())
}

/// G - s sᵀ / n: the Gram matrix of n vectors with sum s once their mean is taken away.
///
/// - Shape: gram `[D, D]`, sum `[D]` → `[D, D]`
///
/// ```
/// // 1, 3 and 8: squares 74, sum 12; about the mean 4: 9 + 1 + 16.
/// assert_eq!(kvscope::math::centred_gram(&[74.0], &[12.0], 3.0), [26.0]);
/// ```
pub fn centred_gram(gram: &[f64], sum: &[f64], n: f64) -> Vec<f64> {
    let dim = sum.len();
    gram.iter().enumerate().map(|(at, g)| g - sum[at / dim] * sum[at % dim] / n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ranks() {
        let close = |got: Option<f64>, expected: f64| assert!((got.unwrap() - expected).abs() < 1e-9, "{got:?}");
        close(effective_rank(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], 3), 3.0);
        // (1, 2, 2) and its multiples.
        close(effective_rank(&[1.0, 2.0, 2.0, 2.0, 4.0, 4.0, 2.0, 4.0, 4.0], 3), 1.0);
        // Singular values 4, 2, 2, 0: p = 1/2, 1/4, 1/4, entropy 1.5 ln 2.
        let mut gram = vec![0.0; 16];
        (gram[0], gram[5], gram[15]) = (16.0, 4.0, 4.0);
        close(effective_rank(&gram, 4), 8f64.sqrt());
        assert_eq!(effective_rank(&[0.0; 4], 2), None);
        assert_eq!(effective_rank(&[f64::NAN], 1), None);
        assert_eq!(effective_rank(&[], 0), None);
    }

    #[test]
    fn taking_the_mean_away_takes_its_direction_away() {
        // Vectors (5, 1) and (5, -1): two directions, one about the mean.
        let gram = [50.0, 0.0, 0.0, 2.0];
        let centred = centred_gram(&gram, &[10.0, 0.0], 2.0);
        assert_eq!(centred, [0.0, 0.0, 0.0, 2.0]);
        assert!((effective_rank(&centred, 2).unwrap() - 1.0).abs() < 1e-12);
        assert!(effective_rank(&gram, 2).unwrap() > 1.4);
    }
}
