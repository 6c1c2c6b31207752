//! What a token is worth. Adding a score is a file and a line in [`SCORES`].

mod beside;
mod expected_attention;
mod key_difference;
mod learned;
mod leave_one_out;
mod mass;
mod pursuit;
mod queries;
mod random;
mod recency;
mod repetition;
mod window;

pub(super) use beside::beside;
pub(super) use learned::{LEARNED, WEIGHTS};

use std::fmt::Debug;

use crate::merge::Sampling;
use crate::policy::{HeadView, Needs, Params, Part, PolicyError};

/// Says what every slot of a head is worth.
pub trait Score: Debug + Send + Sync {
    /// What has to be recorded during prefill.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether it says something else at another budget.
    fn depends_on_budget(&self) -> bool {
        false
    }

    /// Worth of every slot, `[T]`: more is kept before less, infinity in any case; of equals the earlier one.
    ///
    /// `budget_tokens` is what the head may keep before budgets are shared out among heads; at least 1 and below T.
    fn worth(&self, view: &HeadView<'_>, budget_tokens: usize) -> Vec<f32>;
}

/// Every score, by name.
pub const SCORES: &[Part<dyn Score>] = &[
    expected_attention::PART,
    key_difference::PART,
    learned::PART,
    leave_one_out::PART,
    mass::PART,
    pursuit::PART,
    queries::PART,
    random::PART,
    recency::PART,
    repetition::PART,
    window::PART,
];

/// The sample of queries that a score looks at.
fn read_sampling(params: &mut Params) -> Result<Sampling, PolicyError> {
    let sampling: Sampling = params.read()?;
    if sampling.queries == 0 { Err(params.bad("queries is at least 1")) } else { Ok(sampling) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn a_score_says_whether_it_depends_on_the_budget() {
        let x: Vec<f32> = (0..200).map(|i| ((i * 37 + 11) % 29) as f32 / 29.0).collect();
        let (rows, mass) = (Rows::new(&x, 2), &x[..100]);
        let view =
            HeadView { values: rows, queries: rows, mass, mass_window: mass, repetition: mass, ..HeadView::new(rows) };
        for part in SCORES {
            let score = match (part.build)(&mut Params::parse("test", "").unwrap()) {
                Ok((score, _)) => score,
                Err(error) => {
                    assert!(part.name == LEARNED && matches!(error, PolicyError::NoWeights { .. }), "{error}");
                    continue;
                }
            };
            let differs = (1..100).any(|budget| score.worth(&view, budget) != score.worth(&view, 50));
            assert_eq!(differs, score.depends_on_budget(), "{}", part.name);
        }
    }
}
