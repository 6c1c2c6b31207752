//! What becomes of the tokens that do not stay. Adding a fold is a file and a line in [`FOLDS`].

mod cam;
mod drop;
mod keep;
mod massfold;
mod nearest;
mod pivots;
mod sets;

use std::fmt::Debug;

use crate::merge::{HeadPlan, MergeError};
use crate::policy::{HeadView, Needs, Part, SlotExtras};

/// Plans a head once its tokens have a worth and its size is known.
pub trait Fold: Debug + Send + Sync {
    /// What has to be recorded during prefill, beside what the score needs.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether thresholds of its own decide the size, and a budget is ignored.
    fn sets_own_size(&self) -> bool {
        false
    }

    /// Whether it is meant to change anything.
    fn compresses(&self) -> bool {
        true
    }

    /// Whether anything of what does not stay enters what stays.
    fn folds(&self) -> bool {
        false
    }

    /// What its plans may store of a slot beside key, value and position.
    fn slot_extras(&self) -> SlotExtras {
        SlotExtras::default()
    }

    /// Plans a head of `budget_tokens` slots, at least 1 and below T unless it sets its own size.
    ///
    /// - Shape: worth `[T]`
    fn plan(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Result<HeadPlan, MergeError>;

    /// Which tokens such a plan leaves alone whatever they are like, `[T]`; `None` of folds that protect none, and of plans that fail.
    fn protected(&self, _view: &HeadView<'_>, _worth: &[f32], _budget_tokens: usize) -> Option<Vec<bool>> {
        None
    }
}

/// Every fold, by name.
pub const FOLDS: &[Part<dyn Fold>] =
    &[cam::PART, drop::PART, keep::PART, massfold::PART, nearest::PART, pivots::PART, sets::PART];
