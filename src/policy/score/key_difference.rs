//! How unlike a token's key is to the mean direction of all keys.

use serde::{Deserialize, Serialize};

use crate::math::{axpy, cosine, dot, unit_factor};
use crate::policy::score::Score;
use crate::policy::{HeadView, Part, part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "key-difference",
    summary: "the less the key points where keys point on average the better; needs no attention",
    source: "Park et al. 2025, arXiv 2504.15364",
    build: |params| part(params.read::<KeyDifference>()?, |score| Box::new(score)),
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct KeyDifference {}

impl Score for KeyDifference {
    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        let mut direction = vec![0f32; view.keys.width()];
        for key in view.keys.iter() {
            axpy(unit_factor(dot(key, key)).unwrap_or(0.0), key, &mut direction);
        }
        // A key without direction is like none.
        view.keys.iter().map(|key| -cosine(key, &direction).unwrap_or(0.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn the_odd_key_out_is_worth_most_by_hand() {
        // Directions (1, 0), (1, 0), (0, 1), and none: their sum is (2, 1).
        let keys = [3.0, 0.0, 1.0, 0.0, 0.0, 7.0, 0.0, 0.0];
        let worth = KeyDifference {}.worth(&HeadView::new(Rows::new(&keys, 2)), 2);
        let root = 5f32.sqrt();
        for (found, expected) in worth.iter().zip([-2.0 / root, -2.0 / root, -1.0 / root, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{worth:?}");
        }
    }
}
