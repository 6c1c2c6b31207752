//! How far back a layer with a sliding window keeps what it has seen.

/// Of `n_tokens` that a layer has seen, how many its whole cache holds: the last `window` of them; all without a window.
pub fn reach(window: Option<usize>, n_tokens: usize) -> usize {
    window.map_or(n_tokens, |window| window.min(n_tokens))
}
