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

    /// On a straight line from the first layer to the last one, in parts of what each head is given. Where some hold fewer tokens
    /// than that, the line is less steep.
    fn sizes(&self, heads: &[Claim]) -> Vec<usize> {
        let layers: Vec<&[Claim]> = heads.chunk_by(|a, b| a.layer == b.layer).collect();
        let over_heads = |of: fn(f64, f64) -> f64| {
            heads.iter().map(|head| of(head.given as f64, head.worth.len() as f64)).fold(f64::INFINITY, f64::min)
        };
        // Down to one slot, and up to all.
        let room = over_heads(|given, n_slots| n_slots / given - 1.0);
        let drop = (1.0 - 1.0 / self.beta).min(room).min(over_heads(|given, _| 1.0 - 1.0 / given)).max(0.0);
        let steps = (layers.len().max(2) - 1) as f64;
        let part = |layer: usize| if layers.len() == 1 { 1.0 } else { 1.0 + drop * (1.0 - 2.0 * layer as f64 / steps) };
        let parts = layers.iter().enumerate().flat_map(|(layer, heads)| heads.iter().map(move |head| (layer, head)));
        let wanted: Vec<f64> = parts.map(|(layer, head)| part(layer) * head.given as f64).collect();
        let total: usize = heads.iter().map(|head| head.given.min(head.worth.len())).sum();
        // Where layers are given different numbers, more may come together above the middle of the line than below it.
        let factor = total as f64 / wanted.iter().sum::<f64>();
        // Sums are rounded, so that no head's rounding adds to another's.
        let (mut sum, mut sizes) = (0.0, Vec::with_capacity(heads.len()));
        for (head, wanted) in heads.iter().zip(wanted) {
            let before: f64 = sum;
            sum += factor * wanted;
            let end = if sizes.len() + 1 == heads.len() { total as f64 } else { sum.round() };
            sizes.push(((end - before.round()) as usize).clamp(1, head.worth.len()));
        }
        // What a head cannot hold goes to the first ones that can.
        let mut left = total.saturating_sub(sizes.iter().sum());
        for (size, head) in sizes.iter_mut().zip(heads) {
            let more = left.min(head.worth.len() - *size);
            (*size, left) = (*size + more, left - more);
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

    #[test]
    fn layers_with_a_window_keep_to_the_line_in_proportion() {
        // Half of 8, 40 and 8: the line from 1.8 to 0.2 of that gives 7.2, 20 and 0.8 of 28 in all.
        let heads = [(0, 4), (1, 20), (2, 4)].map(|(layer, given)| Claim { layer, given, worth: vec![0.0; 2 * given] });
        assert_eq!(Pyramid { beta: 5.0 }.sizes(&heads), [7, 20, 1]);
    }
}
