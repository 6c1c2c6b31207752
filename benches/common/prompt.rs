//! Prompts.

/// The engines' prompt; `benches/peers/peer.py` has the same rule.
pub fn prompt(n_tokens: usize) -> Vec<u32> {
    (0..n_tokens as u32).map(|i| (i * 7919 + 13) % 49_000 + 100).collect()
}
