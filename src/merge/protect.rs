//! Which tokens are never merged (KVMerger section 3: recent and heavy-hitter tokens).

use serde::{Deserialize, Serialize};

use crate::math::{falling, falls};

/// Shares of the tokens seen that are protected.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// Share of the tokens, counted from the end, that is protected as recent; in [0, 1].
    pub recent: f64,
    /// Share of the tokens that is protected for its attention mass; in [0, 1].
    pub heavy: f64,
}

impl Shares {
    /// The paper's shares at its two budgets (17 % and 12 % at 50 % kept, 8 % and 2 % at 35 %).
    ///
    /// Between them the shares are interpolated, below they fall in proportion to the budget, above they stay; the
    /// paper states the two budgets only.
    pub fn of_paper(kept_fraction: f64) -> Self {
        let (low, high) = (Self { recent: 0.08, heavy: 0.02 }, Self { recent: 0.17, heavy: 0.12 });
        if kept_fraction >= 0.5 {
            high
        } else if kept_fraction >= 0.35 {
            let t = (kept_fraction - 0.35) / 0.15;
            Self {
                recent: low.recent + t * (high.recent - low.recent),
                heavy: low.heavy + t * (high.heavy - low.heavy),
            }
        } else {
            let t = (kept_fraction / 0.35).max(0.0);
            Self { recent: low.recent * t, heavy: low.heavy * t }
        }
    }

    /// Numbers of recent and heavy tokens among `n_tokens`, rounded to the nearest.
    pub fn counts(&self, n_tokens: usize) -> (usize, usize) {
        let n = n_tokens as f64;
        let recent = ((n * self.recent).round() as usize).min(n_tokens);
        (recent, ((n * self.heavy).round() as usize).min(n_tokens - recent))
    }
}

/// Which slots KVMerger leaves alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Protection {
    /// Share of the tokens seen that is protected as recent; `None` for the paper's.
    pub recent: Option<f64>,
    /// Share of the tokens seen that is protected for its worth; `None` for the paper's.
    pub heavy: Option<f64>,
    /// Whether runs of neighbours go on across protected tokens.
    pub bridge: bool,
}

impl Protection {
    /// The shares, those that are open from `paper`.
    pub fn or(self, paper: Shares) -> Shares {
        Shares { recent: self.recent.unwrap_or(paper.recent), heavy: self.heavy.unwrap_or(paper.heavy) }
    }
}

/// Marks the last `n_recent` tokens and, of the rest, the `n_heavy` of largest worth.
///
/// - Shape: mass `[T]` → `[T]`
/// - Cost:  O(T log T)
/// - Source: arXiv 2407.08454 section 3.2. Differs: no; ties go to the lower position.
pub fn protect(mass: &[f32], n_recent: usize, n_heavy: usize) -> Vec<bool> {
    let n = mass.len();
    let first_recent = n.saturating_sub(n_recent);
    let mut protected = vec![false; n];
    protected[first_recent..].fill(true);
    for token in heaviest(&mass[..first_recent], n_heavy) {
        protected[token as usize] = true;
    }
    protected
}

/// The most heavy tokens, up to `n_heavy`, that leave a budget within reach: each of them cuts a chain, and what is not
/// protected needs a slot for every chain.
///
/// `n_slots` are the slots for all but the recent tokens. With `bridge` chains run on across protected tokens.
///
/// - Shape: mass `[T]` of the tokens that are not recent
/// - Cost:  O(T log T)
///
/// ```
/// // Token 2 in the middle would leave two chains beside itself, 3 slots; token 0 at the edge leaves one.
/// assert_eq!(kvscope::merge::heavy_within(&[0.1, 0.2, 9.0, 0.1], 1, 2, false), 0);
/// assert_eq!(kvscope::merge::heavy_within(&[9.0, 0.2, 0.1, 0.1], 1, 2, false), 1);
/// assert_eq!(kvscope::merge::heavy_within(&[0.1, 0.2, 9.0, 0.1], 1, 2, true), 1);
/// ```
pub fn heavy_within(mass: &[f32], n_heavy: usize, n_slots: usize, bridge: bool) -> usize {
    let mut taken = vec![false; mass.len()];
    let is_free = |taken: &[bool], i: Option<usize>| i.and_then(|i| taken.get(i)).is_some_and(|taken| !taken);
    let (mut n_chains, mut most) = (usize::from(!mass.is_empty()), 0);
    for (rank, token) in heaviest(mass, n_heavy).into_iter().enumerate() {
        let token = token as usize;
        taken[token] = true;
        let beside = usize::from(is_free(&taken, token.checked_sub(1))) + usize::from(is_free(&taken, Some(token + 1)));
        n_chains = if bridge { usize::from(rank + 1 < mass.len()) } else { n_chains + beside - 1 };
        if rank + 1 + n_chains <= n_slots {
            most = rank + 1;
        }
    }
    most
}

/// Indices of the `n` largest values, in falling order of value; ties go to the lower index.
///
/// ```
/// assert_eq!(kvscope::merge::heaviest(&[0.5, 2.0, 0.5, 1.0], 3), [1, 3, 0]);
/// ```
pub fn heaviest(values: &[f32], n: usize) -> Vec<u32> {
    if n >= values.len() {
        return falling(values);
    }
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.select_nth_unstable_by(n, falls(values));
    order.truncate(n);
    order.sort_unstable_by(falls(values));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_tokens_do_not_use_up_the_heavy_ones() {
        // The heaviest token is recent already; the heavy place goes to the best of the others.
        let mass = [0.1, 0.7, 0.2, 0.2, 9.0];
        assert_eq!(protect(&mass, 1, 2), [false, true, true, false, true]);
        assert_eq!(protect(&mass, 0, 1), [false, false, false, false, true]);
        assert_eq!(protect(&mass, 9, 9), [true; 5]);
        assert_eq!(protect(&[], 1, 1), [false; 0]);
    }

    #[test]
    fn shares_of_the_paper_at_and_between_its_budgets() {
        assert_eq!(Shares::of_paper(0.5), Shares { recent: 0.17, heavy: 0.12 });
        assert_eq!(Shares::of_paper(0.35), Shares { recent: 0.08, heavy: 0.02 });
        assert!((Shares::of_paper(0.425).heavy - 0.07).abs() < 1e-12);
        assert!((Shares::of_paper(0.175).recent - 0.04).abs() < 1e-12);
        // 17 % of 7 is 1.19, 12 % is 0.84.
        assert_eq!(Shares::of_paper(0.5).counts(7), (1, 1));
    }
}
