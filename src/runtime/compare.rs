//! A compressed cache beside the full one, on the same tokens.

use crate::format::generation::Divergence;
use crate::math::{argmax, kl_divergence, mean, quantile};
use crate::model::{LogitRows, Model, Pass};
use crate::runtime::generate::prefill;
use crate::runtime::{RaggedCache, RuntimeError};

/// How far a next-token distribution lies from that of the full cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// KL(full ‖ compressed), in nats.
    pub kl: f64,
    /// Whether the most likely token is the same.
    pub same_top: bool,
}

impl Difference {
    /// From logits `[vocab]` of the full and of the compressed cache.
    pub fn of(full: &[f32], compressed: &[f32]) -> Self {
        Self { kl: kl_divergence(full, compressed), same_top: argmax(full) == argmax(compressed) }
    }
}

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
    let [mut full_pass, mut pass] = [Pass::new(model), Pass::new(model)];
    prefill(&mut full_pass, prompt, full, chunk_tokens)?;
    prefill(&mut pass, prompt, compressed, chunk_tokens)?;
    let mut kl = Vec::new();
    let mut agree = 0usize;
    for (i, token) in continuation.iter().enumerate() {
        let position = prompt.len() + i;
        if position >= model.config().max_positions {
            break;
        }
        let p = full_pass.forward(&[*token], position, full, LogitRows::Last)?;
        let q = pass.forward(&[*token], position, compressed, LogitRows::Last)?;
        let difference = Difference::of(&p, &q);
        kl.push(difference.kl);
        agree += usize::from(difference.same_top);
    }
    Ok(Divergence {
        n_tokens: kl.len(),
        mean_kl: mean(&kl),
        p95_kl: quantile(&kl, 0.95),
        top1_agreement: (!kl.is_empty()).then(|| agree as f64 / kl.len() as f64),
        kl,
    })
}
