//! A compressed cache beside the full one, on the same tokens.

use crate::format::generation::Divergence;
use crate::math::argmax;
use crate::math::kl_divergence;
use crate::math::mean;
use crate::math::quantile_sorted;
use crate::model::LogitRows;
use crate::model::Model;
use crate::runtime::RaggedCache;
use crate::runtime::RuntimeError;
use crate::runtime::generate::forward;
use crate::runtime::generate::prefill;

/// Feeds `continuation` after `prompt` to both caches and compares every next-token distribution.
///
/// The first distribution is the one after the prompt, where a cache that is compressed as the prompt ends does not
/// differ yet; it is left out.
pub fn compare(
    model: &Model,
    prompt: &[u32],
    continuation: &[u32],
    full: &mut RaggedCache,
    compressed: &mut RaggedCache,
    chunk_tokens: usize,
) -> Result<Divergence, RuntimeError> {
    prefill(model, prompt, full, chunk_tokens)?;
    prefill(model, prompt, compressed, chunk_tokens)?;
    let mut kl = Vec::new();
    let mut agree = 0usize;
    for (i, token) in continuation.iter().enumerate() {
        let position = prompt.len() + i;
        if position >= model.config().max_positions {
            break;
        }
        let p = forward(model, &[*token], position, full, LogitRows::Last)?;
        let q = forward(model, &[*token], position, compressed, LogitRows::Last)?;
        kl.push(kl_divergence(&p, &q));
        agree += usize::from(argmax(&p) == argmax(&q));
    }
    let mut sorted: Vec<f32> = kl.iter().map(|x| *x as f32).collect();
    sorted.sort_by(f32::total_cmp);
    Ok(Divergence {
        n_tokens: kl.len(),
        mean_kl: mean(&kl),
        p95_kl: quantile_sorted(&sorted, 0.95),
        top1_agreement: (!kl.is_empty()).then(|| agree as f64 / kl.len() as f64),
        kl,
    })
}
