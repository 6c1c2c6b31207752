//! A given continuation behind a compressed prompt, against the same behind the whole one.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::eval::EvalError;
use crate::math::{log_sum_exp, mean, quantiles};
use crate::model::{LogitRows, Pass};
use crate::runtime::{Difference, RaggedCache, RuntimeError};

/// Tokens of the continuation that pass at a time.
const CHUNK_TOKENS: usize = 64;

/// Feeds all tokens but the last behind the prompt in `cache`; logits of every one, `[n - 1, vocab]` row by row.
///
/// The tokens pass in chunks, each of which sees the compressed prompt and the tokens before it: the same numbers as token
/// by token, as long as nothing is compressed on the way.
pub(super) fn logits(pass: &mut Pass<'_>, tokens: &[u32], cache: &mut RaggedCache) -> Result<Vec<f32>, EvalError> {
    let mut all = Vec::new();
    let Some((_, fed)) = tokens.split_last() else { return Ok(all) };
    for chunk in fed.chunks(CHUNK_TOKENS) {
        all.extend(pass.forward(chunk, cache.n_seen(), cache, LogitRows::All).map_err(RuntimeError::from)?);
    }
    Ok(all)
}

/// One predicted token.
struct Point {
    difference: Difference,
    nll: f64,
    full_nll: f64,
}

/// Compares the distributions after every token that was fed; `tokens` as for [`logits`].
///
/// - Unit: `kl_*` and `nll*` in nats, `top1_agreement` a share, `perplexity_ratio` of compressed to full
///
/// - Errors: a measurement that is no finite number
pub(super) fn compare(
    tokens: &[u32],
    vocab_size: usize,
    full: &[f32],
    compressed: &[f32],
) -> Result<BTreeMap<String, f64>, EvalError> {
    let points: Vec<Point> = full
        .par_chunks(vocab_size)
        .zip(compressed.par_chunks(vocab_size))
        .zip(&tokens[1.min(tokens.len())..])
        .map(|((p, q), next)| {
            let nll = |logits: &[f32]| log_sum_exp(logits) - f64::from(logits[*next as usize]);
            Point { difference: Difference::of(p, q), nll: nll(q), full_nll: nll(p) }
        })
        .collect();
    let average = |f: &dyn Fn(&Point) -> f64| mean(points.iter().map(f));
    let [p50, p90, p99, max] = quantiles(points.iter().map(|point| point.difference.kl), [0.5, 0.9, 0.99, 1.0])
        .map_or([None; 4], |all| all.map(Some));
    let (nll, full_nll) = (average(&|point| point.nll), average(&|point| point.full_nll));
    let measured = [
        ("kl", average(&|point| point.difference.kl)),
        ("kl_p50", p50),
        ("kl_p90", p90),
        ("kl_p99", p99),
        ("kl_max", max),
        ("top1_agreement", average(&|point| f64::from(u8::from(point.difference.same_top)))),
        ("nll", nll),
        ("perplexity_ratio", nll.zip(full_nll).map(|(nll, full)| (nll - full).exp())),
    ];
    let known = measured.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known
        .map(
            |(metric, value)| {
                if value.is_finite() { Ok((metric.to_string(), value)) } else { Err(EvalError::NotFinite(metric)) }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_predictions_by_hand() {
        let row = |p: [f32; 2]| p.map(f32::ln);
        let full = [row([0.5, 0.5]), row([0.75, 0.25])].concat();
        let compressed = [row([0.25, 0.75]), row([0.75, 0.25])].concat();
        let found = compare(&[0, 1, 0], 2, &full, &compressed).unwrap();
        let kl = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((found["kl"] - kl / 2.0).abs() < 1e-6, "{found:?}");
        assert!((found["kl_max"] - kl).abs() < 1e-6 && (found["kl_p50"] - kl / 2.0).abs() < 1e-6);
        // The first of equal logits counts: 0 against 1, then 0 against 0.
        assert_eq!(found["top1_agreement"], 0.5);
        assert!((found["nll"] + (0.75f64.ln() + 0.75f64.ln()) / 2.0).abs() < 1e-6);
        assert!((found["perplexity_ratio"] - (0.5f64 / 0.75).sqrt()).abs() < 1e-6);
        assert!(compare(&[], 2, &[], &[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_number_is_no_measurement() {
        // The second token's logit falls by a thousand nats: e^1000 is beyond every number.
        let broken = compare(&[0, 1], 2, &[0.0, 0.0], &[1000.0, 0.0]);
        assert!(matches!(broken, Err(EvalError::NotFinite("perplexity_ratio"))), "{broken:?}");
        let broken = compare(&[0, 1], 2, &[0.0, 0.0], &[f32::NAN, 0.0]);
        assert!(matches!(broken, Err(EvalError::NotFinite("kl"))), "{broken:?}");
    }
}
