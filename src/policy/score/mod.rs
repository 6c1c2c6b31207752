//! What a token is worth. Adding a score is a file and a line in [`SCORES`].

mod key_difference;
mod mass;
mod random;
mod recency;
mod window;

use std::fmt::Debug;

use crate::policy::{HeadView, Needs, Part};

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
pub const SCORES: &[Part<dyn Score>] = &[key_difference::PART, mass::PART, random::PART, recency::PART, window::PART];
