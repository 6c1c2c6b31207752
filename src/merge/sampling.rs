//! Which queries stand for those to come.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::math::Rope;

/// Where queries come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From the prompt: its own queries, turned to positions behind it.
    #[default]
    Prompt,
    /// From a replay: the model is asked to repeat the prompt and reads it once more, behind itself. It costs a second pass
    /// over the prompt (KVzip, arXiv 2505.23416; Attention Matching, arXiv 2602.16284).
    Replay,
    /// From the prompt, each turned to all positions of the span at once: the mean of its turns. Means and covariances of such
    /// queries are those of queries that stand anywhere in the span, as Expected Attention has them (arXiv 2510.00636).
    #[serde(skip)]
    Average,
}

/// A seeded sample of the queries of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampling {
    /// Where they come from.
    pub from: Origin,
    /// Query rows per KV head, all query heads of the group together; at least 1.
    pub queries: usize,
    /// Positions behind the prompt that its own queries are spread over.
    pub span: usize,
    /// Seed of the sample.
    pub seed: u64,
    /// First tokens whose queries stand for none: attention sinks have queries of their own kind.
    #[serde(skip)]
    pub skip: usize,
}

impl Sampling {
    /// All queries of a prompt but those of the first `skip` tokens, turned to `span` positions behind it on average.
    pub fn average(span: usize, skip: usize) -> Self {
        Self { from: Origin::Average, queries: usize::MAX, span, seed: 0, skip }
    }

    /// Turns a token's queries `[group, D]`, which stand `behind` positions before the end of the prompt, to where they are to
    /// stand. Those of a replay are there.
    pub(crate) fn turn(&self, rope: &Rope, queries: &mut [f32], behind: usize, ahead: usize) {
        match self.from {
            Origin::Prompt => rope.turn(queries, (behind + ahead) as f32),
            Origin::Average => rope.turn_on_average(queries, behind as f32, self.span),
            Origin::Replay => {}
        }
    }

    /// Draws tokens of `n`, as many as give the rows for a KV head that `group` query heads read: their places, rising, and how
    /// many positions behind the last token each is to stand.
    pub fn draw(&self, group: usize, n: usize, stream: u64) -> Vec<(usize, usize)> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(stream);
        let n_drawn = self.queries.div_ceil(group).min(n);
        let mut places = rand::seq::index::sample(&mut random, n, n_drawn).into_vec();
        places.sort_unstable();
        let mut ahead = || (random.random::<f32>() * self.span as f32) as usize;
        places.into_iter().map(|place| (place, ahead())).collect()
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { from: Origin::Prompt, queries: 768, span: 512, seed: 0, skip: 0 }
    }
}
