//! Attention from a repetition of the prompt.

use serde::{Deserialize, Serialize};

use crate::policy::score::Score;
use crate::policy::{HeadView, Needs, Part, part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "repetition",
    summary: "largest attention from the model's repetition of the prompt, which sees the first tokens, its own chunk and itself; sinks=4 tokens stay",
    source: "Kim et al. 2025, arXiv 2505.23416",
    build: |params| part(params.read::<Repetition>()?, |repetition| Box::new(repetition)),
};

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Repetition {
    /// First tokens that stay.
    sinks: usize,
}

impl Default for Repetition {
    fn default() -> Self {
        Self { sinks: 4 }
    }
}

impl Score for Repetition {
    fn needs(&self) -> Needs {
        Needs { repetition: true, ..Needs::default() }
    }

    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        let mut worth = view.repetition.to_vec();
        let sinks = self.sinks.min(worth.len());
        worth[..sinks].fill(f32::INFINITY);
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn sinks_stay_whatever_they_received() {
        let repetition = [0.1, 0.3, 0.2];
        let view = HeadView { repetition: &repetition, ..HeadView::new(Rows::new(&[0.0; 3], 1)) };
        assert_eq!(Repetition { sinks: 1 }.worth(&view, 2), [f32::INFINITY, 0.3, 0.2]);
    }
}
