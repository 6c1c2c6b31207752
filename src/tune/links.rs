//! A head's neighbour similarities in one sample: all that a threshold's effect on its size depends on.

use crate::merge::Shares;
use crate::merge::links;
use crate::merge::protect;

/// The links of one head in one sample.
#[derive(Clone, Debug)]
pub(super) struct HeadLinks {
    /// Tokens T.
    n_tokens: usize,
    /// Similarities of the links, falling; links without a defined one are left out.
    falling: Vec<f32>,
}

impl HeadLinks {
    /// From keys `[T, D]` and mass `[T]`.
    pub(super) fn new(keys: &[f32], head_dim: usize, mass: &[f32], shares: Shares, bridge: bool) -> Self {
        let (n_recent, n_heavy) = shares.counts(mass.len());
        let protected = protect(mass, n_recent, n_heavy);
        let (_, found) = links(keys, head_dim, &protected, bridge);
        let mut falling: Vec<f32> = found.iter().map(|link| link.similarity).filter(|s| !s.is_nan()).collect();
        falling.sort_unstable_by(|a, b| b.total_cmp(a));
        Self { n_tokens: mass.len(), falling }
    }

    /// Similarities, falling.
    pub(super) fn falling(&self) -> &[f32] {
        &self.falling
    }

    /// Tokens T.
    pub(super) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Slots kept per token when neighbours above `eps` are joined.
    pub(super) fn kept_fraction(&self, eps: f32) -> f64 {
        let joined = self.falling.partition_point(|similarity| *similarity > eps);
        1.0 - joined as f64 / self.n_tokens as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_falls_with_eps() {
        // Unit keys at 0°, 10°, 40° and 41°, no token protected: cosines of 10°, 30° and 1°.
        let keys: Vec<f32> =
            [0f32, 10.0, 40.0, 41.0].iter().flat_map(|a| [a.to_radians().cos(), a.to_radians().sin()]).collect();
        let head = HeadLinks::new(&keys, 2, &[1.0; 4], Shares { recent: 0.0, heavy: 0.0 }, false);
        assert_eq!(head.kept_fraction(0.9999), 1.0);
        assert_eq!(head.kept_fraction(0.99), 0.75);
        assert_eq!(head.kept_fraction(0.9), 0.5);
        assert_eq!(head.kept_fraction(-1.0), 0.25);
    }
}
