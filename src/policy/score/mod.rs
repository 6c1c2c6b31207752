//! What a token is worth. Adding a score is a file and a line in [`SCORES`].

mod expected_attention;
mod key_difference;
mod leave_one_out;
mod mass;
mod queries;
mod random;
mod recency;
mod window;

use std::fmt::Debug;

use crate::merge::Sampling;
use crate::policy::{HeadView, Needs, Params, Part, PolicyError};

/// Says what every slot of a head is worth.
pub trait Score: Debug + Send + Sync {
    /// What has to be recorded during prefill.
    fn needs(&self) -> Needs {
        Needs::default()
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
    leave_one_out::PART,
    mass::PART,
    queries::PART,
    random::PART,
    recency::PART,
    window::PART,
];

/// The sample of queries that a score looks at.
fn read_sampling(params: &mut Params) -> Result<Sampling, PolicyError> {
    let sampling: Sampling = params.read()?;
    if sampling.queries == 0 { Err(params.bad("queries is at least 1")) } else { Ok(sampling) }
}
