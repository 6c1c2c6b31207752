//! Numbers that look random and are always the same.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `n` numbers in (-1, 1).
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| random.random_range(-1f32..1.0)).collect()
}
