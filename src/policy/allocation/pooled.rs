//! Slots go to the tokens that are worth most, whatever head they are in.

use crate::merge::heaviest;
use crate::policy::allocation::Claim;
use crate::policy::{Params, PolicyError};

/// Refuses a safeguard that is no share.
pub(super) fn check(safeguard: f64, params: &Params) -> Result<(), PolicyError> {
    if (0.0..=1.0).contains(&safeguard) {
        return Ok(());
    }
    Err(params.bad(format!("safeguard is a share in [0, 1], not {safeguard}")))
}

/// Sizes when the heads' slots compete for the sum of what is given; `safeguard` is the share of its own that each head keeps.
///
/// - Cost: O(N log N) for N slots
pub(super) fn sizes(heads: &[Claim], safeguard: f64) -> Vec<usize> {
    let total: usize = heads.iter().map(|head| head.given.min(head.worth.len())).sum();
    let mut sizes: Vec<usize> =
        heads.iter().map(|head| ((head.given as f64 * safeguard) as usize).clamp(1, head.worth.len())).collect();
    let (mut owners, mut contested) = (Vec::new(), Vec::new());
    for (i, head) in heads.iter().enumerate() {
        for token in &heaviest(&head.worth, head.worth.len())[sizes[i]..] {
            owners.push(i);
            contested.push(head.worth[*token as usize]);
        }
    }
    for place in heaviest(&contested, total.saturating_sub(sizes.iter().sum())) {
        sizes[owners[place as usize]] += 1;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_tokens_win_slots_for_their_heads_by_hand() {
        let head = |worth: &[f32]| Claim { layer: 0, given: 2, worth: worth.to_vec() };
        let heads = [head(&[9.0, 1.0, 8.0, 7.0]), head(&[0.5, 0.25, 6.0, 0.1])];
        // Four slots. One each is safe (9 and 6); 8 and 7 win the others.
        assert_eq!(sizes(&heads, 0.5), [3, 1]);
        // Two each are safe: nothing is left to win.
        assert_eq!(sizes(&heads, 1.0), [2, 2]);
        assert_eq!(sizes(&heads, 0.0), [3, 1]);
    }
}
