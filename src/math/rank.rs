//! Ranks and rank correlation.

use std::cmp::Ordering;

/// Ranks from 1, equal values sharing the mean of their ranks. Order is that of `f64::total_cmp`.
///
/// ```
/// assert_eq!(kvscope::math::ranks(&[2.0, 5.0, 1.0, 2.0]), [2.5, 4.0, 1.0, 2.5]);
/// ```
pub fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*a].total_cmp(&x[*b]));
    let mut ranks = vec![0.0; x.len()];
    let mut first = 0;
    for tied in order.chunk_by(|a, b| x[*a] == x[*b]) {
        let rank = first as f64 + (tied.len() as f64 + 1.0) / 2.0;
        for index in tied {
            ranks[*index] = rank;
        }
        first += tied.len();
    }
    ranks
}

/// Spearman's rank correlation: Pearson's correlation of the ranks, which is right with ties too.
///
/// - Unit: in [-1, 1]; `None` for fewer than two pairs, unequal lengths, a NaN, or a side that does not vary
/// - Source: Spearman 1904, with mid-ranks for ties (Kendall 1948). Differs: no.
///
/// ```
/// // Ranks 1, 2.5, 2.5, 4 and 2, 1, 3.5, 3.5 about their mean 2.5: 2.25 / sqrt(4.5 · 4.5).
/// assert_eq!(kvscope::math::spearman(&[1.0, 2.0, 2.0, 5.0], &[3.0, 1.0, 4.0, 4.0]), Some(0.5));
/// ```
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() || x.len() < 2 || x.iter().chain(y).any(|v| v.is_nan()) {
        return None;
    }
    let (x, y) = (ranks(x), ranks(y));
    let center = (x.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - center) * (b - center)).sum::<f64>();
    let scale = (product(&x, &x) * product(&y, &y)).sqrt();
    (scale > 0.0).then(|| (product(&x, &y) / scale).clamp(-1.0, 1.0))
}

/// How two places of a list stand to each other when its values fall: the larger value first, the lower place first of equals, and
/// what is no number at the end.
pub(crate) fn falls(values: &[f32]) -> impl Fn(&u32, &u32) -> Ordering {
    |a, b| {
        let (x, y) = (values[*a as usize], values[*b as usize]);
        x.is_nan().cmp(&y.is_nan()).then(y.total_cmp(&x)).then(a.cmp(b))
    }
}

/// Places of values in that order.
///
/// - Cost: O(n log n)
pub(crate) fn falling(values: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_unstable_by(falls(values));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_falls_to_the_end() {
        assert_eq!(falling(&[0.5, f32::NAN, 0.75, 0.5, -1.0, -f32::NAN]), [2, 0, 3, 4, 1, 5]);
    }

    #[test]
    fn ties_share_their_mean_rank() {
        assert_eq!(ranks(&[]), [0.0; 0]);
        assert_eq!(ranks(&[7.0, 7.0, 7.0]), [2.0; 3]);
        assert_eq!(ranks(&[0.0, -0.0, -3.0, 8.0]), [2.5, 2.5, 1.0, 4.0]);
    }

    #[test]
    fn correlation_of_uneven_samples_by_hand() {
        assert_eq!(spearman(&[1.0, 10.0, 100.0], &[-3.0, -2.0, 50.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[9.0, 4.0, 1.0]), Some(-1.0));
        // Ranks 1..5 and 2 1 4 3 5: squared differences 1 1 1 1 0, 1 - 6·4 / (5·24).
        assert_eq!(spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[0.2, 0.1, 0.4, 0.3, 0.5]), Some(0.8));
    }

    #[test]
    fn what_does_not_vary_has_no_correlation() {
        assert_eq!(spearman(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(spearman(&[1.0], &[2.0]), None);
        assert_eq!(spearman(&[1.0, 2.0], &[2.0]), None);
        assert_eq!(spearman(&[1.0, f64::NAN], &[2.0, 1.0]), None);
    }
}
