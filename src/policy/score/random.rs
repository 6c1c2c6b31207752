//! Chance, but for the recent tokens: the control that any score must beat.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::merge::Shares;
use crate::policy::score::Score;
use crate::policy::{HeadView, Part, part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "random",
    summary: "chance (seed=), but for KVMerger's share of recent tokens",
    source: "a control, not a published method",
    build: |params| part(params.read::<Random>()?, |random| Box::new(random)),
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Random {
    seed: u64,
}

impl Score for Random {
    fn depends_on_budget(&self) -> bool {
        true
    }

    fn worth(&self, view: &HeadView<'_>, budget_tokens: usize) -> Vec<f32> {
        let n = view.n_slots();
        let (recent, _) = Shares::of_paper(budget_tokens as f64 / view.n_seen as f64).counts(view.n_seen);
        let n_older = n - recent.clamp(1, budget_tokens);
        let mut order: Vec<usize> = (0..n_older).collect();
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(view.random_stream());
        order.shuffle(&mut random);
        let mut worth = vec![f32::INFINITY; n];
        for (rank, token) in order.into_iter().enumerate() {
            worth[token] = -(rank as f32);
        }
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn the_older_tokens_take_every_rank_once() {
        // Of 7 tokens 5 may stay: 17 % are one recent token.
        let worth = Random::default().worth(&HeadView::new(Rows::new(&[0.0; 7], 1)), 5);
        assert_eq!(worth[6], f32::INFINITY);
        let mut ranks = worth[..6].to_vec();
        ranks.sort_by(f32::total_cmp);
        assert_eq!(ranks, [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0]);
        assert_ne!(worth, Random { seed: 1 }.worth(&HeadView::new(Rows::new(&[0.0; 7], 1)), 5));
    }
}
