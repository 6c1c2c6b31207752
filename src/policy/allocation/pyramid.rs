//! Much for the first layers, little for the last ones.

use serde::{Deserialize, Serialize};

use crate::policy::Part;
use crate::policy::allocation::{Allocation, Claim, Scope};
use crate::policy::part;

pub(super) const PART: Part<dyn Allocation> = Part {
    name: "pyramid",
    summary: "sizes fall from layer to layer, the last one's being a 20th of the mean (beta=)",
    source: "Cai et al. 2024, arXiv 2406.02069",
    build: |params| {
        let pyramid: Pyramid = params.read()?;
        if !(pyramid.beta >= 1.0 && pyramid.beta.is_finite()) {
            return Err(params.bad(format!("beta is at least 1, not {}", pyramid.beta)));
        }
        part(pyramid, |pyramid| Box::new(pyramid))
    },
};

#[derive(Debug, Serialize, Deserialize)]
struct Pyramid {
    beta: f64,
}

impl Default for Pyramid {
    fn default() -> Self {
        Self { beta: 20.0 }
    }
}

impl Allocation for Pyramid {
    /// Of the whole model, so that the sum is exact whichever layers take part.
    fn scope(&self) -> Scope {
        Scope::Model
    }

    /// On a straight line from the first layer to the last one. Where the first ones hold fewer tokens, the line is less steep.
    fn sizes(&self, heads: &[Claim]) -> Vec<usize> {
        let layers: Vec<&[Claim]> = heads.chunk_by(|a, b| a.layer == b.layer).collect();
        let most = heads.iter().map(|head| head.worth.len()).min().unwrap_or(0) as f64;
        let mean = heads.iter().map(|head| head.given).sum::<usize>() as f64 / heads.len().max(1) as f64;
        // Down to one slot.
        let drop = (mean - mean / self.beta).min(most - mean).min(mean - 1.0).max(0.0);
        let steps = (layers.len().max(2) - 1) as f64;
        let share = |layer: usize| mean + drop * (1.0 - 2.0 * layer as f64 / steps);
        let total: usize = heads.iter().map(|head| head.given.min(head.worth.len())).sum();
        // Sums are rounded, so that no head's rounding adds to another's.
        let (mut sum, mut sizes) = (0.0, Vec::with_capacity(heads.len()));
        for (layer, of_layer) in layers.iter().enumerate() {
            for head in *of_layer {
                let before: f64 = sum;
                sum += if layers.len() == 1 { mean } else { share(layer) };
                let end = if sizes.len() + 1 == heads.len() { total as f64 } else { sum.round() };
                sizes.push(((end - before.round()) as usize).clamp(1, head.worth.len()));
            }
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_on_a_line_by_hand() {
        let heads =
            |n: usize| (0..6).map(|i| Claim { layer: i / 2, given: 5, worth: vec![0.0; n] }).collect::<Vec<_>>();
        // Mean 5, the last layer's 5 / 5 = 1, the first one's 9.
        assert_eq!(Pyramid { beta: 5.0 }.sizes(&heads(20)), [9, 9, 5, 5, 1, 1]);
        // Seven tokens hold no 9: two less at the top, two more at the bottom.
        assert_eq!(Pyramid { beta: 5.0 }.sizes(&heads(7)), [7, 7, 5, 5, 3, 3]);
        assert_eq!(Pyramid { beta: 1.0 }.sizes(&heads(20)), [5; 6]);
    }
}
