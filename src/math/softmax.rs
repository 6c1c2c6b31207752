//! Softmax distributions, from logits.

use crate::math::max;

/// log Σ exp(x), in f64.
pub fn log_sum_exp(x: &[f32]) -> f64 {
    let top = f64::from(max(x));
    top + x.iter().map(|v| (f64::from(*v) - top).exp()).sum::<f64>().ln()
}

/// Σ p (log p - log q) of the softmaxes of two rows of logits, in nats; f64 throughout, never below 0. NaN where a logit
/// is no finite number: a fault must not pass for likeness.
///
/// - Shape: p `[vocab]`, q `[vocab]`
pub fn kl_divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p_total, q_total) = (log_sum_exp(p), log_sum_exp(q));
    let sum: f64 = p
        .iter()
        .zip(q)
        .map(|(p, q)| {
            let log_p = f64::from(*p) - p_total;
            log_p.exp() * (log_p - (f64::from(*q) - q_total))
        })
        .sum();
    // `max` would turn NaN into 0.
    if sum < 0.0 { 0.0 } else { sum }
}

/// Index of the largest value, the first of equals; of finite values only.
pub fn argmax(x: &[f32]) -> usize {
    (0..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_an_uneven_pair_by_hand() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): 1/2 ln 2 + 0 - 1/4 ln 2 = 0.1733.
        let logits = |p: [f32; 3]| p.map(|x| x.ln() + 3.0);
        let kl = kl_divergence(&logits([0.5, 0.25, 0.25]), &logits([0.25, 0.25, 0.5]));
        assert!((kl - 0.25 * 2f64.ln()).abs() < 1e-6, "{kl}");
        assert_eq!(kl_divergence(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert!((log_sum_exp(&logits([0.5, 0.25, 0.25])) - 3.0).abs() < 1e-6);
        assert_eq!((argmax(&[1.0, 3.0, 3.0]), argmax(&[f32::NEG_INFINITY, -5.0])), (1, 1));
        for broken in [f32::NAN, f32::INFINITY] {
            assert!(
                kl_divergence(&[1.0, broken], &[1.0, 2.0]).is_nan()
                    && kl_divergence(&[1.0, 2.0], &[1.0, broken]).is_nan()
            );
        }
    }
}
