//! What a budget is a share of.

use crate::files::ModelIdentity;
use crate::format::profile::SLOTS;
use crate::math::Float;
use crate::merge::Refit;
use crate::policy::{Policy, SlotExtras, SlotLayout};

/// What a budget is a share of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BudgetUnit {
    /// Of the slots of a full cache.
    #[default]
    Slots,
    /// Of its bytes, with keys and values of that type.
    Bytes(Float),
}

impl BudgetUnit {
    /// All units, the default first.
    pub const ALL: [Self; 4] =
        [Self::Slots, Self::Bytes(Float::F16), Self::Bytes(Float::Bf16), Self::Bytes(Float::F32)];

    /// Name on the command line and in profiles.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slots => SLOTS,
            Self::Bytes(element) => element.name(),
        }
    }

    /// What slots weigh in this unit.
    pub(super) fn weights(self, model: &ModelIdentity, settings: &[Box<dyn Policy>], refit: Option<Refit>) -> Weights {
        let Self::Bytes(element) = self else { return Weights { full: 1, slots: vec![1; settings.len()] } };
        let bytes = |extras| SlotLayout { element, head_dim: model.head_dim, extras }.bytes();
        let slots = settings.iter().map(|policy| bytes(policy.slot_extras().with(refit)));
        Weights { full: bytes(SlotExtras::default()), slots: slots.collect() }
    }
}

/// What a slot weighs, as a token's of the full cache and under every setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Weights {
    pub full: usize,
    pub slots: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy;

    #[test]
    fn slots_of_an_uneven_model_by_hand() {
        let model = ModelIdentity::toy(1, 1, 1, 48);
        let settings: Vec<Box<dyn Policy>> =
            ["h2o", "kvmerger:variant=paper", "kvmerger", "evict"].map(|spec| policy::parse(spec).unwrap().1).into();
        let weights = |unit: BudgetUnit, refit| unit.weights(&model, &settings, refit);
        assert_eq!(weights(BudgetUnit::Slots, None), Weights { full: 1, slots: vec![1; 4] });
        // 2 · 48 numbers of 2 bytes and a position; counts of 2 bytes where tokens are folded, a bias of 4 bytes.
        assert_eq!(
            weights(BudgetUnit::Bytes(Float::F16), None),
            Weights { full: 196, slots: vec![196, 198, 202, 196] }
        );
        let refit = Some(Refit::default());
        assert_eq!(
            weights(BudgetUnit::Bytes(Float::F32), refit),
            Weights { full: 388, slots: vec![392, 394, 394, 392] }
        );
    }
}
