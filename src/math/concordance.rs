//! Do several raters (data sets) put the same targets (heads) in the same order?

use crate::math::ranks;

/// Kendall's coefficient of concordance W, corrected for ties.
///
/// W = (12 Σ R² - 3 m² n (n + 1)²) / (m² n (n² - 1) - m Σ (t³ - t)), with R the rank sums of the n targets over the m
/// raters and t the sizes of the groups of ties.
///
/// - Shape: ratings `[m raters][n targets]`
/// - Unit:  0 (no agreement) to 1 (one order); `None` with fewer than 2 raters or targets, lists of different lengths, a
///   NaN, or when no rater tells targets apart
/// - Source: Kendall 1948, section 6.7. Differs: no
///
/// ```
/// // Rank sums 2.5, 3.5, 6 about 4: 12 · 54.5 - 3·4·3·16 = 78 over 4·3·8 - 2·6 = 84.
/// assert_eq!(kvscope::math::kendall_w(&[vec![1.0, 1.0, 5.0], vec![0.1, 0.2, 0.3]]), Some(78.0 / 84.0));
/// ```
pub fn kendall_w(ratings: &[Vec<f64>]) -> Option<f64> {
    let ranked = rank_all(ratings)?;
    let (m, n) = (ranked.len() as f64, ranked[0].0.len() as f64);
    let sums = (0..ranked[0].0.len()).map(|target| ranked.iter().map(|(ranks, _)| ranks[target]).sum::<f64>());
    let squares: f64 = sums.map(|sum| sum * sum).sum();
    let ties: f64 = ranked.iter().map(|(_, ties)| ties).sum();
    let scale = m * m * n * (n * n - 1.0) - m * ties;
    let above = 12.0 * squares - 3.0 * m * m * n * (n + 1.0).powi(2);
    (scale > 0.0).then(|| (above / scale).clamp(0.0, 1.0))
}

/// Mean of Spearman's rho over all pairs of raters that tell targets apart.
///
/// - Shape: ratings `[m raters][n targets]`
/// - Unit:  in [-1, 1]; `None` without such a pair
/// - Cost:  O(m·n·log n): the sum over pairs is that of the standardised ranks' sum
///
/// ```
/// // Orders 1 2 3, 1 3 2 and 3 2 1: rho is 0.5, -1 and -0.5.
/// let ratings = [vec![1.0, 2.0, 3.0], vec![1.0, 3.0, 2.0], vec![3.0, 2.0, 1.0]];
/// assert!((kvscope::math::mean_spearman(&ratings).unwrap() + 1.0 / 3.0).abs() < 1e-12);
/// ```
pub fn mean_spearman(ratings: &[Vec<f64>]) -> Option<f64> {
    let ranked = rank_all(ratings)?;
    let center = (ranked[0].0.len() as f64 + 1.0) / 2.0;
    let mut sum = vec![0.0; ranked[0].0.len()];
    let mut m = 0.0;
    for (ranks, _) in ranked {
        let length = ranks.iter().map(|rank| (rank - center).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            m += 1.0;
            sum.iter_mut().zip(&ranks).for_each(|(sum, rank)| *sum += (rank - center) / length);
        }
    }
    let square: f64 = sum.iter().map(|x| x * x).sum();
    (m >= 2.0).then(|| ((square - m) / (m * (m - 1.0))).clamp(-1.0, 1.0))
}

/// Reliability of a measurement `factor` times as long as the one of reliability `r`: factor·r / (1 + (factor - 1)·r).
///
/// - Unit: `None` where the formula has no meaning: r below 0 (halves that contradict each other) or above 1
/// - Source: Spearman 1910, Brown 1910
///
/// ```
/// assert_eq!(kvscope::math::spearman_brown(0.5, 2.0), Some(2.0 / 3.0));
/// assert_eq!(kvscope::math::spearman_brown(-0.5, 2.0), None);
/// ```
pub fn spearman_brown(r: f64, factor: f64) -> Option<f64> {
    (0.0..=1.0).contains(&r).then(|| factor * r / (1.0 + (factor - 1.0) * r))
}

/// Every rater's ranks and Σ (t³ - t) over its ties.
fn rank_all(ratings: &[Vec<f64>]) -> Option<Vec<(Vec<f64>, f64)>> {
    let n = ratings.first()?.len();
    let fits = ratings.len() >= 2 && n >= 2 && ratings.iter().all(|x| x.len() == n && !x.iter().any(|v| v.is_nan()));
    fits.then(|| {
        ratings
            .iter()
            .map(|rating| {
                let ranks = ranks(rating);
                let ties = tie_sum(&ranks);
                (ranks, ties)
            })
            .collect()
    })
}

/// Σ (t³ - t) over the groups of equal values.
pub(super) fn tie_sum(x: &[f64]) -> f64 {
    let mut sorted = x.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.chunk_by(|a, b| a == b).map(|tied| (tied.len() as f64).powi(3) - tied.len() as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concordance_of_uneven_tables_by_hand() {
        // Ranks 1 2 3 4, 2 1 3.5 3.5, 1 3 2 4: sums 4 6 8.5 11.5, squares 256.5; one pair of ties.
        // 12 · 256.5 - 3·9·4·25 = 378 over 9·4·15 - 3·6 = 522.
        let ratings = [vec![1.0, 2.0, 3.0, 4.0], vec![0.5, 0.1, 0.9, 0.9], vec![-4.0, 7.0, 0.0, 70.0]];
        assert!((kendall_w(&ratings).unwrap() - 378.0 / 522.0).abs() < 1e-12);
        let spearman = |a: usize, b: usize| crate::math::spearman(&ratings[a], &ratings[b]).unwrap();
        let pairs = (spearman(0, 1) + spearman(0, 2) + spearman(1, 2)) / 3.0;
        assert!((mean_spearman(&ratings).unwrap() - pairs).abs() < 1e-12);
        for (last, expected) in [([10.0, 20.0, 31.0], (1.0, 1.0)), ([3.0, 2.0, 1.0], (0.0, -1.0))] {
            let pair = [vec![1.0, 2.0, 3.0], last.to_vec()];
            assert_eq!(kendall_w(&pair), Some(expected.0));
            assert!((mean_spearman(&pair).unwrap() - expected.1).abs() < 1e-12);
        }
    }

    #[test]
    fn raters_that_see_no_difference() {
        let flat = [vec![1.0, 1.0], vec![2.0, 2.0]];
        assert_eq!((kendall_w(&flat), mean_spearman(&flat)), (None, None));
        let one = [vec![1.0, 2.0, 3.0], vec![2.0, 2.0, 2.0]];
        assert_eq!(mean_spearman(&one), None);
        assert!(kendall_w(&one).is_some());
        assert_eq!(kendall_w(&[vec![1.0, 2.0]]), None);
        assert_eq!(kendall_w(&[vec![1.0, 2.0], vec![1.0]]), None);
        assert_eq!(kendall_w(&[vec![1.0, f64::NAN], vec![1.0, 2.0]]), None);
    }
}
